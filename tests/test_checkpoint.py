"""What a function saves for its next attempt: when it is saved, what of it comes back, and what becomes of it."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from attempts import Attempt, job_of
from clocks import ManualClock
from proxied import Use, faulty, quick, starts, use
from storefaults import FaultyStore, StoreFault
from waiting import wait_for

import dokrun as dok
from dokrun import engine, keys
from dokrun.api import Client
from dokrun.bucket import Bucket
from dokrun.emulator import Emulator
from dokrun.errors import CallTimeout, ShimFailed, Tampered, WorkerDied
from dokrun.retry import Retry
from dokrun.shim import protocol
from dokrun.shim.checkpoint import Checkpoints, pack, restore, state_of

__all__ = ["faulty", "quick", "use"]

cloudpickle.register_pickle_by_value(sys.modules[__name__])

CHECKPOINTS = "*/checkpoints/*"
SAVED = re.compile(r"\[dokrun\] [0-9a-f]{16} saved checkpoint ([01]) ([0-9a-f]{64}) (\d+)")


@pytest.fixture
def bucket(faulty: FaultyStore) -> Iterator[Bucket]:
    bucket = Bucket(faulty.settings)
    yield bucket
    bucket.close()


# When it is saved.


def saved(attempt: Attempt, output: str) -> list[dict[str, str]]:
    """Tell what lies in the bucket of each checkpoint that the log announces, as far as it is still there."""
    found = []
    for slot, sha256, size in SAVED.findall(output):
        data = attempt.bucket.read(keys.checkpoint(attempt.job_id, attempt.number, int(slot)), 1 << 20)
        assert data is not None
        if hashlib.sha256(data).hexdigest() == sha256:
            assert len(data) == int(size)
            found.append(content(data))
    return found


def content(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as packed:
        files = {member.name: packed.extractfile(member) for member in packed}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


def save(name: str, text: str) -> None:
    aside = dok.checkpoint_dir().with_name(f"{name}.part")
    aside.write_text(text)
    aside.replace(dok.checkpoint_dir() / name)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def test_it_is_saved_every_so_often_in_two_places_by_turns(tmp_path: Path, faulty: FaultyStore, gate: Path) -> None:
    def train() -> None:
        for epoch in range(3):
            save("epoch", str(epoch))
            gate.read_bytes()

    attempt = Attempt(tmp_path, faulty, train)
    attempt.save_checkpoints()
    container = attempt.container()
    assert container.process.stdout is not None
    slots = []
    for epoch in range(3):
        line = next(line for line in container.process.stdout if SAVED.match(line))
        assert saved(attempt, line) == [{"epoch": str(epoch)}]
        slots += [slot for slot, _, _ in SAVED.findall(line)]
        gate.write_bytes(b"go")
    assert container.end() == 0
    assert slots == ["0", "1", "0"]
    asked = [(request.path[-2:], request.status) for request in faulty.asked("PUT", CHECKPOINTS)]
    assert asked == [("/0", 200), ("/1", 200), ("/0", 200)], "what has not changed is not saved again"


def sleep_for_ever() -> None:
    save("epoch", "1")
    time.sleep(600)


def save_and_die() -> None:
    save("epoch", "1")
    os.kill(os.getpid(), signal.SIGKILL)


def save_and_raise() -> None:
    save("epoch", "1")
    raise OSError("on purpose")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (sleep_for_ever, protocol.STOPPED),
        (save_and_die, protocol.DIED),
        (save_and_raise, ""),
        (sleep_for_ever, protocol.TIMEOUT),
    ],
    ids=["stopped", "killed", "raised", "too-long"],
)
def test_it_is_saved_at_the_end_of_an_attempt_that_failed(
    tmp_path: Path, faulty: FaultyStore, function: Callable[[], Any], reason: str
) -> None:
    # Too seldom for anything else to save it.
    header = {"checkpoint_s": 600.0, "timeout_s": 1.0 if reason == protocol.TIMEOUT else 60.0}
    attempt = Attempt(tmp_path, faulty, function, **header)  # type: ignore[arg-type]  # of the header
    attempt.save_checkpoints()
    container = attempt.container()
    if reason == protocol.STOPPED:
        assert container.process.stdout is not None
        assert any("started" in line for line in container.process.stdout)
        wait_for(lambda: list(tmp_path.rglob("checkpoint/epoch")))
        container.process.send_signal(signal.SIGTERM)
    assert container.end() == 0, container.output
    if reason:
        assert container.failed()["reason"] == reason
    else:
        assert container.report()[0]["kind"] == "exception"
    assert saved(attempt, container.output) == [{"epoch": "1"}]
    (announced,) = SAVED.findall(container.output)
    told = container.manifest["checkpoint"]
    assert (str(told["slot"]), told["sha256"], str(told["size"])) == announced


def test_an_attempt_that_went_well_saves_nothing_at_its_end(tmp_path: Path, faulty: FaultyStore) -> None:
    attempt = Attempt(tmp_path, faulty, lambda: save("epoch", "1"), checkpoint_s=600.0)
    attempt.save_checkpoints()
    container = attempt.container()
    assert container.end() == 0
    assert container.manifest["checkpoint"] is None
    assert not faulty.asked("PUT", CHECKPOINTS)


def test_without_a_next_attempt_there_is_a_folder_and_nothing_is_saved(tmp_path: Path, faulty: FaultyStore) -> None:
    container = Attempt(tmp_path, faulty, save_and_die).container()
    assert container.end() == 0
    assert container.failed()["signal"] == signal.SIGKILL
    assert not faulty.asked("PUT", CHECKPOINTS)


class Saver:
    """Saves a folder as an attempt's checkpoint, in this process."""

    def __init__(self, tmp_path: Path, faulty: FaultyStore) -> None:
        self.folder = tmp_path / "folder"
        self.folder.mkdir()
        self.attempt = Attempt(tmp_path, faulty, lambda: 1)
        self.attempt.save_checkpoints()
        put = self.attempt.addresses["checkpoint"]["put"]
        self.checkpoints = Checkpoints(str(self.folder), str(tmp_path), put, 600.0, "c" * 16)


@pytest.fixture
def saver(tmp_path: Path, faulty: FaultyStore) -> Saver:
    return Saver(tmp_path, faulty)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(StoreFault("refuse"), id="cell_write_rf"),
        pytest.param(StoreFault("reset", "PUT", CHECKPOINTS), id="cell_write_t0"),
        pytest.param(StoreFault("reset", "PUT", CHECKPOINTS, phase="after"), id="cell_write_t1"),
        pytest.param(StoreFault("status", "PUT", CHECKPOINTS, status=429), id="cell_write_5x-429"),
        pytest.param(StoreFault("status", "PUT", CHECKPOINTS, status=503, phase="after"), id="cell_write_5x-503"),
        pytest.param(StoreFault("garbage", "PUT", CHECKPOINTS), id="garbage"),
    ],
)
def test_the_writing_of_a_checkpoint_that_meets(saver: Saver, faulty: FaultyStore, fault: StoreFault) -> None:
    attempt = saver.attempt
    attempt.bucket.close()
    (saver.folder / "epoch").write_text("1")
    faulty.add(fault)
    saver.checkpoints.finish()
    assert [it.what for it in faulty.injected] == [fault.what]
    assert saver.checkpoints.last is not None
    data = attempt.bucket.read(keys.checkpoint(attempt.job_id, 1, 0), 1 << 20)
    assert data is not None
    assert content(data) == {"epoch": "1"}


def test_a_checkpoint_that_cannot_be_saved_leaves_the_last_one_in_its_place(
    saver: Saver, faulty: FaultyStore, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, checkpoints = saver.folder, saver.checkpoints
    (folder / "epoch").write_text("1")
    checkpoints.finish()
    first = checkpoints.last
    (folder / "epoch").write_text("two")
    faulty.add(StoreFault("status", "PUT", CHECKPOINTS, None, status=403, code="ExpiredToken"))
    checkpoints.finish()
    assert faulty.injected
    assert checkpoints.last == first
    output = capfd.readouterr()
    assert "a checkpoint could not be saved" in output.out
    assert "X-Amz" not in output.err + output.out
    assert saved(saver.attempt, output.out) == [{"epoch": "1"}]


def test_a_folder_that_changes_while_it_is_packed_waits_for_the_next_time(
    saver: Saver, faulty: FaultyStore, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, checkpoints = saver.folder, saver.checkpoints
    (folder / "first").write_text("1")
    looked_at = state_of(str(folder))
    (folder / "second").write_text("2")
    checkpoints._save(looked_at)
    assert not faulty.asked("PUT", CHECKPOINTS), "no half of anything is saved"
    checkpoints.finish()
    assert saved(saver.attempt, capfd.readouterr().out) == [{"first": "1", "second": "2"}]
    assert len(faulty.asked("PUT", CHECKPOINTS)) == 1


# What comes back.


def test_files_come_back_with_their_folders_and_permissions_and_no_links_do(tmp_path: Path, bucket: Bucket) -> None:
    folder, back = tmp_path / "folder", tmp_path / "back"
    (folder / "deep" / "er").mkdir(parents=True)
    back.mkdir()
    (folder / "deep" / "er" / "weights").write_bytes(b"w" * 100_000)
    (folder / "run.sh").write_text("#!/bin/sh")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "empty").write_bytes(b"")
    sha256, size = pack(str(folder), str(tmp_path / "packed.tar"))
    key = f"tests/{keys.new_id()}"
    bucket.put(key, (tmp_path / "packed.tar").read_bytes())
    restore(bucket.address(key), sha256, size, str(back), str(tmp_path))
    files = {path.relative_to(back).as_posix(): path.read_bytes() for path in back.rglob("*") if path.is_file()}
    assert files == {"deep/er/weights": b"w" * 100_000, "run.sh": b"#!/bin/sh", "empty": b""}
    assert (back / "run.sh").stat().st_mode & 0o111


@pytest.mark.parametrize("name", ["../outside", "/tmp/dokrun-outside", "a/../../outside"])
def test_no_file_comes_back_outside_of_the_folder(tmp_path: Path, bucket: Bucket, name: str) -> None:
    back = tmp_path / "deep" / "back"
    back.mkdir(parents=True)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member in (name, "inside"):
            entry = tarfile.TarInfo(member)
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"x"))
        link = tarfile.TarInfo("inside/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    key, data = f"tests/{keys.new_id()}", packed.getvalue()
    bucket.put(key, data)
    restore(bucket.address(key), hashlib.sha256(data).hexdigest(), len(data), str(back), str(tmp_path))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["inside"]
    assert not Path("/tmp/dokrun-outside").exists()


# Through the whole road.


@dok.remote(plan="v100-32gb", retries=2)
def resume(folder: Path, how: str) -> tuple[int, list[str]]:
    """Saves its attempt's number, and fails at the first attempt in the way that it is told."""
    attempt = dok.current().attempt
    before = sorted(path.name for path in dok.checkpoint_dir().iterdir())
    (folder / f"started-{attempt}").touch()
    if attempt > 1:
        return attempt, before
    save("epoch-1", "1")
    (folder / "saved").touch()
    if how == "raise":
        raise OSError("on purpose")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
    return attempt, before


def objects(faulty: FaultyStore, future: dok.Future[Any]) -> list[int]:
    """Tell which places for checkpoints of the first two attempts hold one."""
    bucket = Bucket(faulty.settings)
    places = [keys.checkpoint(job_of(future), attempt, slot) for attempt in (1, 2) for slot in (0, 1)]
    return [number for number, place in enumerate(places) if bucket.read(place, 1 << 20) is not None]


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_the_next_attempt_finds_what_the_last_has_saved_and_a_good_outcome_removes_it(
    quick: FaultyStore, tmp_path: Path, how: str
) -> None:
    future = resume.options(retries=Retry(1, on=OSError))(tmp_path, how)
    assert future.result(timeout=60) == (2, ["epoch-1"])
    assert starts(tmp_path) == 2
    assert quick.asked("PUT", CHECKPOINTS)
    engine.reset()
    assert objects(quick, future) == []


def test_a_call_that_takes_too_long_saves_too_but_is_not_tried_again(quick: FaultyStore, tmp_path: Path) -> None:
    future = resume.options(timeout=8)(tmp_path, "sleep")
    assert isinstance(future.exception(timeout=60), CallTimeout)
    engine.reset()
    assert objects(quick, future) == [0], "what a failed call has saved may be all that is left of it"


def test_of_a_container_whose_artifact_is_lost_the_last_checkpoint_in_the_log_is_used(use: Use, tmp_path: Path) -> None:
    clock = ManualClock()
    with Emulator(clock=clock) as emulator:
        use(emulator)
        future = resume.options(timeout=60)(tmp_path, "sleep")
        wait_for((tmp_path / "saved").exists)
        with Client(emulator.token, emulator.secret, base_url=emulator.api_url) as client:
            task = client.tasks.get(str(future.task_id))
            assert task.execution_time_limit_sec is not None
            clock.wait_for_sleeper(task.execution_time_limit_sec)
            clock.pass_time(task.execution_time_limit_sec)
            assert future.result(timeout=60) == (2, ["epoch-1"])
            first = client.tasks.get(task.id)
        assert (first.status, first.artifact) == ("aborted", None)
        assert starts(tmp_path) == 2
        engine.reset()


def test_a_checkpoint_that_was_tampered_with_is_refused_and_the_function_not_started(
    quick: FaultyStore, tmp_path: Path
) -> None:
    quick.add(StoreFault("tamper", "GET", CHECKPOINTS, None, at_byte=600))
    error = resume(tmp_path, "kill").exception(timeout=60)
    assert [it.what for it in quick.injected] == ["tamper"]
    assert isinstance(error, Tampered)
    assert (error.ran, error.attempt, starts(tmp_path)) == ("yes", 2, 1), "the first attempt ran, the second did not"


def test_a_checkpoint_of_another_job_in_its_place_is_refused(quick: FaultyStore, tmp_path: Path) -> None:
    quick.add(StoreFault("hold", "GET", CHECKPOINTS))
    future = resume(tmp_path, "kill")
    quick.wait_for("hold")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w"):
        pass
    Bucket(quick.settings).put(keys.checkpoint(job_of(future), 1, 0), packed.getvalue())
    quick.let_go()
    error = future.exception(timeout=60)
    assert isinstance(error, Tampered | ShimFailed)
    assert (error.attempt, starts(tmp_path)) == (2, 1)


def test_what_a_call_of_a_map_has_saved_stays_where_it_failed_though_another_went_well_later(
    quick: FaultyStore, tmp_path: Path
) -> None:
    failed, well = part.map([tmp_path] * 2, [0, 1]).futures
    assert isinstance(failed.exception(timeout=60), ValueError)
    assert well.result(timeout=60) == 2
    engine.reset()
    assert 0 in objects(quick, failed), "it may be all that is left of it"


@dok.remote(plan="v100-32gb", retries=Retry(1, on=OSError))
def part(folder: Path, number: int) -> int:
    """Save something, and fail at the first attempt: once and for all, or so that there is another."""
    attempt = dok.current().attempt
    if attempt == 1:
        save(f"epoch-{number}", "1")
        raise OSError(number) if number else ValueError(number)
    return attempt


def test_two_deaths_alike_end_the_call_and_keep_what_it_saved(quick: FaultyStore, tmp_path: Path) -> None:
    future = die_always.options(retries=5)(tmp_path)
    error = future.exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert (error.attempt, starts(tmp_path)) == (2, 2)
    engine.reset()
    assert objects(quick, future) == [0, 2]


@dok.remote(plan="v100-32gb")
def die_always(folder: Path) -> None:
    (folder / f"started-{dok.current().attempt}").touch()
    save(f"epoch-{dok.current().attempt}", "1")
    os.kill(os.getpid(), signal.SIGKILL)
