"""However `POST /tasks/` goes wrong, one task of the attempt is left, or none that can start; two services judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
from heard import Heard
from services import CANCEL, CREATE, LIST, Service, Wire, opened
from waiting import wait_for

from dokrun import errors, keys
from dokrun.api import Client
from dokrun.api.models import ContainerRequest, CreateTaskRequest, Task
from dokrun.bucket import Bucket
from dokrun.config import BucketSettings
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.definition import Identity, digest
from dokrun.engine.submit import CLIENT, PAUSES_S, POSTS, GivenUp, Submitter, Unknown, only
from dokrun.secret import Secret
from dokrun.shim import protocol

LOOKS = len(PAUSES_S)
WAITS = "import time; time.sleep(600)"


def definition(job_id: str, *, attempt: int = 1, second: str = WAITS, code: str = "shim") -> CreateTaskRequest:
    """Make a task that waits or runs until it is cancelled; `code` stands where its shim's digest would."""
    environment = {protocol.JOB_ID: job_id, protocol.ATTEMPT: str(attempt)}
    command = ["-c", second, code, "-", "{}"]
    container = ContainerRequest("any", command, ["python3"], "v100-32gb", environment=environment)
    return CreateTaskRequest("work", [container], [keys.OURS, keys.job_tag(job_id)], 600)


class Attempt:
    """One attempt of a job, to be submitted; what its waits are told is in `pauses`, and `at_pause` happens in them."""

    def __init__(self, service: Service, bucket: Bucket | None, clients: ExitStack) -> None:
        self.service = service
        self.bucket = bucket
        self.wire = Wire(service.api_url)
        self.client = clients.enter_context(service.client(wire=self.wire))
        self.eyes = service.eyes
        self.request = definition(keys.new_id())
        self.identity = Identity(self.request.containers[0].environment[protocol.JOB_ID], digest(self.request))
        self.pauses: list[float] = []
        self.at_pause: Callable[[int], object] = lambda _: None
        self.stop: Callable[[], bool] = lambda: False

    def _sleep(self, seconds: float) -> None:
        if seconds:
            self.pauses.append(seconds)
            self.at_pause(len(self.pauses))

    def submitter(self, client: Client | None = None) -> Submitter:
        return Submitter(client or self.client, self.bucket, self._sleep, self.stop)

    def submit(self, **options: Any) -> Task:
        return self.submitter().submit(self.identity, 1, self.request, **options)

    def put(self, **changes: Any) -> Task:
        """Create a task with the job's tag without the submitter."""
        return self.eyes.tasks.create(definition(self.identity.job_id, **changes))

    def claim(self, task_id: str) -> None:
        """Take the claim as the task's shim would."""
        assert self.bucket is not None
        body = json.dumps({"task": task_id, "nonce": "0", "begun": 1}).encode()
        assert self.bucket.claim(keys.claim(self.identity.job_id, 1), body) is None

    @property
    def tasks(self) -> list[Task]:
        """What the service has with the job's tag, oldest first."""
        return list(self.eyes.tasks.iterate(tag=keys.job_tag(self.identity.job_id)))[::-1]

    @property
    def left(self) -> list[str]:
        return [task.id for task in self.tasks if not task.ended]

    def settle(self) -> Task:
        """Do what the watcher does when it sees all of the job's tasks."""
        submitter = self.submitter()
        return submitter.choose(self.identity, 1, submitter.tasks_of(self.identity))

    @property
    def posts(self) -> int:
        return self.wire.count(CREATE)


@pytest.fixture(scope="module", params=["emulator", "minimal"])
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with opened(request.param, tmp_path_factory.mktemp("dok")) as service:
        yield service


@pytest.fixture
def service(each: Service) -> Iterator[Service]:
    yield each
    each.mend()


@pytest.fixture(scope="module")
def bucket(store: ObjectStore) -> Iterator[Bucket]:
    bucket = Bucket(BucketSettings(store.bucket, store.url, None, "anybody", Secret("canary-of-the-bucket")))
    yield bucket
    bucket.close()


@pytest.fixture
def attempt(service: Service, bucket: Bucket) -> Iterator[Attempt]:
    with ExitStack() as clients:
        yield Attempt(service, bucket, clients)


@pytest.fixture
def unfenced(service: Service) -> Iterator[Attempt]:
    """An attempt without a bucket, and so without claims."""
    with ExitStack() as clients:
        yield Attempt(service, None, clients)


# --- one request goes wrong


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("hang before commit", id="cell_post_t0-hang"),
        pytest.param("reset before commit", id="cell_post_t0-reset"),
        pytest.param("status 500 before commit", id="cell_post_5x-500"),
        pytest.param("status 503 before commit", id="cell_post_5x-503"),
        pytest.param("status 429 before commit", id="cell_post_5x-429"),
        pytest.param("status 408 before commit", id="cell_post_t0-408"),
    ],
)
def test_what_was_not_created_is_looked_for_and_then_sent_again(attempt: Attempt, kind: str) -> None:
    attempt.service.fault(CREATE, kind)
    task = attempt.submit()
    assert attempt.service.injected == 1
    assert (attempt.posts, attempt.left, len(attempt.tasks)) == (2, [task.id], 1)
    assert attempt.pauses == list(PAUSES_S)
    assert sum(attempt.pauses) > 60, "it had more than a minute to show"


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("hang after commit", id="cell_post_t1-hang"),
        pytest.param("reset after commit", id="cell_post_t1-reset"),
        pytest.param("status 503 after commit", id="cell_post_5x-503"),
        pytest.param("status 429 after commit", id="cell_post_5x-429"),
        pytest.param("status 408 after commit", id="cell_post_t1-408"),
        pytest.param("cut body after commit", id="cell_post_mb-cut"),
        pytest.param("not JSON after commit", id="cell_post_mb-garbage"),
        pytest.param("slow body after commit", id="cell_post_sb"),
    ],
)
def test_what_was_created_is_found_by_its_tag_and_never_sent_twice(attempt: Attempt, kind: str) -> None:
    attempt.service.fault(CREATE, kind)
    task = attempt.submit()
    assert attempt.service.injected == 1
    assert (attempt.posts, attempt.left, len(attempt.tasks)) == (1, [task.id], 1)
    assert attempt.pauses == [1.0]


def test_cell_post_rf_a_refused_connection_is_tried_again_at_once(service: Service, bucket: Bucket) -> None:
    with ExitStack() as clients:
        attempt = Attempt(service, bucket, clients)
        attempt.client = clients.enter_context(service.client(wire=attempt.wire, pause=lambda _: service.open()))
        attempt.client.check_clock()
        service.shut()
        task = attempt.submit()
        assert attempt.wire.statuses[-2:] == [None, 201], "the first one was refused"
        assert (attempt.left, attempt.pauses) == ([task.id], [])


def test_cell_post_rf_a_service_that_refuses_every_connection_has_no_task(attempt: Attempt) -> None:
    attempt.client.check_clock()
    attempt.service.shut()
    with pytest.raises(errors.NotSent):
        attempt.submit()
    assert set(attempt.wire.statuses[1:]) == {None}
    attempt.service.open()
    assert attempt.tasks == []


def test_cell_post_ce_a_refused_key_is_an_error_and_no_task(attempt: Attempt) -> None:
    with attempt.service.client(wire=attempt.wire, secret="expired") as client, pytest.raises(errors.Unauthorized):
        attempt.submitter(client).submit(attempt.identity, 1, attempt.request)
    assert attempt.wire.statuses[-1] == 401
    assert (attempt.posts, attempt.tasks, attempt.pauses) == (1, [], [])
    assert attempt.submitter().fence(attempt.identity, 1) is None, "nobody has started it"


# --- the service's word cannot be had


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("status 503 before commit", id="cell_post_5x"),
        pytest.param("late", id="cell_post_t1-late"),
    ],
)
def test_what_never_shows_is_given_up_by_taking_its_claim(attempt: Attempt, kind: str) -> None:
    attempt.service.fault(CREATE, kind, times=POSTS)
    with pytest.raises(GivenUp):
        attempt.submit()
    assert attempt.service.injected == attempt.posts == POSTS
    assert attempt.submitter().holder(attempt.identity, 1) == CLIENT
    attempt.service.commit_late()
    wait_for(lambda: len(attempt.tasks) == (POSTS if kind == "late" else 0))
    with pytest.raises(GivenUp):
        attempt.submitter().give_up(attempt.identity, 1)


def test_cell_post_5x_without_a_bucket_nobody_knows(unfenced: Attempt) -> None:
    unfenced.service.fault(CREATE, "status 503 before commit", times=POSTS)
    with pytest.raises(Unknown, match="without a bucket"):
        unfenced.submit()
    assert unfenced.service.injected == unfenced.posts == POSTS


def test_cell_post_5x_with_a_bucket_that_refuses_nobody_knows(service: Service, store: ObjectStore) -> None:
    with ExitStack() as clients:
        gone = Bucket(BucketSettings("no-such-bucket", store.url, None, "anybody", Secret("canary-of-the-bucket")))
        attempt = Attempt(service, gone, clients)
        service.fault(CREATE, "status 503 before commit", times=POSTS)
        with pytest.raises(Unknown, match="NoSuchBucket"):
            attempt.submit()
        assert service.injected == POSTS


@pytest.mark.parametrize(
    "happens",
    [pytest.param("expire_key", id="cell_post_ce-later"), pytest.param("shut", id="cell_post_rf-later")],
)
def test_a_refusal_after_an_unknown_answer_proves_nothing_so_the_claim_is_taken(attempt: Attempt, happens: str) -> None:
    attempt.service.fault(CREATE, "late")
    attempt.at_pause = lambda number: number == 1 and getattr(attempt.service, happens)()
    with pytest.raises(GivenUp):
        attempt.submit()
    assert attempt.service.injected >= 1
    assert attempt.wire.statuses[-1] in (401, None)
    assert attempt.submitter().holder(attempt.identity, 1) == CLIENT, "what is created late cannot start"


def test_cell_post_t1_a_list_that_stays_stale_does_not_hide_who_has_started(attempt: Attempt) -> None:
    attempt.service.fault(CREATE, "status 503 after commit", times=POSTS)
    attempt.wire.changes[LIST] = lambda answer: {**answer, "results": []}

    def at_pause(number: int) -> None:
        if number == 2 * LOOKS:
            attempt.claim(attempt.tasks[1].id)

    attempt.at_pause = at_pause
    bound = attempt.submit()
    assert (attempt.service.injected, attempt.wire.changed, attempt.posts) == (POSTS, POSTS * LOOKS, POSTS)
    assert bound.id == attempt.tasks[1].id, "the claim's holder is the one that runs"
    attempt.wire.changes.clear()
    assert attempt.settle().id == bound.id
    wait_for(lambda: attempt.left == [bound.id])


def test_cell_post_cx_after_a_cancel_nothing_more_is_sent(attempt: Attempt) -> None:
    attempt.service.fault(CREATE, "status 503 before commit")
    with pytest.raises(GivenUp):
        attempt.submit(wanted=lambda: False)
    assert (attempt.service.injected, attempt.posts, attempt.tasks) == (1, 1, [])


def test_cell_post_cx_what_was_created_is_still_found_after_a_cancel(attempt: Attempt) -> None:
    attempt.service.fault(CREATE, "reset after commit")
    task = attempt.submit(wanted=lambda: False)
    assert (attempt.service.injected, attempt.posts, attempt.left) == (1, 1, [task.id])


def test_a_client_that_is_being_closed_sends_no_second_request(attempt: Attempt) -> None:
    attempt.service.fault(CREATE, "status 503 before commit")
    attempt.stop = lambda: True
    with pytest.raises(GivenUp):
        attempt.submit()
    assert (attempt.service.injected, attempt.posts) == (1, 1)


# --- more than one task


@pytest.mark.parametrize("claimed", [None, 0, 1], ids=["unclaimed", "first", "second"])
def test_cell_post_t1_of_two_tasks_the_claims_holder_or_else_the_oldest_is_kept(
    attempt: Attempt, claimed: int | None
) -> None:
    attempt.service.fault(CREATE, "status 503 after commit", times=2)
    attempt.wire.changes[LIST] = lambda answer: {**answer, "results": []}

    def at_pause(number: int) -> None:
        if number == 2 * LOOKS:
            attempt.wire.changes.clear()
            if claimed is not None:
                attempt.claim(attempt.tasks[claimed].id)

    attempt.at_pause = at_pause
    with Heard("dokrun.engine") as heard:
        bound = attempt.submit()
    assert (attempt.service.injected, attempt.posts, len(attempt.tasks)) == (2, 2, 2)
    oldest = min(attempt.tasks, key=lambda task: (task.created_at, task.id))
    assert bound.id == (oldest if claimed is None else attempt.tasks[claimed]).id
    wait_for(lambda: attempt.left == [bound.id])
    assert "the service made a second task" in " ".join(heard.messages("dokrun"))


@pytest.mark.parametrize("fails", [False, True], ids=["cancelled", "cancelled at the second try"])
def test_cell_post_du_a_request_that_was_taken_twice_leaves_one_task(attempt: Attempt, *, fails: bool) -> None:
    attempt.service.fault(CREATE, "twice")
    if fails:
        attempt.service.fault(CANCEL, "status 503 before commit")
    attempt.submit()
    assert (attempt.service.injected, attempt.posts, len(attempt.tasks)) == (1, 1, 2)
    kept = attempt.settle()
    assert attempt.service.injected == 1 + fails
    wait_for(lambda: attempt.left == [kept.id])


def test_of_ended_tasks_without_a_claim_none_is_preferred_to_one_that_may_still_start(attempt: Attempt) -> None:
    former, fresh = end(attempt, attempt.put()), attempt.put()
    assert attempt.submitter().choose(attempt.identity, 1, [former, fresh]).id == fresh.id
    assert attempt.submitter().find(attempt.identity, only(1), former={fresh.id}) == former
    attempt.claim(former.id)
    assert attempt.submitter().choose(attempt.identity, 1, [former, fresh]).id == former.id
    wait_for(lambda: attempt.left == [])


def test_without_a_bucket_an_ended_task_that_is_the_oldest_is_kept(unfenced: Attempt) -> None:
    former, fresh = end(unfenced, unfenced.put()), unfenced.put()
    tasks = [msgspec.structs.replace(former, created_at=None), fresh]
    assert unfenced.submitter().choose(unfenced.identity, 1, [former, fresh]).id in (former.id, fresh.id)
    assert unfenced.submitter().choose(unfenced.identity, 1, tasks).id == fresh.id, "one without a time is the last"


def test_cell_post_du_a_further_attempt_is_not_taken_for_the_former_one(attempt: Attempt) -> None:
    former = attempt.put()
    second = definition(attempt.identity.job_id, attempt=2)
    attempt.service.fault(CREATE, "status 503 after commit")
    task = attempt.submitter().submit(attempt.identity, 2, second)
    assert attempt.service.injected == 1
    assert task.id != former.id
    assert attempt.left == [former.id, task.id]


# --- tasks that are not the job's own


def test_cell_post_to_a_task_of_somebody_elses_is_neither_adopted_nor_touched(attempt: Attempt) -> None:
    foreign = attempt.put(second=WAITS + "; 1")
    attempt.service.fault(CREATE, "status 503 before commit")
    with Heard("dokrun.engine") as heard:
        task = attempt.submit()
    assert (attempt.service.injected, attempt.posts) == (1, 2)
    assert attempt.left == [foreign.id, task.id]
    assert not [path for _, path, _ in attempt.wire.sent if foreign.id in path]
    assert f"are not its own: {foreign.id}" in " ".join(heard.messages("dokrun"))


def test_cell_post_to_an_answer_about_another_definition_is_not_believed(attempt: Attempt) -> None:
    attempt.wire.changes[CREATE] = other_command
    task = attempt.submit()
    assert attempt.wire.changed == 1
    assert (attempt.posts, attempt.left) == (1, [task.id])
    assert attempt.identity.owns(task)


def test_cell_post_to_where_every_answer_differs_nothing_is_adopted_or_cancelled(attempt: Attempt) -> None:
    attempt.wire.changes[CREATE] = other_command
    attempt.wire.changes[LIST] = lambda answer: {**answer, "results": [*map(other_command, answer["results"])]}
    with pytest.raises(GivenUp):
        attempt.submit()
    assert attempt.wire.changed == POSTS * (1 + LOOKS)
    assert len(attempt.left) == POSTS
    assert attempt.submitter().holder(attempt.identity, 1) == CLIENT, "none of them can start"


def test_cell_post_to_a_claim_that_names_somebody_elses_task_adopts_nothing(attempt: Attempt) -> None:
    foreign = attempt.put(second=WAITS + "; 1")
    attempt.claim(foreign.id)
    attempt.service.fault(CREATE, "status 503 before commit", times=POSTS)
    with pytest.raises(Unknown, match="not one of the job's own"):
        attempt.submit()
    assert attempt.service.injected == POSTS
    assert attempt.left == [foreign.id]


def test_cell_post_vm_a_task_of_another_version_with_the_same_tag_is_not_adopted(attempt: Attempt) -> None:
    other = attempt.put(code="another shim's digest")
    attempt.service.fault(CREATE, "status 503 before commit", times=POSTS)
    with pytest.raises(GivenUp):
        attempt.submit()
    assert attempt.service.injected == POSTS
    assert attempt.left == [other.id], "and it is not cancelled"


def test_cell_post_t1_the_task_is_found_on_a_later_page_of_the_list(attempt: Attempt) -> None:
    attempt.service.fault(CREATE, "reset after commit")

    def crowd(_: int) -> None:
        for _number in range(101):
            attempt.put(second="pass")

    attempt.at_pause = crowd
    task = attempt.submit()
    assert (attempt.service.injected, attempt.posts) == (1, 1)
    assert attempt.wire.count(LIST) == 2
    assert task.id == attempt.tasks[0].id


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("status 503 before commit", id="cell_post_5x-list"),
        pytest.param("cut body after commit", id="cell_post_mb-list"),
        pytest.param("reset before commit", id="cell_post_t0-list"),
    ],
)
def test_a_look_that_fails_is_not_an_empty_list(attempt: Attempt, kind: str) -> None:
    attempt.service.fault(CREATE, "status 503 after commit")
    attempt.service.fault(LIST, kind, times=2 * 3)  # a look is three requests
    task = attempt.submit()
    assert attempt.service.injected == 1 + 2 * 3
    assert (attempt.posts, attempt.left) == (1, [task.id])
    assert attempt.pauses == [1.0, 2.0, 4.0]


def other_command(task: Any) -> Any:
    task["containers"][0]["command"][1] += " "
    return task


def end(attempt: Attempt, task: Task) -> Task:
    attempt.eyes.tasks.cancel(task.id)
    wait_for(lambda: attempt.eyes.tasks.get(task.id).ended)
    return attempt.eyes.tasks.get(task.id)
