"""How things end: calls that are cancelled, scripts that are over, callbacks that fail."""

from __future__ import annotations

import socket
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chores
import pytest
from places import JOB, Place, failure, place, wait_for

import dokrun as dok
from dokrun import engine
from dokrun.api import Client
from dokrun.bucket import Bucket
from dokrun.config import BucketSettings
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.journal import Journal, Record, Step
from dokrun.engine.workers import Workers
from dokrun.errors import ConfigError
from dokrun.secret import Secret

__all__ = ["place"]

SECRET = "canary-of-the-function"


# Calls that are cancelled.


@pytest.mark.usefixtures("account")
def test_a_running_call_that_somebody_else_cancels_is_not_tried_again(client: Client, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    future = chores.stay.options(retries=2)(starts, tmp_path / "gate")
    wait_for(lambda: chores.started(starts) == 1)
    client.tasks.cancel(str(future.task_id))
    error = failure(future)
    assert isinstance(error, dok.TaskFailed)
    assert (error.status, error.ran, error.attempt) == ("canceled", "yes", 1)
    assert chores.started(starts) == 1


@pytest.mark.usefixtures("account")
def test_two_deaths_alike_end_the_attempts_and_the_error_says_so(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    error = failure(chores.fail.options(retries=5)(starts))
    assert chores.started(starts) == 2
    assert "two attempts died alike, so there was no further one" in str(error)


NEXT = (
    JOB
    + """
    @dok.remote(plan="v100-32gb", timeout=120, retries=dok.Retry(1, on=ValueError, backoff=1.5))
    def twice(starts, gate):
        with open(starts, "a") as file:
            file.write(dok.current().call_id + "\\n")
        if dok.current().attempt == 1:
            while not os.path.exists(gate):
                time.sleep(0.01)
            raise ValueError
        time.sleep(600)

    future = twice(starts, gate)
    print(future.handle, flush=True)
    future.exception()
"""
)


def test_whoever_cancels_between_two_attempts_ends_the_next_one(place: Place) -> None:
    owner = place.start(NEXT)
    assert owner.stdout is not None
    handle = owner.stdout.readline().strip()
    wait_for(lambda: place.started() == 1)
    place.here(sleep=threading.Event().wait)  # so that it still looks for the next attempt when that is let come
    future = dok.attach(handle)
    wait_for(lambda: future.status == "running")
    held = place.relay.hold("POST", "*/tasks/", "before")
    place.gate.touch()
    held.reached()
    assert future.cancel()
    held.release()
    wait_for(lambda: len(place.tasks()) == 2)
    wait_for(lambda: all(task.ended for task in place.tasks()))
    assert sorted(task.status for task in place.tasks()) == ["canceled", "done"]


# Scripts that are over.


@pytest.mark.usefixtures("account")
def test_what_a_cancelled_call_has_sent_does_not_stay_in_the_bucket(store: ObjectStore, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    future = chores.stay.options(secrets={"TOKEN": SECRET})(starts, tmp_path / "gate")
    wait_for(lambda: chores.started(starts) == 1)
    bucket = Bucket(BucketSettings(store.bucket, store.url, None, "anybody", Secret("canary-of-the-bucket")))
    key = f"dokrun/1/jobs/{future.handle.rpartition('.')[0][-32:]}/payload"
    assert SECRET.encode() in (bucket.read(key) or b"")
    engine.reset()
    assert bucket.read(key) is None
    bucket.close()


IMAGE = (
    JOB
    + """
    future = job.options(detach=True, image="127.0.0.1:" + sys.argv[3] + "/slow:1")(21, starts, gate)
    while future.status != "image": time.sleep(0.01)
"""
)


def test_a_detached_call_whose_image_is_not_ready_is_told_when_its_script_ends(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        child = place.start(IMAGE, silent.getsockname()[1])
        _, errors = child.communicate(timeout=60)
    assert "the script ended before these were submitted: job; call them again" in errors
    assert (child.returncode, place.posts()) == (0, 0)


CHILD = (
    JOB
    + """
    def child():
        future = job(21, starts, gate)
        while not os.path.exists(starts): time.sleep(0.01)

    if __name__ == "__main__":
        import multiprocessing
        process = multiprocessing.get_context(sys.argv[3]).Process(target=child)
        process.start()
        process.join()
"""
)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_of_multiprocessing_cancels_what_it_has_not_waited_for(place: Place, method: str) -> None:
    child = place.start(CHILD, method)
    _, errors = child.communicate(timeout=60)
    assert "cancelled what had not finished: job (task " in errors
    wait_for(lambda: place.tasks()[0].status == "canceled")


# Callbacks that fail, locks that are held, results that pile up.


def test_work_that_ends_its_thread_leaves_the_thread_to_the_next(caplog: pytest.LogCaptureFixture) -> None:
    workers, done = Workers(1, "test"), threading.Event()
    workers.submit(lambda: sys.exit(3))
    workers.submit(done.set)
    assert done.wait(60)
    assert workers.close(60)
    assert "has failed" in caplog.text


@pytest.mark.usefixtures("account")
def test_a_callback_that_exits_keeps_no_other_call_from_its_outcome(tmp_path: Path) -> None:
    futures = []
    for _ in range(6):
        future = chores.answer(tmp_path / "starts")
        future.add_done_callback(lambda _: sys.exit(3))
        futures.append(future)
    assert [future.result(timeout=60) for future in futures] == [42] * 6


def test_a_lock_that_another_process_holds_keeps_nobody_out_once_it_is_let_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state", "account", busy_s=0.1)
    with sqlite3.connect(tmp_path / "state" / "account.sqlite", isolation_level=None) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM jobs").fetchall()
        with pytest.raises(ConfigError, match="locked"):
            journal.begin(Record("a" * 32, "f", "p", 1, "d", "t"))
        reader.execute("COMMIT")
    reader.close()
    journal.begin(Record("a" * 32, "f", "p", 1, "d", "t"))
    journal.add("a" * 32, Step("bound", 1, "task"))
    journal.close()


@pytest.mark.usefixtures("account")
def test_results_that_are_kept_hold_no_file_open(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    kept: list[Any] = [chores.answer(tmp_path / "starts", bytearray(2 << 20)).result(timeout=60)]
    with ThreadPoolExecutor(4) as pool:
        before = descriptors()
        kept += pool.map(lambda _: chores.answer(tmp_path / "starts", bytearray(2 << 20)).result(timeout=60), range(8))
        assert len(kept) == 9
        assert descriptors() - before < 8
