"""A container's start, and what it fetches: until the claim is taken every trouble means another task, or none."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attempts import Attempt, job_of, main_process
from clocks import ManualClock
from proxied import Use, faulty, starts, tasks, use
from storefaults import FaultyStore, StoreFault, expired
from waiting import wait_for

import dokrun as dok
from dokrun import engine, keys
from dokrun.bucket import Bucket
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.faults import Fault
from dokrun.errors import CallFailed, Tampered, TaskFailed, VersionMismatch
from dokrun.payload import pyz, shim
from dokrun.shim import fetch, protocol

__all__ = ["faulty", "use"]

SHIM = f"*/blobs/{pyz.build(with_code=True).packed.sha256}"
PAYLOAD = "*/payload"
STAGINGS = 3


# With a secret in it, even a small payload goes into the bucket.
@dok.remote(plan="v100-32gb", secrets={"S": "1"}, timeout=60)
def run_with(folder: Path, data: Any = b"") -> int:
    (folder / f"started-{dok.current().task_id}").touch()
    return len(data)


def claim(future: dok.Future[Any], faulty: FaultyStore, number: int = 1) -> bytes | None:
    return Bucket(faulty.settings).read(keys.claim(job_of(future), number))


# One fetch.


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(StoreFault("refuse"), id="cell_fetch_rf"),
        pytest.param(StoreFault("hang", method="GET"), id="cell_fetch_t0"),
        pytest.param(StoreFault("hang", method="GET", phase="after"), id="cell_fetch_t1"),
        pytest.param(StoreFault("reset", method="GET"), id="reset"),
        pytest.param(StoreFault("status", method="GET", status=429), id="cell_fetch_5x-429"),
        pytest.param(StoreFault("status", method="GET", status=503), id="cell_fetch_5x-503"),
        pytest.param(StoreFault("cut", method="GET", at_byte=50_000), id="cell_fetch_mb-cut"),
        pytest.param(StoreFault("garbage", method="GET"), id="cell_fetch_mb-garbage"),
        pytest.param(StoreFault("drip", method="GET", at_byte=0, every_s=0.1), id="cell_fetch_sb"),
        pytest.param(StoreFault("twice", method="GET"), id="cell_fetch_du"),
    ],
)
@pytest.mark.parametrize("announced", [True, False], ids=["file", "table"])
def test_a_fetch_that_meets(faulty: FaultyStore, tmp_path: Path, fault: StoreFault, *, announced: bool) -> None:
    data, key = os.urandom(100_000), f"tests/{keys.new_id()}"
    bucket = Bucket(faulty.settings)
    bucket.put(key, data)
    bucket.close()
    faulty.add(fault)
    path = tmp_path / "file"
    if announced:
        fetch.fetch(bucket.address(key), str(path), hashlib.sha256(data).hexdigest(), len(data), timeout_s=0.3)
    else:
        path.write_bytes(fetch.read(bucket.address(key), timeout_s=0.3))
    assert path.read_bytes() == data
    assert [it.what for it in faulty.injected] == [fault.what]


def test_a_store_that_nobody_can_reach_is_told_as_such_and_the_claim_is_left_alone(
    tmp_path: Path, faulty: FaultyStore
) -> None:
    attempt = Attempt(tmp_path, faulty, lambda: 1)
    with faulty.closed():
        container = attempt.container()
        assert container.end() == 0
    assert (container.failure["reason"], container.failure["ran"]) == (protocol.NOT_FETCHED, "no")
    assert "Connection refused" in container.failure["message"]
    assert attempt.claim is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"python": "3.1.4"}, id="cell_fetch_vm-python"),
        pytest.param({"cloudpickle": "0.0.1"}, id="cell_fetch_vm-cloudpickle"),
    ],
)
def test_what_another_version_has_pickled_is_not_opened_and_the_claim_is_left_alone(
    tmp_path: Path, faulty: FaultyStore, change: dict[str, str]
) -> None:
    attempt = Attempt(tmp_path, faulty, (tmp_path / "started").touch, **change)  # type: ignore[arg-type]  # of the header
    container = attempt.container()
    assert container.end() == 0
    assert faulty.asked("GET", PAYLOAD), "it was fetched"
    assert (container.failure["reason"], container.failure["ran"]) == (protocol.WRONG_VERSION, "no")
    assert attempt.claim is None
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("table", [b"no JSON", b"\xff", b"[1]", b"7"])
def test_cell_fetch_to_a_table_of_addresses_that_is_none_leads_to_nothing(
    tmp_path: Path, faulty: FaultyStore, table: bytes
) -> None:
    attempt = Attempt(tmp_path, faulty, (tmp_path / "started").touch)
    key = keys.addresses(attempt.job_id, 1)
    attempt.bucket.put(key, table)
    attempt.addresses = {"addresses": attempt.bucket.address(key)}
    container = attempt.container()
    assert container.end() == 0
    assert faulty.asked("GET", "*/addresses")
    assert (container.failure["reason"], container.failure["ran"]) == (protocol.NOT_FETCHED, "no")
    assert attempt.claim is None
    assert not (tmp_path / "started").exists()


# The start of a container: it fetches the shim.


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(StoreFault("refuse"), id="cell_start_rf"),
        pytest.param(StoreFault("hang", path=SHIM), id="cell_start_t0"),
        pytest.param(StoreFault("hang", path=SHIM, phase="after"), id="cell_start_t1"),
        pytest.param(StoreFault("status", path=SHIM, status=429), id="cell_start_5x-429"),
        pytest.param(StoreFault("status", path=SHIM, status=500), id="cell_start_5x-500"),
        pytest.param(StoreFault("cut", path=SHIM, at_byte=1000), id="cell_start_mb-cut"),
        pytest.param(StoreFault("garbage", path=SHIM), id="cell_start_mb-garbage"),
        pytest.param(StoreFault("drip", path=SHIM, at_byte=0, every_s=0.1), id="cell_start_sb"),
    ],
)
def test_a_container_whose_start_meets(tmp_path: Path, faulty: FaultyStore, fault: StoreFault) -> None:
    attempt = Attempt(tmp_path, faulty, (tmp_path / "started").touch)
    packed = pyz.build(with_code=True).packed
    attempt.bucket.put_once(keys.blob(packed.sha256), packed.data or b"", packed.sha256)
    attempt.addresses["shim"] = attempt.bucket.address(keys.blob(packed.sha256))
    attempt.bucket.close()
    faulty.add(fault)
    command = [*shim.ENTRYPOINT, *shim.command(None, attempt.addresses, patience_s=0.5)]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)  # the image's Python is of the client's version
    told = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        protocol.TASK_ID: "task-1",
        protocol.ARTIFACT_DIR: str(tmp_path / "artifact"),
    }
    done = subprocess.run(command, env=attempt.environment | told, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [it.what for it in faulty.injected] == [fault.what]
    assert (tmp_path / "started").exists()


# Through the whole road: what comes to its end before the claim is staged again, without `retries`.


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(expired(PAYLOAD), id="cell_fetch_ue"),
        pytest.param(expired("*/blobs/OBJECT"), id="cell_fetch_ue-object"),
        pytest.param(expired(SHIM, method="GET"), id="shim-expired"),
        pytest.param(StoreFault("status", path=PAYLOAD, method="GET", status=404), id="gone"),
    ],
)
def test_an_address_that_no_longer_leads_anywhere_is_made_anew(
    use: Use, dok: Emulator, faulty: FaultyStore, tmp_path: Path, fault: StoreFault
) -> None:
    use(dok)
    before = tasks(dok)
    data = np.frombuffer(os.urandom(2 << 20), np.uint8)
    path = fault.path.replace("OBJECT", hashlib.sha256(data.tobytes()).hexdigest())
    faulty.add(StoreFault(fault.what, "GET", path, status=fault.status, code=fault.code))
    assert run_with(tmp_path, data).result(timeout=60) == len(data)
    assert len(faulty.injected) == 1
    assert len(tasks(dok).keys() - before.keys()) == 2
    assert starts(tmp_path) == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param(PAYLOAD, "ExpiredToken", id="cell_fetch_ce"),
        pytest.param(PAYLOAD, "RequestTimeTooSkewed", id="cell_fetch_sk"),
        pytest.param(SHIM, "ExpiredToken", id="cell_start_ce"),
    ],
)
def test_what_the_store_refuses_again_and_again_fails_after_three_tasks_and_did_not_run(
    use: Use, dok: Emulator, faulty: FaultyStore, tmp_path: Path, *, path: str, code: str
) -> None:
    use(dok)
    before = tasks(dok)
    faulty.add(expired(path, method="GET", occurrence=None))
    error = run_with.options(retries=2)(tmp_path).exception(timeout=60)
    assert isinstance(error, CallFailed)
    assert error.ran == "no"
    assert len(faulty.injected) == len(tasks(dok).keys() - before.keys()) == STAGINGS
    assert starts(tmp_path) == 0
    assert faulty.url.removeprefix("http://") not in str(error.__cause__)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(StoreFault("tamper", "GET", PAYLOAD, None), Tampered, id="cell_fetch_to"),
        pytest.param(StoreFault("tamper", "GET", "*/blobs/OBJECT", None), Tampered, id="cell_fetch_to-object"),
        pytest.param(StoreFault("tamper", "GET", SHIM, None), TaskFailed, id="cell_start_to"),
    ],
)
def test_what_was_tampered_with_is_never_opened(
    use: Use, dok: Emulator, faulty: FaultyStore, tmp_path: Path, *, fault: StoreFault, kind: type[CallFailed]
) -> None:
    use(dok)
    data = np.frombuffer(os.urandom(2 << 20), np.uint8)
    path = fault.path.replace("OBJECT", hashlib.sha256(data.tobytes()).hexdigest())
    faulty.add(StoreFault("tamper", "GET", path, None, at_byte=-100))
    future = run_with(tmp_path, data)
    error = future.exception(timeout=60)
    assert isinstance(error, kind)
    assert error.ran == "no"
    assert faulty.injected
    assert starts(tmp_path) == 0


@pytest.mark.parametrize(
    ("blocks", "path"),
    [pytest.param(8, SHIM, id="cell_start_df"), pytest.param(3000, PAYLOAD, id="cell_fetch_df")],
)
def test_a_container_whose_disk_is_full_before_the_function_starts_did_not_run_it(
    use: Use, faulty: FaultyStore, tmp_path: Path, *, blocks: int, path: str
) -> None:
    small = tmp_path / "python-on-a-small-disk"
    small.write_text(f'#!/bin/sh\nulimit -f {blocks}\nexec {sys.executable} "$@"\n')
    small.chmod(0o755)
    with Emulator(behaviour=Behaviour(python=str(small))) as emulator:
        use(emulator)
        error = run_with(tmp_path, [os.urandom(900_000), os.urandom(900_000)]).exception(timeout=60)
        assert isinstance(error, CallFailed)
        log = "\n".join(error.log)
        assert "File too large" in str(error) + log
        assert error.ran == "no"
        assert faulty.asked("GET", path), "it was fetched"
        assert len(tasks(emulator)) == STAGINGS
        assert starts(tmp_path) == 0
        engine.reset()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize("path", [pytest.param(SHIM, id="cell_start_oo"), pytest.param(PAYLOAD, id="cell_fetch_oo")])
def test_a_container_that_the_kernel_kills_before_the_function_starts_did_not_run_it(
    use: Use, dok: Emulator, faulty: FaultyStore, tmp_path: Path, path: str
) -> None:
    use(dok)
    faulty.add(StoreFault("hang", "GET", path, None))
    future = run_with(tmp_path)
    for number in range(STAGINGS):
        faulty.wait_for("hang", number + 1)
        os.kill(main_process(job_of(future)), signal.SIGKILL)
    error = future.exception(timeout=60)
    assert isinstance(error, TaskFailed)
    assert (error.ran, "exit status 137" in str(error)) == ("no", True)
    assert starts(tmp_path) == 0


@pytest.mark.parametrize("path", [pytest.param(SHIM, id="cell_start_tl"), pytest.param(PAYLOAD, id="cell_fetch_tl")])
def test_a_time_limit_that_ends_a_container_before_the_function_starts_did_not_run_it(
    use: Use, faulty: FaultyStore, tmp_path: Path, path: str
) -> None:
    clock = ManualClock()
    with Emulator(clock=clock) as emulator:
        use(emulator)
        faulty.add(StoreFault("hang", "GET", path, None))
        future = run_with(tmp_path)
        for number in range(STAGINGS):
            faulty.wait_for("hang", number + 1)
            (limit_s,) = {task.execution_time_limit_sec for task in tasks(emulator).values()}
            assert limit_s is not None
            clock.wait_for_sleeper(limit_s)
            clock.pass_time(limit_s)
        error = future.exception(timeout=60)
        assert isinstance(error, TaskFailed)
        assert (error.ran, error.status) == ("no", "aborted")
        assert starts(tmp_path) == 0
        engine.reset()


def test_cell_fetch_cx_a_call_that_is_cancelled_while_its_container_fetches_does_not_run(
    use: Use, dok: Emulator, faulty: FaultyStore, tmp_path: Path
) -> None:
    use(dok)
    faulty.add(StoreFault("hang", "GET", PAYLOAD, None))
    future = run_with(tmp_path)
    faulty.wait_for("hang")
    assert future.cancel()
    wait_for(lambda: tasks(dok)[str(future.task_id)].ended)
    assert tasks(dok)[str(future.task_id)].status == "canceled"
    assert future.cancelled()
    assert starts(tmp_path) == 0


def test_cell_start_cx_a_container_that_starts_though_it_was_cancelled_in_line_finds_the_claim_taken(
    use: Use, dok: Emulator, faulty: FaultyStore, tmp_path: Path
) -> None:
    use(dok)
    faulty.add(StoreFault("hold", "GET", PAYLOAD))
    first = run_with(tmp_path)
    faulty.wait_for("hold")
    second = run_with(tmp_path)
    wait_for(lambda: second.status == "waiting")
    rule = dok.faults.add(Fault("status", path="/tasks/*/cancel/", occurrence=None))
    second.cancel()
    wait_for(lambda: claim(second, faulty) is not None)
    faulty.let_go()
    assert first.result(timeout=60) == 0
    task_id = str(second.task_id)
    wait_for(lambda: tasks(dok)[task_id].ended)
    dok.faults.remove(rule)
    assert next(it.path for it in dok.faults.injected if it.rule == rule).endswith("/cancel/")
    assert tasks(dok)[task_id].containers[0].exit_code == protocol.CLAIM_LOST
    assert starts(tmp_path) == 1


def other_python() -> str | None:
    """Find an interpreter of another minor version that the shim can run on."""
    beside = Path(sys.base_prefix).parent.glob("3.*/bin/python3")
    for found in [*map(shutil.which, [f"python3.{minor}" for minor in range(9, 15)]), *map(str, beside)]:
        if found is None:
            continue
        told = subprocess.run([found, "-V"], capture_output=True, text=True, check=False).stdout
        version = re.match(r"Python 3\.(\d+)", told)
        if version and int(version[1]) >= 9 and int(version[1]) != sys.version_info.minor:
            return found
    return None


def test_cell_start_vm_an_image_with_another_python_opens_nothing_and_is_not_tried_again(
    use: Use, faulty: FaultyStore, tmp_path: Path
) -> None:
    python = other_python()
    if python is None:
        pytest.skip("this machine has no other Python")
    with Emulator(behaviour=Behaviour(python=python)) as emulator:
        use(emulator)
        future = run_with(tmp_path)
        error = future.exception(timeout=60)
        assert isinstance(error, VersionMismatch)
        assert error.ran == "no"
        assert len(tasks(emulator)) == 1
        assert claim(future, faulty) is None
        assert starts(tmp_path) == 0
        engine.reset()


SCRIPT = """
    import sys
    from pathlib import Path

    import dokrun as dok

    @dok.remote(plan="v100-32gb", secrets={"S": "1"})
    def run(folder):
        (folder / f"started-{dok.current().task_id}").touch()
        return 7

    future = run(Path(sys.argv[1]))
    print(future.handle, flush=True)
    future.result()
"""


@pytest.mark.parametrize("path", [pytest.param(SHIM, id="cell_start_k9"), pytest.param(PAYLOAD, id="cell_fetch_k9")])
def test_a_client_that_is_killed_while_the_container_starts_loses_nothing(
    use: Use, dok: Emulator, faulty: FaultyStore, tmp_path: Path, path: str
) -> None:
    use(dok)
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    faulty.add(StoreFault("hold", "GET", path))
    child = subprocess.Popen([sys.executable, tmp_path / "script.py", tmp_path], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    handle = child.stdout.readline().strip()
    faulty.wait_for("hold")
    child.kill()
    child.communicate(timeout=60)
    faulty.let_go()
    assert sys.modules["dokrun"].attach(handle).result(timeout=60) == 7
    assert starts(tmp_path) == 1
