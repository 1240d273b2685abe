"""The claim: of all tasks that a service makes of one attempt, one starts, whatever becomes of the requests."""

from __future__ import annotations

import concurrent.futures
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from attempts import Attempt
from proxied import faulty, quick, tasks
from storefaults import FaultyStore, StoreFault, What, expired

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket
from dokrun.config import BucketSettings
from dokrun.emulator import Emulator
from dokrun.emulator.objects import ObjectStore
from dokrun.errors import TaskFailed
from dokrun.secret import Secret
from dokrun.shim import claim, protocol

__all__ = ["faulty", "quick"]

cloudpickle.register_pickle_by_value(sys.modules[__name__])

CLAIMS = "*/claims/*"


class Starts:
    """A function that writes down that it was started, with a pickle that writes down that it was opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def function(self) -> Callable[[], str]:
        folder, opened = self._folder, _Opened(self._folder)

        def start() -> str:
            opened  # noqa: B018 - it is opened with this
            (folder / f"started-{dok.current().task_id}").touch()
            return "done"

        return start

    @property
    def count(self) -> int:
        return len(list(self._folder.glob("started-*")))

    @property
    def opened(self) -> bool:
        return (self._folder / "opened").exists()


class _Opened:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> Any:
        return Path.touch, (self._folder / "opened",)


@pytest.fixture
def starts(tmp_path: Path) -> Starts:
    return Starts(tmp_path)


@pytest.fixture
def attempt(tmp_path: Path, faulty: FaultyStore, starts: Starts) -> Attempt:
    return Attempt(tmp_path, faulty, starts.function)


def test_of_two_tasks_of_one_attempt_exactly_one_starts(attempt: Attempt, starts: Starts) -> None:
    tasks = {name: attempt.container(name) for name in ("task-1", "task-2")}
    statuses = {name: task.end() for name, task in tasks.items()}
    assert sorted(statuses.values()) == [0, protocol.CLAIM_LOST]
    assert (starts.count, starts.opened) == (1, True)
    holder = attempt.claim["task"]
    assert statuses[holder] == 0
    (loser,) = set(tasks) - {holder}
    assert (tasks[loser].failure["reason"], tasks[loser].failure["ran"]) == (protocol.UNCLAIMED, "no")
    assert f"task {holder} has it" in tasks[loser].output


def test_cell_start_du_a_container_that_the_service_starts_twice_runs_once(attempt: Attempt, starts: Starts) -> None:
    first = attempt.container()
    assert first.end() == 0
    first.artifact.rename(first.artifact.with_name("first"))
    first.artifact.parent.rename(first.artifact.parent.with_name("moved"))
    again = attempt.container()
    assert again.end() == protocol.CLAIM_LOST
    assert (starts.count, again.failure["ran"]) == (1, "no")


def test_a_task_whose_attempt_was_given_up_opens_nothing(attempt: Attempt, starts: Starts) -> None:
    attempt.take_claim(json.dumps({"task": None, "nonce": "n"}).encode())
    task = attempt.container()
    assert task.end() == protocol.CLAIM_LOST
    assert "the client has given this attempt up; nothing was started" in task.output
    assert not starts.opened


@pytest.mark.parametrize("body", [b"\xff no JSON", b"[]", b"", b"null"])
def test_a_claim_that_nobody_can_read_is_somebody_elses(attempt: Attempt, starts: Starts, body: bytes) -> None:
    attempt.take_claim(body)
    task = attempt.container()
    assert task.end() == protocol.CLAIM_LOST
    assert "nobody can say whose it is" in task.output
    assert not starts.opened


@pytest.mark.parametrize(
    ("what", "phase"),
    [
        pytest.param("reset", "after", id="reset-after"),
        pytest.param("garbage", "after", id="garbage"),
        pytest.param("twice", "after", id="twice"),
        pytest.param("reset", "before", id="reset-before"),
        pytest.param("refuse", "before", id="refused"),
    ],
)
def test_a_claim_whose_answer_is_lost_is_found_to_be_ones_own(
    attempt: Attempt, starts: Starts, faulty: FaultyStore, what: What, phase: Any
) -> None:
    # A connection that is refused bears no path: the first is the payload's.
    faulty.add(StoreFault(what, method="PUT", path=CLAIMS, phase=phase, occurrence=2 if what == "refuse" else 1))
    task = attempt.container()
    assert task.end() == 0, task.output
    assert [it.what for it in faulty.injected] == [what]
    assert starts.count == 1
    assert attempt.claim["task"] == "task-1"
    committed = [request.status for request in faulty.asked("PUT", CLAIMS)]
    if phase == "after" and what != "twice":
        assert committed == [200, 412]


@pytest.mark.parametrize("status", [409, 429, 500, 503])
@pytest.mark.parametrize("phase", ["before", "after"])
def test_a_store_that_fails_for_a_while_is_asked_again(
    attempt: Attempt, starts: Starts, faulty: FaultyStore, status: int, phase: Any
) -> None:
    faulty.add(StoreFault("status", method="PUT", path=CLAIMS, phase=phase, status=status))
    task = attempt.container()
    assert task.end() == 0, task.output
    assert len(faulty.injected) == 1
    assert starts.count == 1


def test_a_store_that_never_takes_the_claim_ends_the_task_and_nothing_was_opened(
    attempt: Attempt, starts: Starts, faulty: FaultyStore
) -> None:
    faulty.add(StoreFault("status", method="PUT", path=CLAIMS, status=403, occurrence=None))
    task = attempt.container()
    assert task.end() == protocol.CLAIM_FAILED
    assert len(faulty.injected) == 1, "there is no use in asking again"
    assert (task.failure["reason"], task.failure["ran"]) == (protocol.UNCLAIMED, "no")
    assert "the claim of this attempt cannot be taken: HTTP 403" in task.output
    assert not starts.opened


def addresses(bucket: Bucket) -> tuple[str, str]:
    key = keys.claim(keys.new_id(), 1)
    return bucket.address_to_put(key, once=True), bucket.address(key)


@pytest.mark.parametrize("phase", ["before", "after"])
def test_an_answer_that_never_comes_is_not_waited_for(faulty: FaultyStore, phase: Any) -> None:
    faulty.add(StoreFault("hang", method="PUT", phase=phase))
    claim.take(*addresses(Bucket(faulty.settings)), "task-1", timeout_s=0.5)
    assert [it.what for it in faulty.injected] == ["hang"]


def test_a_claim_that_comes_a_byte_at_a_time_is_given_up_and_asked_for_again(faulty: FaultyStore) -> None:
    bucket = Bucket(faulty.settings)
    put, get = addresses(bucket)
    claim.take(put, get, "task-1")
    faulty.add(StoreFault("drip", method="GET", at_byte=0, every_s=0.2))
    with pytest.raises(claim.ClaimLost, match="task task-1 has it"):
        claim.take(put, get, "task-2", timeout_s=1.0)
    assert len(faulty.asked("GET", CLAIMS)) == 2


def test_without_the_header_that_the_address_is_signed_with_there_is_no_way_to_write_a_claim(
    faulty: FaultyStore,
) -> None:
    put, _ = addresses(Bucket(faulty.settings))
    assert "if-none-match" in put.partition("X-Amz-SignedHeaders=")[2].partition("&")[0]


def test_of_many_who_claim_at_the_same_moment_one_wins(store: ObjectStore) -> None:
    bucket = Bucket(BucketSettings(store.bucket, store.url, None, "anybody", Secret("canary-of-the-bucket")))

    def ask(put: str, body: bytes) -> int:
        request = urllib.request.Request(put, data=body, method="PUT", headers={"If-None-Match": "*"})
        try:
            with urllib.request.urlopen(request) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for _ in range(40):
                put, _ = addresses(bucket)
                statuses = sorted(pool.map(ask, [put] * 8, [b"%d" % number for number in range(8)]))
                assert statuses == [200] + [412] * 7
    finally:
        sys.setswitchinterval(interval_s)


def test_the_claim_comes_after_everything_is_verified_and_before_anything_is_opened(
    attempt: Attempt, starts: Starts, faulty: FaultyStore
) -> None:
    faulty.add(StoreFault("hang", method="PUT", path=CLAIMS))
    task = attempt.container()
    faulty.wait_for("hang")
    assert [request.method for request in faulty.requests][-2:] == ["GET", "PUT"], "the payload is here"
    assert not starts.opened
    task.process.kill()
    task.end()
    assert (starts.opened, attempt.claim) == (False, None)


@pytest.mark.parametrize("change", [{protocol.PAYLOAD_SHA256: "0" * 64}, {protocol.PAYLOAD_SIZE: "7"}])
def test_what_is_not_verified_does_not_use_the_claim_up(
    attempt: Attempt, starts: Starts, change: dict[str, str]
) -> None:
    attempt.environment |= change
    task = attempt.container()
    assert task.end() == 0
    assert task.failure["reason"] == protocol.TAMPERED
    assert (starts.opened, attempt.claim) == (False, None)


# Through the whole road.


@dok.remote(plan="v100-32gb")
def start_once(folder: Path) -> int:
    (folder / f"started-{dok.current().task_id}").touch()
    return dok.current().attempt


@pytest.mark.usefixtures("quick")
def test_a_claim_whose_address_has_expired_is_staged_again_without_retries(
    faulty: FaultyStore, starts: Starts, tmp_path: Path
) -> None:
    faulty.add(expired(CLAIMS, method="PUT"))
    start_once(tmp_path).result(timeout=60)
    assert len(faulty.injected) == 1
    assert starts.count == 1


@pytest.mark.usefixtures("quick")
def test_a_claim_that_no_task_can_take_fails_after_three_of_them_and_the_function_did_not_run(
    faulty: FaultyStore, starts: Starts, tmp_path: Path, dok: Emulator
) -> None:
    before = tasks(dok)
    # The client's own way to the bucket, which takes each claim after its task, is open.
    for number in (1, 2, 3):
        faulty.add(expired(f"*/claims/*/{number}", method="PUT"))
    error = start_once(tmp_path).exception(timeout=60)
    assert isinstance(error, TaskFailed)
    assert (error.ran, error.attempt) == ("no", 3)
    assert "exit status 78" in str(error)
    assert len(faulty.injected) == 3
    assert len(tasks(dok).keys() - before.keys()) == 3
    assert starts.count == 0


@pytest.mark.usefixtures("quick")
def test_a_task_that_has_the_claim_and_never_heard_so_says_that_it_started_nothing(
    faulty: FaultyStore, starts: Starts, tmp_path: Path
) -> None:
    faulty.add(StoreFault("reset", method="PUT", path=CLAIMS, phase="after"))
    faulty.add(expired(CLAIMS, method="GET"))
    assert start_once(tmp_path).result(timeout=60) == 2
    assert [it.what for it in faulty.injected] == ["reset", "status"]
    assert starts.count == 1
