"""From a handle to the outcome: by another process, on another machine, and whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from disks import small_disk
from places import CALL, JOB, Place, abandoned, failure, free_bytes, kill, line, open_place, place, wait_for
from storefaults import FaultyStore, StoreFault

import dokrun as dok
from dokrun import keys
from dokrun.api import Client
from dokrun.emulator.clock import JST
from dokrun.emulator.faults import Fault
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.engine import Engine

__all__ = ["place"]

LIST: dict[str, Any] = {"method": "GET", "path": "/tasks/"}


def waiting(place: Place) -> str:
    """Let a client submit a job behind another one, and be killed while it waits. Tells the handle."""
    child = place.start(CALL.replace("future = job(21", "job(1, starts, gate)\n    future = job(21"))
    handle = line(child)
    wait_for(lambda: place.posts() == 2 and place.started() == 1)
    kill(child)
    return handle


def elsewhere(place: Place, sleep: Callable[[float], object] | None = None) -> Engine:
    """Let this process be one on a machine that has never heard of the job."""
    return place.here(sleep, DOKRUN_STATE_DIR=str(place.folder / "elsewhere"))


@pytest.fixture(scope="module")
def finished(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, str]]:
    """A machine of whose jobs one is done, and its handle; its client was killed."""
    with open_place(store, tmp_path_factory.mktemp("finished")) as place:
        place.gate.touch()
        child = place.start(CALL)
        handle = line(child)
        assert line(child) == "42"
        kill(child)
        yield place, handle


def here(place: Place) -> Engine:
    """Let this process be one on the machine that made the call."""
    return place.here()


# What a handle may be.


def test_a_whole_handle_is_enough_on_another_machine(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    handle = abandoned(place)
    elsewhere(place)
    future = dok.attach(handle)
    place.gate.touch()
    assert future.result(timeout=60) == 42
    assert (future.handle, caplog.text) == (handle, "")
    assert (place.posts(), place.started()) == (1, 1)


def test_the_beginning_of_a_handle_will_do_where_the_call_was_made_and_nowhere_else(
    finished: tuple[Place, str],
) -> None:
    place, handle = finished
    place.here()
    for beginning in (handle[:8], handle[4:10], handle.partition(".")[0]):
        assert dok.attach(beginning).result(timeout=60) == 42
    elsewhere(place)
    with pytest.raises(dok.OptionError, match="on another machine give the whole handle"):
        dok.attach(handle[:8])


def test_a_beginning_that_several_have_is_refused_with_all_of_them(place: Place) -> None:
    place.here()
    ids = ["abcd" + character * 28 for character in "01"]
    for job_id in ids:
        _write_down(place, job_id)
    with pytest.raises(dok.OptionError, match="the beginning of several handles: job-abcd") as caught:
        dok.attach("job-abcd")
    assert all(f"job-{job_id[:12]}" in str(caught.value) for job_id in ids)
    with pytest.raises(dok.OptionError, match="knows no job 'other-abcd'"):
        dok.attach("other-abcd")


def _write_down(place: Place, job_id: str) -> None:
    record = {"id": job_id, "name": "job", "plan": "p", "calls": 1, "digest": "0" * 64, "watch_tag": ""}
    with closing(sqlite3.connect(place.database)) as database:
        database.execute("INSERT INTO jobs VALUES (?, strftime('%s'), ?)", (job_id, json.dumps(record).encode()))
        database.commit()


@pytest.mark.parametrize("text", ["", "x", "job-", "job-xyz", "../etc", "job-0123*", "job-012%", "a" * 33, "0" * 32])
def test_what_is_no_handle_is_refused_before_anything_is_asked(finished: tuple[Place, str], text: str) -> None:
    place, _ = finished
    place.here()
    asked = len(place.relay.requests)
    with pytest.raises(dok.OptionError, match=r"no handle|knows no job"):
        dok.attach(text)
    assert len(place.relay.requests) == asked


def test_cell_attach_to_a_handle_whose_digest_is_not_the_jobs_is_refused_where_the_job_is_known(
    finished: tuple[Place, str],
) -> None:
    place, handle = finished
    place.here()
    with pytest.raises(dok.OptionError, match="not the handle that this machine has written down"):
        dok.attach(_forged(handle))
    assert dok.attach(handle).result(timeout=60) == 42


@pytest.mark.parametrize("runs", [True, False], ids=["cell_attach_to-runs", "cell_attach_to-waits"])
def test_a_handle_whose_digest_is_not_the_jobs_is_refused_elsewhere_and_does_the_job_no_harm(
    place: Place, *, runs: bool
) -> None:
    handle = abandoned(place) if runs else waiting(place)
    elsewhere(place)
    error = failure(dok.attach(_forged(handle)))
    assert isinstance(error, dok.Tampered)
    assert error.ran == "maybe"
    assert place.relay.count("GET", "*/downloads/*") == 0, "nothing of it is read"
    place.gate.touch()
    assert dok.attach(handle).result(timeout=60) == 42, "its claim was left alone"
    assert place.started() == place.posts()


def _forged(handle: str) -> str:
    return handle[:-1] + ("0" if handle[-1] != "0" else "1")


def test_cell_attach_to_a_task_that_is_not_what_was_sent_is_never_read(finished: tuple[Place, str]) -> None:
    place, handle = finished
    place.relay.rewrite = lambda _method, _path, body: body.replace(b"python3", b"python4")
    place.here()
    downloads = place.relay.count("GET", "*/downloads/artifacts/*")
    error = failure(dok.attach(handle))
    assert isinstance(error, dok.Tampered)
    assert place.relay.count("GET", "*/downloads/artifacts/*") == downloads
    place.relay.rewrite = lambda _method, _path, body: body
    assert dok.attach(handle).result(timeout=60) == 42


# What may go wrong while one is attached.

PASSING = [
    pytest.param(Fault("reset", phase="before", **LIST), id="cell_attach_t0"),
    pytest.param(Fault("reset", phase="after", **LIST), id="cell_attach_t1"),
    pytest.param(Fault("status", status=503, **LIST), id="cell_attach_5x-503"),
    pytest.param(Fault("status", status=429, **LIST), id="cell_attach_5x-429"),
    pytest.param(Fault("garbage", phase="after", **LIST), id="cell_attach_mb-garbage"),
    pytest.param(Fault("cut", phase="body", at_byte=100, **LIST), id="cell_attach_mb-cut"),
    pytest.param(Fault("drip", phase="body", at_byte=4800, every_s=0.001, **LIST), id="cell_attach_sb"),
]


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_asked_again_and_changes_nothing(finished: tuple[Place, str], fault: Fault) -> None:
    place, handle = finished
    place.dok.faults.clear()
    for number, machine in enumerate((here, elsewhere), 1):
        machine(place)
        place.dok.faults.add(fault)
        assert dok.attach(handle).result(timeout=60) == 42
        assert len(place.dok.faults.injected) == number
    assert (place.posts(), place.started()) == (1, 1)


def test_cell_attach_rf_a_service_that_cannot_be_reached_is_waited_for(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    handle = abandoned(place)
    place.here()
    with place.relay.closed():
        future = dok.attach(handle)
        wait_for(lambda: "cannot see how the tasks are" in caplog.text)
        assert not future.done()
    place.gate.touch()
    assert future.result(timeout=60) == 42
    assert (place.posts(), place.started()) == (1, 1)


@pytest.mark.parametrize("known", [True, False], ids=["cell_attach_ce-here", "cell_attach_ce-elsewhere"])
def test_a_key_that_is_refused_ends_the_wait_with_the_handle_and_a_good_one_goes_on(
    place: Place, *, known: bool
) -> None:
    handle = waiting(place)
    place.here() if known else elsewhere(place)
    rule = place.dok.faults.add(Fault("status", status=401, occurrence=None, **LIST))
    error = failure(dok.attach(handle))
    assert place.dok.faults.injected
    assert (error.ran, error.handle, error.still_runs) == ("maybe", handle, True)
    assert "settled" not in place.steps(handle)
    place.dok.faults.remove(rule)
    place.gate.touch()
    assert dok.attach(error.handle).result(timeout=60) == 42, "its claim was left alone"
    assert (place.posts(), place.started()) == (2, 2)


def test_cell_attach_df_a_full_disk_here_ends_with_the_handle_and_a_roomy_one_goes_on(
    finished: tuple[Place, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, handle = finished
    place.here()
    with small_disk(place.folder / "small") as small:
        (small / "filler").write_bytes(bytes(free_bytes(small)))
        monkeypatch.setattr("tempfile.tempdir", str(small))
        error = failure(dok.attach(handle))
        assert isinstance(error, dok.ResultNotFetched)
        assert error.handle == handle
        monkeypatch.setattr("tempfile.tempdir", None)
    assert dok.attach(error.handle).result(timeout=60) == 42
    assert (place.posts(), place.started()) == (1, 1)


def test_cell_attach_cx_a_call_that_waits_and_is_cancelled_from_elsewhere_never_starts(place: Place) -> None:
    handle = waiting(place)
    place.here()
    future = dok.attach(handle)
    wait_for(lambda: future.status == "waiting")
    future.cancel()
    assert future.cancelled()
    place.gate.touch()
    wait_for(lambda: all(task.ended for task in place.tasks()))
    assert sorted(task.status for task in place.tasks()) == ["canceled", "done"]
    assert place.started() == 1
    assert place.relay.count("POST", "*/cancel/") == 1


def test_cell_attach_cx_a_call_that_ends_just_before_it_is_cancelled_is_a_cancelled_one_here_and_not_elsewhere(
    place: Place,
) -> None:
    handle = abandoned(place)
    place.here()
    held = place.relay.hold("POST", "*/cancel/", "before")
    future = dok.attach(handle)
    future.cancel()
    held.reached()
    place.gate.touch()
    wait_for(lambda: place.tasks()[0].status == "done")
    held.release()
    assert future.cancelled()
    assert dok.attach(handle).result(timeout=60) == 42
    assert (place.posts(), place.started()) == (1, 1)


def test_cell_attach_sk_a_clock_that_is_far_off_is_told_and_the_outcome_is_fetched_all_the_same(
    finished: tuple[Place, str], caplog: pytest.LogCaptureFixture
) -> None:
    place, handle = finished
    place.relay.ahead_s = 1200.0
    place.here()
    assert dok.attach(handle).result(timeout=60) == 42
    assert "this machine's clock is 20 minutes behind DOK's" in caplog.text
    with pytest.raises(dok.SubmitFailed, match="No task was created"):
        dok.remote(plan="v100-32gb")(_nothing)().result(timeout=60)
    place.relay.ahead_s = 0.0
    assert (place.posts(), place.started()) == (1, 1)


def _nothing() -> None:
    """Nothing is to be done."""


@pytest.mark.parametrize("known", [True, False], ids=["cell_attach_du-here", "cell_attach_du-elsewhere"])
def test_of_two_tasks_that_the_service_made_of_one_request_one_is_kept(place: Place, *, known: bool) -> None:
    place.dok.faults.add(Fault("duplicate", method="POST", path="/tasks/", phase="after"))
    handle = abandoned(place, until=lambda: place.started() and len(place.tasks()) == 2)
    assert [fault.what for fault in place.dok.faults.injected] == ["duplicate"]
    place.here() if known else elsewhere(place)
    future = dok.attach(handle)
    wait_for(lambda: sorted(task.status for task in place.tasks()) == ["canceled", "running"])
    place.gate.touch()
    assert future.result(timeout=60) == 42
    assert place.started() == 1


# What may have become of the job.


class Later:
    """A day's clock, of which `passed` hours have gone."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> datetime:
        return datetime.now(JST) + timedelta(hours=self.passed)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def test_cell_attach_ue_an_artifact_that_has_expired_is_told_and_nobody_knows_more(
    store: ObjectStore, tmp_path: Path
) -> None:
    clock = Later()
    with open_place(store, tmp_path, clock=clock) as place:
        handle = abandoned(place)
        place.gate.touch()
        wait_for(lambda: place.tasks()[0].ended)
        clock.passed = 73.0
        wait_for(lambda: (artifact := place.tasks()[0].artifact) and artifact.deleted_at)
        for machine in (here, elsewhere):
            machine(place)
            error = failure(dok.attach(handle))
            assert error.ran in ("maybe", "yes")
            assert error.handle == handle
            print(error)
        assert (place.posts(), place.started()) == (1, 1)


def test_a_task_that_somebody_has_deleted_is_told(place: Place) -> None:
    handle = abandoned(place)
    place.gate.touch()
    wait_for(lambda: place.tasks()[0].ended)
    with Client(place.dok.token, place.dok.secret, base_url=place.dok.api_url) as client:
        client.tasks.delete(place.tasks()[0].id)
    place.here()
    error = failure(dok.attach(handle))
    assert isinstance(error, dok.TaskFailed)
    assert "somebody deleted it" in str(error)
    assert error.ran == "maybe"
    elsewhere(place)
    error = failure(dok.attach(handle))
    assert isinstance(error, dok.SubmitFailed)
    assert error.ran == "maybe"


LATER = """
    import lab
    import dokrun as dok, sys

    @dok.remote(plan="v100-32gb")
    def make():
        return lab.Thing(7)

    print(make.options(detach=True)().handle, flush=True)
    sys.stdin.read()
"""


def test_cell_attach_vm_a_result_that_this_version_cannot_open_is_kept_and_one_that_can_gets_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.folder / "lab.py").write_text("class Thing:\n    def __init__(self, size): self.size = size\n")
    child = place.start(LATER)
    handle = line(child)
    wait_for(lambda: place.tasks() and place.tasks()[0].ended)
    kill(child)
    place.here()
    error = failure(dok.attach(handle))
    assert isinstance(error, dok.ResultUnreadable)
    assert (error.ran, error.handle) == ("yes", handle)
    assert "No module named 'lab'" in str(error)
    monkeypatch.syspath_prepend(str(place.folder))
    assert dok.attach(error.handle).result(timeout=60).size == 7
    assert place.posts() == 1


def test_cell_attach_vm_steps_that_a_newer_version_has_written_are_passed_over(place: Place) -> None:
    handle = abandoned(place)
    with closing(sqlite3.connect(place.database)) as database:
        step = json.dumps({"what": "teleported", "attempt": 1, "whither": "home"}).encode()
        database.execute("INSERT INTO steps SELECT job, 99, at, ? FROM steps WHERE number = 1", (step,))
        database.execute("UPDATE jobs SET record = json_set(CAST(record AS TEXT), '$.colour', 'blue')")
        database.commit()
    place.gate.touch()
    place.here()
    assert dok.attach(handle).result(timeout=60) == 42
    assert (place.posts(), place.started()) == (1, 1)


# While its owner goes on.

AGAIN = (
    JOB
    + """
    @dok.remote(plan="v100-32gb", retries=dok.Retry(1, on=ValueError))
    def again(starts, gate):
        with open(starts, "a") as file:
            file.write("started\\n")
        while not os.path.exists(gate):
            time.sleep(0.01)
        if dok.current().attempt == 1:
            raise ValueError("not yet")
        return dok.current().attempt

    future = again(starts, gate)
    print(future.handle, flush=True)
    print(future.result(), flush=True)
"""
)


@pytest.mark.parametrize("known", [True, False], ids=["here", "elsewhere"])
def test_whoever_is_attached_follows_the_owner_into_the_next_attempt(place: Place, *, known: bool) -> None:
    owner = place.start(AGAIN)
    handle = line(owner)
    wait_for(place.started)
    # The next attempt is looked for as long as its owner needs to begin it.
    place.here(sleep=patiently) if known else elsewhere(place, patiently)
    future = dok.attach(handle)
    wait_for(future.running)
    place.gate.touch()
    assert future.result(timeout=60) == 2
    assert line(owner) == "2"
    assert (place.posts(), place.started(), future.attempt) == (2, 2, 2)


def test_whoever_is_attached_follows_the_owner_to_a_task_that_takes_the_place_of_one_that_never_started(
    store: ObjectStore, tmp_path: Path
) -> None:
    with FaultyStore(store) as faulty, open_place(store, tmp_path) as place:
        # Nobody can take the first claim: the container ends with 78.
        faulty.add(StoreFault("status", method="PUT", path="*/claims/*/1", status=403))
        held = place.relay.hold("GET", "*/tasks/", "before")
        owner = place.start(CALL, DOKRUN_S3_ENDPOINT_URL=faulty.url)
        handle = line(owner)
        held.reached()  # the owner does not look yet
        wait_for(lambda: place.tasks() and place.tasks()[0].ended)
        assert [fault.what for fault in faulty.injected] == ["status"]
        place.here(sleep=patiently)
        future = dok.attach(handle)
        wait_for(lambda: place.claimed(store, handle))  # whoever is attached has judged it first
        held.release()
        place.gate.touch()
        assert future.result(timeout=60) == 42
        assert line(owner) == "42"
        assert (place.posts(), place.started()) == (2, 1)


def patiently(seconds: float) -> None:
    threading.Event().wait(min(seconds, 1.0))


# The future and its handle.


def test_a_handle_is_there_before_the_outcome_and_is_the_same_ever_after(place: Place) -> None:
    place.here()
    future = dok.remote(plan="v100-32gb")(_nothing)()
    handle = future.handle
    assert keys.read_handle(handle) is not None
    assert future.result(timeout=60) is None
    assert future.handle == handle == dok.attach(handle).handle


def test_a_call_that_fails_before_anything_is_sent_has_no_handle_but_its_error(place: Place) -> None:
    place.here()
    with closing(sqlite3.connect(place.database)) as database:
        database.executescript("CREATE TRIGGER no BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END;")
    future = dok.remote(plan="v100-32gb")(_nothing)()
    with pytest.raises(dok.SubmitFailed, match=r"the journal .* cannot be used") as caught:
        _ = future.handle
    assert (caught.value.ran, caught.value.handle) == ("no", "")
    assert place.posts() == 0
