"""However asking goes wrong, the one task is watched until it has ended, and no other; the function starts once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clocks import ManualClock
from heard import Heard
from places import CALL, Place, kill, line, open_place, place, wait_for
from services import LIST, Service, Wire, opened

import dokrun as dok
from dokrun import keys
from dokrun.api import Client
from dokrun.api.models import ContainerRequest, CreateTaskRequest, Task
from dokrun.emulator import Behaviour, Fault
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.watch import Batch, Watched, Watcher
from dokrun.errors import Unauthorized

__all__ = ["place"]

LOOKS: dict[str, Any] = {"method": "GET", "path": "/tasks/"}
CANCELS: dict[str, Any] = {"method": "POST", "path": "/tasks/*/cancel/"}
CANNOT_SEE = "cannot see how the tasks are"


# --- the watcher, asking two services


class Watching:
    """One job that is watched; `told` is what was told of it so far, `failed` that it cannot be asked for."""

    def __init__(self, service: Service, resources: ExitStack, refused_for_s: float = 0.0) -> None:
        self.service = service
        self.wire = Wire(service.api_url)
        self.told: list[list[Task]] = []
        self.failed: list[Unauthorized] = []
        self.wanted = True
        self.job_id = keys.new_id()
        container = ContainerRequest("any", ["-c", "import time; time.sleep(600)"], ["python3"], "v100-32gb")
        self.batch = Batch()
        tags = [keys.OURS, keys.job_tag(self.job_id), self.batch.tag]
        self.task = service.eyes.tasks.create(CreateTaskRequest("work", [container], tags, 600))
        # Each look is one request.
        client = resources.enter_context(service.client(wire=self.wire, attempts=1))
        self.watcher = Watcher(client, refused_for_s=refused_for_s)
        resources.callback(self.watcher.close)

    def watch(self) -> None:
        self.watcher.watch(self.batch, self.job_id, Watched(self._tell, self.failed.append))

    def _tell(self, tasks: list[Task]) -> bool:
        self.told.append(tasks)
        return self.wanted

    def watch_twice_more(self) -> None:
        """Watch it in lists of their own too, as who attaches does."""
        for _ in range(2):
            self.watcher.watch(Batch(self.batch.tag), self.job_id, Watched(self._tell, self.failed.append))

    def hears(self) -> None:
        """Wait until it is told of its task, from now on."""
        before = len(self.told)
        wait_for(lambda: len(self.told) > before)
        assert [task.id for task in self.told[-1]] == [self.task.id]


@pytest.fixture(scope="module", params=["emulator", "minimal"])
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with opened(request.param, tmp_path_factory.mktemp("dok")) as service:
        yield service


@pytest.fixture
def watching(each: Service) -> Iterator[Watching]:
    with ExitStack() as resources:
        yield Watching(each, resources)
    each.mend()


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        pytest.param("hang before commit", 1, id="cell_poll_t0-hang"),
        pytest.param("reset before commit", 3, id="cell_poll_t0-reset"),
        pytest.param("hang after commit", 1, id="cell_poll_t1-hang"),
        pytest.param("reset after commit", 3, id="cell_poll_t1-reset"),
        pytest.param("status 429 before commit", 3, id="cell_poll_5x-429"),
        pytest.param("status 500 before commit", 3, id="cell_poll_5x-500"),
        pytest.param("status 503 after commit", 3, id="cell_poll_5x-503"),
        pytest.param("cut body after commit", 3, id="cell_poll_mb-cut"),
        pytest.param("not JSON after commit", 3, id="cell_poll_mb-garbage"),
        pytest.param("slow body after commit", 1, id="cell_poll_sb"),
    ],
)
def test_a_look_that_fails_is_told_once_and_asked_again(watching: Watching, kind: str, times: int) -> None:
    watching.service.fault(LIST, kind, times=times)
    with Heard("dokrun.engine") as heard:
        watching.watch()
        watching.hears()
        assert watching.service.injected == times
        assert warnings(heard) == 1
        watching.service.fault(LIST, "status 503 before commit")
        wait_for(lambda: watching.service.injected == times + 1)
        watching.hears()
        assert warnings(heard) == 2, "after it could see again"
    assert all([task.id for task in told] == [watching.task.id] for told in watching.told), "nothing was told meanwhile"


def test_cell_poll_rf_a_service_that_is_away_is_waited_for(watching: Watching) -> None:
    watching.watch()
    watching.hears()
    with Heard("dokrun.engine") as heard:
        watching.service.shut()
        wait_for(lambda: watching.wire.statuses[-3:] == [None] * 3)
        watching.service.open()
        watching.hears()
        assert warnings(heard) == 1
    assert watching.failed == []


@pytest.mark.parametrize("refusals", [2, 3])
def test_cell_poll_ce_three_refusals_in_a_row_end_the_watching_and_two_do_not(
    watching: Watching, refusals: int
) -> None:
    watching.wire.refusals = refusals
    watching.watch()
    if refusals < 3:
        watching.hears()
    else:
        wait_for(lambda: watching.failed)
        assert isinstance(watching.failed[0], Unauthorized)
        assert watching.told == []
    assert watching.wire.statuses.count(401) == refusals
    assert len(watching.failed) == (refusals == 3)


def test_cell_poll_ce_refusals_that_last_a_moment_do_not_end_the_watching(each: Service) -> None:
    with ExitStack() as resources:
        watching = Watching(each, resources, refused_for_s=3600.0)
        watching.wire.refusals = 5
        watching.watch()
        watching.hears()
        assert watching.wire.statuses.count(401) == 5
        assert watching.failed == []


def test_a_new_call_is_not_asked_for_with_a_job_that_somebody_is_attached_to(watching: Watching) -> None:
    own = Batch.of_job(watching.job_id)
    watching.watcher.watch(own, watching.job_id, Watched(watching._tell, watching.failed.append))
    assert watching.watcher.batch() is not own


def test_cell_poll_ce_one_refusal_of_each_of_three_lists_is_not_three_in_a_row(watching: Watching) -> None:
    watching.watch()
    watching.watch_twice_more()
    watching.hears()
    watching.wire.refusals = 3
    wait_for(lambda: watching.wire.statuses.count(401) == 3)
    watching.hears()
    assert watching.failed == []


@pytest.mark.parametrize("status", ["pausing", "", "DONE", "deleted"])
def test_cell_poll_vm_a_status_that_nobody_knows_yet_is_not_the_end(watching: Watching, status: str) -> None:
    def newer(answer: Any) -> Any:
        for task in answer["results"]:
            task.update(status=status, error_message=None, progress={"percent": 5}, http_uri=None)
        return answer

    watching.wire.changes[LIST] = newer
    watching.watch()
    watching.hears()
    watching.hears()
    assert watching.wire.changed >= 2
    assert (watching.told[-1][0].status, watching.told[-1][0].ended) == (status, False)


def test_a_task_on_a_later_page_of_the_list_is_told_too(watching: Watching) -> None:
    others = msgspec.structs.replace(watching.task, tags=[watching.batch.tag])
    container = ContainerRequest("any", ["-c", "pass"], ["python3"], "v100-32gb")
    for _ in range(101):
        watching.service.eyes.tasks.create(CreateTaskRequest("other", [container], others.tags, 600))
    watching.watch()
    watching.hears()
    assert watching.wire.count(LIST) >= 2


def warnings(heard: Heard) -> int:
    return sum(record.levelname == "WARNING" and CANNOT_SEE in record.getMessage() for record in heard.records)


# --- the whole road


def call(place: Place, work: Callable[[], object] = lambda: None, **options: Any) -> dok.Future[int]:
    """Call a function that counts its starts, does something, and stays until the gate is there."""
    starts, gate = place.starts, place.gate

    def double(number: int) -> int:
        with starts.open("a") as file:
            file.write(f"{os.getpid()}\n")
        work()
        while not gate.exists():
            time.sleep(0.01)
        return number * 2

    return dok.remote(plan="v100-32gb", timeout=120, **options)(double)(21)


def client_of(place: Place) -> Client:
    return Client(place.dok.token, place.dok.secret, base_url=place.dok.api_url)


def again(task: Task, **changes: Any) -> CreateTaskRequest:
    """Make the request that makes a task like this one."""
    one = task.containers[0]
    container = ContainerRequest(one.image, one.command, one.entrypoint, one.plan, environment=one.environment)
    limit_s = task.execution_time_limit_sec
    return CreateTaskRequest(task.name, [msgspec.structs.replace(container, **changes)], task.tags, limit_s)


def started(place: Place) -> None:
    wait_for(place.started)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("reset", **LOOKS, occurrence=None), id="cell_poll_t0"),
        pytest.param(Fault("status", **LOOKS, occurrence=None), id="cell_poll_5x"),
        pytest.param(Fault("garbage", **LOOKS, phase="after", occurrence=None), id="cell_poll_mb"),
    ],
)
def test_a_call_that_cannot_be_seen_for_a_while_still_brings_its_value(place: Place, fault: Fault) -> None:
    place.here()
    future = call(place)
    started(place)
    rule = place.dok.faults.add(fault)
    with Heard("dokrun.engine") as heard:
        wait_for(lambda: warnings(heard))
        place.gate.touch()
        place.dok.faults.remove(rule)
        assert future.result(timeout=60) == 42
    assert place.dok.faults.injected
    assert (place.posts(), place.started()) == (1, 1)


def test_cell_poll_rf_a_service_that_is_out_of_reach_for_a_while_is_waited_for(place: Place) -> None:
    place.here()
    future = call(place)
    started(place)
    with Heard("dokrun.engine") as heard, place.relay.closed():
        wait_for(lambda: warnings(heard))
        place.gate.touch()
    assert future.result(timeout=60) == 42
    assert (place.posts(), place.started()) == (1, 1)


def test_cell_poll_ce_an_expired_key_ends_with_the_handle_and_attaching_goes_on(place: Place) -> None:
    place.here()
    future = call(place)
    started(place)
    place.dok.faults.add(Fault("status", status=401, occurrence=None))
    error = future.exception(timeout=60)
    assert isinstance(error, dok.CallFailed)
    assert (error.ran, error.handle, error.still_runs) == ("maybe", future.handle, True)
    assert "check the API key" in str(error)
    assert f"dokrun cancel {keys.shortened(future.handle)} stops it" in str(error)
    assert len(place.dok.faults.injected) >= 3
    assert "settled" not in place.steps()
    place.dok.faults.clear()
    place.gate.touch()
    assert dok.attach(error.handle).result(timeout=60) == 42
    assert (place.posts(), place.started()) == (1, 1)


def test_cell_poll_k9_a_client_that_is_killed_while_it_asks_is_followed_by_another(place: Place) -> None:
    child = place.start(CALL)
    handle = line(child)
    started(place)
    held = place.relay.hold("GET", "*/tasks/", "after")
    held.reached()
    kill(child)
    held.drop()
    place.here()
    place.gate.touch()
    assert dok.attach(handle).result(timeout=60) == 42
    assert (place.posts(), len(place.tasks()), place.started()) == (1, 1, 1)


def test_cell_poll_oo_a_container_that_is_killed_while_the_function_runs_has_run_it(place: Place) -> None:
    place.here()

    def kill_supervisor() -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    error = call(place, kill_supervisor).exception(timeout=60)
    assert isinstance(error, dok.TaskFailed)
    assert (error.ran, error.status) == ("yes", "error")
    assert "exit status 137" in str(error)
    assert [task.containers[0].exit_code for task in place.tasks()] == [137]
    assert (place.posts(), place.started()) == (1, 1)


def test_cell_poll_oo_a_container_that_is_killed_before_the_function_starts_may_have_run_it(place: Place) -> None:
    place.here()

    def die() -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    class DiesOnArrival:
        def __reduce__(self) -> Any:
            return die, ()

    @dok.remote(plan="v100-32gb", timeout=120)
    def touch(starts: Path, _: Any) -> None:
        starts.touch()

    error = touch(place.starts, DiesOnArrival()).exception(timeout=60)
    assert isinstance(error, dok.TaskFailed)
    assert error.ran == "maybe", "it was claimed, and its log tells of no start"
    assert [task.containers[0].exit_code for task in place.tasks()] == [137]
    assert not place.starts.exists()
    assert place.posts() == 1


@pytest.mark.parametrize("keep", [False, True], ids=["without an artifact", "with one"])
def test_cell_poll_tl_a_task_that_reaches_its_time_limit_has_run(
    store: ObjectStore, tmp_path: Path, *, keep: bool
) -> None:
    clock = ManualClock()
    with open_place(store, tmp_path, clock=clock, behaviour=Behaviour(keep_failed_artifacts=keep)) as place:
        place.here()
        future = call(place)
        started(place)
        clock.pass_time(100_000)
        error = future.exception(timeout=60)
        assert isinstance(error, dok.CallFailed)
        assert error.ran == "yes"
        assert [task.status for task in place.tasks()] == ["aborted"]
        assert (place.posts(), place.started()) == (1, 1)


@pytest.mark.parametrize("phase", ["before", "after"])
def test_cell_poll_cx_a_cancel_without_an_answer_is_repeated_until_the_task_has_ended(place: Place, phase: Any) -> None:
    place.here()
    future = call(place)
    started(place)
    wait_for(future.running)
    place.dok.faults.add(Fault("status", **CANCELS, phase=phase))
    assert future.cancel()
    wait_for(lambda: "settled" in place.steps())
    assert future.cancelled()
    assert [one.phase for one in place.dok.faults.injected] == [phase]
    assert [task.status for task in place.tasks()] == ["canceled"]
    assert place.started() == 1


def test_cell_poll_cx_a_cancel_that_comes_after_the_end_changes_nothing(place: Place) -> None:
    place.here()
    future = call(place)
    started(place)
    held = place.relay.hold("POST", "*/cancel/", "before")
    assert future.cancel()
    held.reached()
    place.gate.touch()
    wait_for(lambda: place.tasks()[0].ended)
    held.release()
    wait_for(lambda: "settled" in place.steps())
    assert future.cancelled()
    assert [task.status for task in place.tasks()] == ["done"]
    assert place.relay.count("POST", "*/cancel/") == 1


@pytest.mark.parametrize("slots", [1, 2])
def test_cell_poll_du_a_second_task_that_shows_late_is_cancelled_and_said(
    store: ObjectStore, tmp_path: Path, slots: int
) -> None:
    with open_place(store, tmp_path, behaviour=Behaviour(slots=slots)) as place:
        place.here()
        future = call(place)
        started(place)
        with Heard("dokrun.engine") as heard, client_of(place) as client:
            twin = client.tasks.create(again(client.tasks.get(str(future.task_id))))
            wait_for(lambda: client.tasks.get(twin.id).ended)
            wait_for(lambda: f"cancelling {twin.id}" in " ".join(heard.messages("dokrun")) or slots == 2)
        place.gate.touch()
        assert future.result(timeout=60) == 42
        assert future.task_id != twin.id
        assert place.started() == 1


def test_cell_poll_to_a_task_of_somebody_elses_with_all_tags_is_never_looked_at(place: Place) -> None:
    place.here()
    future = call(place)
    started(place)
    with client_of(place) as client:
        mine = client.tasks.get(str(future.task_id))
        foreign = client.tasks.create(again(mine, command=["pass", *mine.containers[0].command[1:]]))
        looks = place.relay.count("GET", "*/tasks/")
        wait_for(lambda: place.relay.count("GET", "*/tasks/") > looks + 2)
        place.gate.touch()
        assert future.result(timeout=60) == 42
        assert client.tasks.get(foreign.id).canceled_at is None
    assert not [path for _, path in place.relay.requests if foreign.id in path]
    assert future.task_id == mine.id


def test_cell_poll_to_what_its_own_id_shows_must_be_what_was_sent(place: Place) -> None:
    changed = []

    def other(method: str, path: str, body: bytes) -> bytes:
        if method == "GET" and "/tasks/" in path:
            changed.append(path)
            return body.replace(b"v100-32gb", b"h100-80gb")
        return body

    place.here()
    future = call(place)
    started(place)
    place.relay.rewrite = other
    place.gate.touch()
    error = future.exception(timeout=60)
    assert isinstance(error, dok.Tampered)
    assert error.ran == "maybe"
    assert changed
    assert not [path for _, path in place.relay.requests if "/artifacts/" in path], "nothing was fetched"


def test_a_task_that_somebody_deletes_is_told_and_not_waited_for(place: Place) -> None:
    place.here()
    future = call(place)
    started(place)
    wait_for(lambda: future.task_id)
    held = place.relay.hold("GET", "*/tasks/", "before")
    held.reached()
    with client_of(place) as client:
        client.tasks.cancel(str(future.task_id))
        wait_for(lambda: client.tasks.get(str(future.task_id)).ended)
        client.tasks.delete(str(future.task_id))
    held.release()
    error = future.exception(timeout=60)
    assert isinstance(error, dok.TaskFailed)
    assert "somebody deleted it" in str(error)
    assert (error.ran, place.started()) == ("maybe", 1)


def test_cell_poll_vm_a_status_of_a_newer_service_is_waited_on_the_whole_road(place: Place) -> None:
    seen = []

    def newer(method: str, path: str, body: bytes) -> bytes:
        if method == "GET" and path.endswith("/tasks/") and b'"running"' in body:
            seen.append(path)
            return body.replace(b'"running"', b'"warming up"')
        return body

    place.here()
    place.relay.rewrite = newer
    future = call(place)
    wait_for(lambda: future.status == "warming up")
    assert not future.done()
    place.gate.touch()
    assert future.result(timeout=60) == 42
    assert seen
