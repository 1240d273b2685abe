"""How things end: calls that are cancelled, scripts that are over, callbacks that fail, results that are too large."""

from __future__ import annotations

import logging
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import chores
import numpy as np
import pytest
from heard import Heard
from places import JOB, Place, failure, open_place, place, wait_for
from storefaults import FaultyStore, StoreFault
from test_poll import again, client_of

import dokrun as dok
from dokrun import engine
from dokrun.api import Client
from dokrun.bucket import Bucket
from dokrun.config import BucketSettings
from dokrun.emulator import Behaviour, Fault
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.journal import Journal, Record, Step
from dokrun.engine.workers import Workers
from dokrun.errors import ConfigError
from dokrun.secret import Secret

__all__ = ["place"]

SECRET = "canary-of-the-function"


@pytest.fixture
def faulty(store: ObjectStore) -> Iterator[FaultyStore]:
    with FaultyStore(store) as faulty:
        yield faulty


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
def test_what_somebody_else_is_cancelling_is_not_said_to_go_on(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    starts = tmp_path / "starts"
    future = chores.stay(starts, tmp_path / "gate")
    wait_for(lambda: chores.started(starts) == 1)
    caplog.set_level(logging.DEBUG, "dokrun")
    client.tasks.cancel(str(future.task_id))
    future.cancel()
    wait_for(lambda: any("/cancel/ -> 403" in told for told in caplog.messages))
    wait_for(lambda: client.tasks.get(str(future.task_id)).ended)
    assert not [told for told in caplog.messages if "could not cancel" in told]


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
    wait_for(lambda: place.relay.count("POST", "*/cancel/") == 1)
    place.dok.faults.add(Fault("status", method="POST", path="/tasks/*/cancel/"))
    held.release()
    wait_for(lambda: len(place.tasks()) == 2)
    wait_for(lambda: all(task.ended for task in place.tasks()))
    assert sorted(task.status for task in place.tasks()) == ["canceled", "done"]
    assert [one.what for one in place.dok.faults.injected] == ["status"], "the next one's cancelling was tried again"


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


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_cancels_what_it_has_not_waited_for(place: Place, method: str) -> None:
    child = place.start(CHILD, method)
    _, errors = child.communicate(timeout=60)
    assert errors.count("cancelled what had not finished: job (task ") == 1
    wait_for(lambda: place.tasks()[0].status == "canceled")


# Callbacks that fail, locks that are held, results that pile up.


def test_work_that_ends_its_thread_leaves_the_thread_to_the_next(caplog: pytest.LogCaptureFixture) -> None:
    workers, done = Workers(1, "test"), threading.Event()
    workers.submit(lambda: sys.exit(3))
    workers.submit(done.set)
    assert done.wait(60)
    assert workers.close(60)
    assert "has failed" in caplog.text


def test_a_callback_that_exits_keeps_no_other_call_from_its_outcome(place: Place) -> None:
    place.here()
    held = place.relay.hold("POST", "*/tasks/", "before")
    place.dok.faults.add(Fault("status", method="POST", path="/tasks/", status=400))
    refused = chores.answer(place.starts)
    futures = [chores.answer(place.starts) for _ in range(6)]
    for future in (refused, *futures):
        future.add_done_callback(lambda _: sys.exit(3))
    held.release()
    assert isinstance(failure(refused), dok.SubmitFailed)
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
def test_results_that_are_kept_hold_no_file_open() -> None:
    def arrays(count: int) -> list[np.ndarray]:
        return [np.full(1 << 20, number, np.uint8) for number in range(count)]

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    call = dok.remote(plan="v100-32gb")(arrays)
    assert call(0).result(timeout=60) == []
    before = descriptors()
    kept = call(32).result(timeout=60)
    assert [array[-1] for array in kept] == list(range(32))
    assert descriptors() - before < 16


# More in the artifact than there is room for.
LARGE = """
    import resource, sys
    import dokrun as dok
    from dokrun import engine

    @dok.remote(plan="v100-32gb", timeout=120)
    def large(starts):
        import numpy as np
        with open(starts, "a") as file:
            file.write(dok.current().call_id + "\\n")
        return np.zeros(384 << 20, np.uint8)

    engine.get()
    with open("/proc/self/statm") as file:
        room = int(file.read().split()[0]) * resource.getpagesize() + (320 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    future = large(sys.argv[1])
    print(future.handle, flush=True)
    try:
        future.result()
    except dok.CallFailed as error:
        print(type(error).__name__, error.ran, error.args[0], flush=True)
"""


def test_a_result_that_memory_here_does_not_hold_is_fetched_where_there_is_more(place: Place) -> None:
    child = place.start(LARGE, MALLOC_ARENA_MAX="1")
    output, errors = child.communicate(timeout=60)
    handle, _, told = output.partition("\n")
    assert told.startswith("ResultNotFetched yes the result is there, but cannot be read on this machine"), (
        output + errors
    )
    assert "settled" not in place.steps()
    place.here()
    assert dok.attach(handle).result(timeout=60).nbytes == 384 << 20
    assert (place.started(), place.posts()) == (1, 1)


# How long a task may take, and what is said of one that cannot be seen.


@pytest.mark.usefixtures("account")
def test_the_time_limit_of_a_task_grows_with_what_its_container_must_fetch(client: Client, tmp_path: Path) -> None:
    call = chores.size_of.options(timeout="2h")
    futures = [call(tmp_path / "starts", bytes(size)) for size in (0, 10_000_000)]
    assert [future.result(timeout=60) for future in futures] == [0, 10_000_000]
    limits = [client.tasks.get(str(future.task_id)).execution_time_limit_sec for future in futures]
    assert limits == [2 * 3600 + 600, 2 * 3600 + 602]


def test_a_call_that_is_ended_in_line_may_have_run_where_its_claim_cannot_be_seen(
    place: Place, faulty: FaultyStore
) -> None:
    place.here(DOKRUN_S3_ENDPOINT_URL=faulty.url)
    chores.stay(place.starts, place.gate)
    wait_for(place.started)
    second = chores.stay(place.starts, place.gate)
    wait_for(lambda: second.task_id is not None)
    faulty.add(StoreFault("status", "PUT", "*/claims/*", None, status=403))
    with client_of(place) as client:
        client.tasks.cancel(str(second.task_id))
    error = failure(second)
    assert isinstance(error, dok.TaskFailed)
    assert (error.status, error.ran) == ("canceled", "maybe"), "a twin of its task may have started it"
    assert faulty.injected


def test_a_call_goes_over_to_the_task_that_has_its_claim_though_that_cannot_be_seen_at_once(
    store: ObjectStore, faulty: FaultyStore, tmp_path: Path
) -> None:
    with open_place(store, tmp_path, behaviour=Behaviour(slots=2)) as place, client_of(place) as client:
        place.here(DOKRUN_S3_ENDPOINT_URL=faulty.url)
        place.gate.touch()
        faulty.add(StoreFault("hold", "PUT", "*/claims/*"))
        future = chores.stay(place.starts, place.gate)
        faulty.wait_for("hold")
        wait_for(lambda: future.task_id is not None)
        look = place.relay.hold("GET", "*/tasks/", "before")
        look.reached()
        twin = client.tasks.create(again(client.tasks.get(str(future.task_id))))
        wait_for(lambda: client.tasks.get(twin.id).ended)
        faulty.let_go()
        wait_for(lambda: client.tasks.get(str(future.task_id)).ended)
        away = place.dok.faults.add(Fault("status", method="GET", path=f"/tasks/{twin.id}/", occurrence=None))
        with Heard("dokrun.engine") as heard:
            look.release()
            wait_for(lambda: f"cannot see task {twin.id} of stay" in " ".join(heard.messages("dokrun")))
        place.dok.faults.remove(away)
        assert future.result(timeout=60) == 42
        assert (future.task_id, place.started()) == (twin.id, 1)
