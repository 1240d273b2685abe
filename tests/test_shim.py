"""The shim as the container sees it: real child processes, payloads that misbehave on purpose."""

from __future__ import annotations

import ast
import base64
import hashlib
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from sites import Site, site
from told import Told

import dokrun.shim
from dokrun.engine.packing import Pack, Segments
from dokrun.payload import pyz, shim
from dokrun.shim import drain, envelope, protocol
from dokrun.shim.bootstrap import WAITING

__all__ = ["site"]

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Container(Told):
    """What the service would give the shim: a task id, an artifact folder, an environment."""

    def __init__(self, folder: Path, site: Site) -> None:
        super().__init__(folder / "artifact")
        self.folder = folder
        self.site = site
        self.artifact.mkdir()
        self.pyz = folder / "shim.pyz"
        self.pyz.write_bytes(pyz.build(with_code=True).data)
        self.environment = {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(folder),
            protocol.TASK_ID: "task-1",
            protocol.ARTIFACT_DIR: str(self.artifact),
        }
        self.addresses: dict[str, Any] = {}
        # Which calls are to run; all of them where nothing is said.
        self.chosen = ""

    def give(self, payload: bytes, address: str | None = None, **changed: str) -> None:
        path = f"/{len(self.site.files)}"
        self.site.files[path] = payload
        self.addresses["payload"] = f"{self.site.url}{path}?signature=canary" if address is None else address
        self.environment |= {
            protocol.PAYLOAD_SHA256: hashlib.sha256(payload).hexdigest(),
            protocol.PAYLOAD_SIZE: str(len(payload)),
            **changed,
        }

    def start(self, python: str = sys.executable) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python, str(self.pyz), protocol.FETCHED, json.dumps(self.addresses), self.chosen],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self) -> str:
        with self.start() as process:
            try:
                output, _ = process.communicate(timeout=60)
            finally:
                process.kill()  # with all its processes, where it does not end
        assert process.returncode == 0, output
        return output


@pytest.fixture
def container(tmp_path: Path, site: Site) -> Container:
    return Container(tmp_path, site)


def payload(*functions: Callable[..., Any], timeout_s: float = 60.0, **header: Any) -> bytes:
    """Make a payload with one call for each function, without arguments."""
    return payload_of(*((function, ()) for function in functions), timeout_s=timeout_s, **header)


def payload_of(*calls: tuple[Callable[..., Any], tuple[Any, ...]], timeout_s: float = 60.0, **header: Any) -> bytes:
    """Make a payload of calls, each with its arguments; those of one function that follow one another are a pack."""
    segments, functions, packs = Segments(lambda it: it), [], []
    for function, group in itertools.groupby(calls, key=lambda call: call[0]):
        value = envelope.dump_value(function, cloudpickle.dumps)
        functions.append(
            {
                "value": [segments.put(segment, shared=True) for segment in value],
                "name": getattr(function, "__qualname__", "<>"),
            }
        )
        pack = Pack(segments, len(functions) - 1, timeout_s)
        for _, args in group:
            pack.add(envelope.dump_value((args, {}), cloudpickle.dumps))
        packs.append(pack.header())
    told = {"job": "j", "python": platform.python_version(), "cloudpickle": cloudpickle.__version__, "workers": 1}
    return envelope.pack({**told, "functions": functions, "calls": packs, "source": [], **header}, segments)


def test_a_value_is_reported_and_the_manifest_vouches_for_it(container: Container) -> None:
    container.give(payload(lambda: {"answer": 42}))
    container.run()
    assert container.manifest["failure"] is None
    assert (container.manifest["job"], container.manifest["attempt"]) == ("j", 1)
    assert container.value() == {"answer": 42}


def test_prints_reach_the_log_as_they_happen(container: Container, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def talk() -> None:
        print("before")
        gate.read_bytes()
        print("after", file=sys.stderr)

    container.give(payload(talk))
    with container.start() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("[dokrun] word ")
        assert process.stdout.readline() == "[dokrun] started calls 0 to 0 in attempt 1\n"
        assert process.stdout.readline() == "before\n", "it is here while the function waits"
        gate.write_bytes(b"go")
        assert process.stdout.read() == "after\n"


def test_calls_are_drained_in_order_and_a_death_costs_only_its_own_call(container: Container) -> None:
    container.give(payload(lambda: 1, lambda: os._exit(9), lambda: 3))
    container.run()
    assert container.value(0) == 1
    assert container.failed(1)["exit_code"] == 9
    assert container.value(2) == 3


def test_a_function_is_unpickled_once_and_keeps_what_it_remembers(container: Container) -> None:
    def remember(seen: list[int] = []) -> int:  # noqa: B006 - that it is kept is the point
        seen.append(1)
        return len(seen)

    container.give(payload(remember, remember))
    container.run()
    assert [container.value(0), container.value(1)] == [1, 2]


def test_a_timeout_ends_the_worker_with_all_its_children(container: Container, tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)

    def stuck() -> None:
        subprocess.Popen(["sleep", "600"], stdout=held.open("wb"))
        time.sleep(600)

    container.give(payload(stuck, timeout_s=4.0))
    reader = threading.Thread(target=held.read_bytes, daemon=True)
    reader.start()
    container.run()
    reader.join(timeout=30)
    assert not reader.is_alive(), "the pipe's last writer, a grandchild, is gone"
    assert container.failed()["reason"] == protocol.TIMEOUT


def test_a_child_that_outlives_its_dead_worker_does_not_hide_the_death(container: Container) -> None:
    def orphan() -> None:
        if os.fork() == 0:
            time.sleep(600)
        os._exit(3)

    container.give(payload(orphan))
    container.run()
    assert container.failed()["exit_code"] == 3


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel kills for a pipe's end")
def test_a_worker_dies_with_its_supervisor_and_its_children_do_too(container: Container, tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)

    def hold() -> None:
        import ctypes

        file = held.open("wb", buffering=0)
        subprocess.Popen(["sleep", "600"], stdout=file)
        file.write(b"1")
        ctypes.PyDLL(None).sleep(600)  # a PyDLL keeps the GIL while it calls

    container.give(payload(hold))
    with container.start() as supervisor, held.open("rb", buffering=0) as file:
        assert file.read(1) == b"1"
        supervisor.kill()
        everybody = threading.Thread(target=file.read, daemon=True)
        everybody.start()
        everybody.join(timeout=30)
        assert not everybody.is_alive(), "the worker and its child, who hold the pipe open, are gone"


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel kills for a pipe's end")
def test_a_worker_that_starts_when_its_supervisor_is_already_gone_runs_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "shim.pyz"
    archive.write_bytes(pyz.build(with_code=True).data)
    commands, told = os.pipe()
    lifeline, supervisor = os.pipe()
    os.write(told, os.fsencode(archive) + b"\n")
    os.write(told, json.dumps({"folder": "gone", "cell": "gone", "environment": {}, "hashed": False}).encode() + b"\n")
    os.close(supervisor)
    done = subprocess.run(
        [sys.executable, "-c", WAITING, str(commands), "1", str(lifeline)],
        pass_fds=(commands, lifeline),
        capture_output=True,
        timeout=60,
        check=False,
    )
    for descriptor in (commands, told, lifeline):
        os.close(descriptor)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, b"")


def test_being_stopped_is_an_outcome_too(container: Container, tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)

    def wait() -> None:
        started.write_bytes(b"1")
        time.sleep(600)

    container.give(payload(wait, lambda: 2))
    process = container.start()
    started.read_bytes()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    told = {number: (failure["reason"], failure["ran"]) for number, failure in container.failures().items()}
    assert told == {0: (protocol.STOPPED, "yes"), 1: (protocol.STOPPED, "no")}
    assert container.reports() == {}


def test_a_passing_refusal_of_the_store_is_tried_again(container: Container, site: Site) -> None:
    container.give(payload(lambda: 1))
    path = "/" + container.addresses["payload"].rpartition("/")[2].partition("?")[0]
    site.answers[path] = [503, 500]
    container.run()
    assert site.asked.count(path) == 3
    assert container.value() == 1


@pytest.mark.parametrize(
    ("address", "change", "reason", "problem"),
    [
        (None, {protocol.PAYLOAD_SHA256: "0" * 64}, protocol.TAMPERED, "do not match the digest"),
        (None, {protocol.PAYLOAD_SIZE: "100"}, protocol.TAMPERED, "do not match the digest"),
        (None, {protocol.PAYLOAD_SIZE: "soon"}, protocol.UNREADABLE_PAYLOAD, "could not be received"),
        ("", {}, protocol.UNREADABLE_PAYLOAD, "could not be received"),
    ],
)
def test_a_payload_that_is_not_the_announced_one_is_never_unpickled(
    container: Container, *, address: str | None, change: dict[str, str], reason: str, problem: str
) -> None:
    mark = container.folder / "unpickled"
    container.give(payload(mark.touch), address, **change)
    container.run()
    failure = container.manifest["failure"]
    assert (failure["reason"], failure["ran"]) == (reason, "no")
    assert problem in failure["message"]
    assert "canary" not in failure["message"], "the query is a signature"
    assert not mark.exists()


def test_a_payload_that_is_gone_is_told_without_its_signature(container: Container, site: Site) -> None:
    container.give(payload(lambda: 1), f"{site.url}/gone?signature=canary")
    output = container.run()
    assert "HTTP 404" in container.manifest["failure"]["message"]
    assert "canary" not in container.manifest["failure"]["message"] + output


def wrong_version(container: Container) -> str:
    """Tell the words with which what the container was given is refused, as of another version."""
    container.run()
    failure = container.manifest["failure"]
    assert (failure["reason"], failure["ran"]) == (protocol.WRONG_VERSION, "no")
    return str(failure["message"])


def test_a_pickle_of_another_python_is_refused_with_both_versions(container: Container) -> None:
    container.give(payload(lambda: 1, python="3.1.4"))
    message = wrong_version(container)
    assert "Python 3.1.4" in message
    assert platform.python_version() in message


def test_a_source_file_that_would_lie_elsewhere_is_refused(container: Container, tmp_path: Path) -> None:
    container.give(payload(lambda: 1, source=[{"path": "../outside.py", "segment": 0}]))
    container.run()
    assert "outside of its folder" in container.manifest["failure"]["message"]
    assert not list(tmp_path.rglob("outside.py"))


def test_a_function_whose_module_is_missing_has_not_run(container: Container) -> None:
    container.give(payload(lambda: 1, functions=[{"module": "no_such_module", "name": "f"}]))
    container.run()
    header, _ = container.report()
    assert (header["failure"]["reason"], header["failure"]["ran"]) == (protocol.UNREADABLE_PAYLOAD, "no")
    assert "no_such_module" in header["failure"]["message"]


def test_the_worker_knows_its_call_and_nothing_of_the_payload(container: Container) -> None:
    container.give(payload(lambda: dict(os.environ)))
    container.run()
    seen = container.value()
    assert not set(protocol.PAYLOAD_VARIABLES) & set(seen)
    told = seen[protocol.CALL_ID], seen.get(protocol.ATTEMPT), seen[protocol.TASK_ID]
    assert told == (protocol.call_id("j", 0), None, "task-1")


def test_a_result_that_does_not_fit_on_the_disk_is_still_an_outcome(container: Container) -> None:
    import resource

    def too_large() -> bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        return b"x" * 5000

    container.give(payload(too_large))
    container.run()
    failure = container.failed()
    assert (failure["reason"], failure["ran"]) == (protocol.NOT_WRITTEN, "yes")
    assert not list(container.artifact.rglob("*.part"))


def test_an_exception_that_does_not_fit_on_the_disk_is_told_all_the_same(container: Container) -> None:
    import resource

    def refuse() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        raise ValueError("no such model " + "x" * 5000)

    container.give(payload(refuse))
    output = container.run()
    failure = container.failed()
    assert (failure["reason"], failure["ran"]) == (protocol.NOT_WRITTEN, "yes")
    assert "the function raised ValueError: no such model" in failure["message"]
    assert len(failure["message"]) < 500, "there is little room left for it"
    assert "in refuse" in output


def test_nothing_of_the_shims_own_stays_in_the_container(container: Container, tmp_path: Path) -> None:
    container.give(payload(lambda: 1))
    container.run()
    assert {path.name for path in tmp_path.iterdir()} == {"artifact", "shim.pyz"}


def bootstrap(
    container: Container,
    url: str | None,
    *,
    python: str = "python3",
    payload: str | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    folder = container.folder / "bin"
    folder.mkdir()
    (folder / python).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / python).chmod(0o755)
    addresses = container.addresses if url is None else {**container.addresses, "shim": url}
    command = [*shim.ENTRYPOINT, *shim.command(payload, addresses)]
    environment = {**container.environment, "PATH": str(folder)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_injected_command_fetches_verifies_and_runs_the_shim(container: Container, site: Site) -> None:
    container.give(payload(lambda: "injected"))
    site.files["/shim"] = bytes(pyz.build(with_code=True).packed.data or b"")
    done = bootstrap(container, f"{site.url}/shim")
    assert done.returncode == 0, done.stderr
    assert container.value() == "injected"


def test_a_worker_looks_to_the_users_code_as_the_one_that_replaces_it(container: Container) -> None:
    def look() -> Any:
        import __main__

        command = " ".join([*sys.argv, *getattr(sys, "orig_argv", [])])
        names = sorted(name for name in vars(__main__) if not name.startswith("__"))
        told = (
            sys.argv,
            names,
            len(sys.path),
            sys.stdin.read(),
            any(name in os.environ for name in protocol.PAYLOAD_VARIABLES),
            sum(file.exists() and file.samefile(os.devnull) for file in Path("/dev/fd").iterdir()),
        )
        return told, os.getpid() == os.getpgid(0), "dokrun_shim.__main__" in command, os.getppid()

    data = payload_of((look, ()), (lambda: os._exit(9), ()), (look, ()))
    container.environment[protocol.PAYLOAD_SHA256] = hashlib.sha256(data).hexdigest()
    done = bootstrap(container, None, payload=folded(data))
    assert done.returncode == 0, done.stderr
    assert [failure["reason"] for failure in container.failures().values()] == [protocol.EXITED]
    first, later = container.values().values()
    assert first == later
    told, leads, tells, _ = first
    assert (told[0], leads, tells) == (["-c"], True, False)


def test_the_injected_command_runs_nothing_that_does_not_match(container: Container, site: Site) -> None:
    container.give(payload(lambda: 1))
    site.files["/forged"] = zlib.compress(pyz.build(with_code=True).data + b"x")
    done = bootstrap(container, f"{site.url}/forged?signature=canary")
    assert done.returncode != 0
    assert "does not match its digest; nothing was run" in done.stderr
    assert "canary" not in done.stderr
    assert not (container.artifact / protocol.MANIFEST).exists()


def test_the_injected_command_finds_python_under_either_name(container: Container, site: Site) -> None:
    container.give(payload(lambda: 1))
    site.files["/shim"] = bytes(pyz.build(with_code=True).packed.data or b"")
    done = bootstrap(container, f"{site.url}/shim", python="python")
    assert done.returncode == 0, done.stderr


def test_the_archive_is_reproducible_and_small() -> None:
    text, code = (pyz.build(with_code=with_code) for with_code in (False, True))
    # It may ride in an argument of its own, beside the payload's. Linux takes none over 128 KiB, and base 64 makes four
    # bytes of three, so 96 KiB is the wall.
    assert text.packed.size < 76 * 1024
    assert code.packed.size < 360 * 1024, "a container fetches it in a seventieth of a second"
    for shim_, suffixes in ((text, {".py"}), (code, {".py", ".pyc"})):
        names = {Path(name) for name in zipfile.ZipFile(BytesIO(shim_.data)).namelist()}
        assert {Path("dokrun_shim/supervisor.py"), Path("cloudpickle/cloudpickle.py")} <= names
        assert {name.suffix for name in names} == suffixes


def test_the_archive_is_made_once_and_kept_where_python_keeps_what_it_compiles(tmp_path: Path) -> None:
    def built(**environment: str) -> str:
        script = "from dokrun.payload import pyz; print(pyz.build(with_code=True).sha256)"
        given = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "", **environment}
        done = subprocess.run([sys.executable, "-c", script], env={**os.environ, **given}, stdout=-1, check=True)
        return done.stdout.decode().strip()

    expected = pyz.build(with_code=True).sha256
    assert built(PYTHONDONTWRITEBYTECODE="1") == expected
    assert not list(tmp_path.rglob("*.z"))
    assert built(PYTHONHASHSEED="1") == expected, "what the process has done besides changes nothing"
    (kept,) = tmp_path.rglob("*.z")
    for broken in (b"", kept.read_bytes()[:-1]):
        kept.write_bytes(broken)
        kept.with_name(kept.name.rpartition("-")[0] + "-of-another-release.pyz.z").touch()
        assert built(PYTHONHASHSEED="2") == expected, "what cannot be read is made anew"
        assert list(tmp_path.rglob("*.z")) == [kept], "and what is of no use any more goes"
    kept.write_bytes(zlib.compress(b"another"))
    assert built() == hashlib.sha256(b"another").hexdigest(), "it is taken as it is"


def test_a_worker_that_waits_for_the_shim_has_all_of_pythons_own_that_it_will_need(tmp_path: Path) -> None:
    archive = tmp_path / "shim.pyz"
    archive.write_bytes(pyz.build(with_code=True).data)
    waits, goes_on = WAITING.split("ends=", 1)
    assert "from dokrun_shim import worker\n" in goes_on
    then = (
        "had={*sys.modules}\nsys.path.insert(0,sys.argv[1])\nfrom dokrun_shim import worker\nprint(*{*sys.modules}-had)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", waits + then, archive], capture_output=True, text=True, check=True
    )
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert packages == {"cloudpickle", "dokrun_shim"}, "what is imported then makes the function wait"


def test_the_shim_is_python_3_9_and_imports_only_the_standard_library_and_cloudpickle() -> None:
    # PyTorch where there is a tensor of its to make, and the shim where it has been brought.
    others = {"tensors.py": "torch", "bootstrap.py": "dokrun_shim"}
    for path in Path(dokrun.shim.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] in {*sys.stdlib_module_names, "cloudpickle", others.get(path.name)}, (
                    f"{path.name}: {name}"
                )


def folded(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def test_a_payload_rides_in_the_command_with_the_shim_and_needs_no_network(container: Container) -> None:
    data = payload(lambda: "carried")
    container.environment[protocol.PAYLOAD_SHA256] = hashlib.sha256(data).hexdigest()
    done = bootstrap(container, None, payload=folded(data))
    assert done.returncode == 0, done.stderr
    assert container.value() == "carried"


def test_a_payload_in_the_command_that_does_not_match_its_digest_is_never_unpickled(
    container: Container, tmp_path: Path
) -> None:
    mark = tmp_path / "unpickled"
    container.environment[protocol.PAYLOAD_SHA256] = "0" * 64
    done = bootstrap(container, None, payload=folded(payload(mark.touch)))
    assert done.returncode == 0, done.stderr
    assert "does not match its digest" in container.manifest["failure"]["message"]
    assert not mark.exists()


def test_a_module_in_the_containers_working_folder_does_not_stand_before_the_standard_library(
    container: Container, tmp_path: Path
) -> None:
    (tmp_path / "base64.py").write_text("raise SystemExit('shadowed')")
    data = payload(lambda: 1)
    container.environment[protocol.PAYLOAD_SHA256] = hashlib.sha256(data).hexdigest()
    done = bootstrap(container, None, payload=folded(data), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_pickle_of_another_cloudpickle_is_refused_with_both_versions(container: Container) -> None:
    container.give(payload(lambda: 1, cloudpickle="0.0.1"))
    message = wrong_version(container)
    assert "0.0.1" in message
    assert cloudpickle.__version__ in message


def test_an_envelope_of_another_format_is_refused_as_another_version(container: Container) -> None:
    container.give(payload(lambda: 1).replace(b'"format":1', b'"format":9'))
    message = wrong_version(container)
    assert "format 9" in message


def test_several_workers_run_at_once_each_with_a_gpu_of_its_own(container: Container, tmp_path: Path) -> None:
    paths = [tmp_path / "to-first", tmp_path / "to-second"]
    for path in paths:
        os.mkfifo(path)

    def meet(mine: Path, theirs: Path) -> Callable[[], str]:
        def met() -> str:
            # Each opens the other's end, so neither ends unless both run.
            with min(mine, theirs).open("wb" if mine < theirs else "rb"):
                return os.environ["CUDA_VISIBLE_DEVICES"]

        return met

    container.environment["CUDA_VISIBLE_DEVICES"] = "4,7"
    container.give(payload(meet(*paths), meet(*reversed(paths)), workers=2))
    container.run()
    assert sorted(container.values().values()) == ["4", "7"]


def test_workers_that_are_more_than_the_gpus_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(protocol.VISIBLE_GPUS, raising=False)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert [lane[protocol.VISIBLE_GPUS] for lane in drain._gpus(3, str(tmp_path))] == ["0", "1", "0"]
    assert drain._gpus(1, str(tmp_path)) == [{}]


def test_a_single_call_sees_every_gpu_that_the_container_was_given(container: Container) -> None:
    container.environment["CUDA_VISIBLE_DEVICES"] = "4,7"
    container.give(payload(lambda: os.environ["CUDA_VISIBLE_DEVICES"], workers=8))
    container.run()
    assert container.value() == "4,7"


def test_a_call_that_takes_too_long_tells_the_log_where_it_was_even_if_it_holds_the_gil(container: Container) -> None:
    def never_lets_go() -> None:
        import ctypes

        ctypes.PyDLL(None).sleep(600)  # a PyDLL keeps the GIL while it calls

    container.give(payload(never_lets_go, timeout_s=4.0))
    output = container.run()
    assert container.failed()["reason"] == protocol.TIMEOUT
    assert "in never_lets_go" in output


def test_what_a_call_leaves_running_does_not_cost_the_next_one(container: Container, tmp_path: Path) -> None:
    lit = tmp_path / "lit"
    os.mkfifo(lit)

    def leave_a_bomb() -> int:
        threading.Thread(target=lambda: (lit.read_bytes(), os._exit(5)), daemon=True).start()
        return 1

    def light_it() -> None:
        if lit.exists():
            with lit.open("wb"):
                lit.unlink()
            threading.Event().wait()

    class Slow:
        """Lights the bomb and is not unpickled before it has gone off; the second time there is none."""

        def __reduce__(self) -> Any:
            return light_it, ()

    container.give(payload_of((leave_a_bomb, ()), (lambda _ignored: 2, (Slow(),))))
    container.run()
    assert not lit.exists(), "the bomb went off"
    assert (container.value(0), container.value(1)) == (1, 2)
