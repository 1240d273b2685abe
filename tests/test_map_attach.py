"""Whoever attaches to a map gets what became of each call, whichever of the map's tasks it ran in."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import chores
import pytest
from account import Account
from attempts import job_of, main_process
from maps import SENT, account, once, ran, tasks, values
from places import PATIENCE_S, Place, failure, line, place, wait_for
from proxied import faulty
from storefaults import FaultyStore, expired
from test_attach import patiently

import dokrun as dok
from dokrun import engine
from dokrun.emulator import Fault
from dokrun.shim.envelope import unpack_all

__all__ = ["account", "faulty", "place"]

COUNT = 8


def told_by(futures: Sequence[dok.Future[Any]]) -> list[Any]:
    """Wait for each call's value; of one that failed, for its error's type and whether its function ran."""
    return [
        future.result()
        if future.exception(timeout=PATIENCE_S) is None
        else (type(failure(future)), failure(future).ran)
        for future in futures
    ]


def attached(account: Account, handle: str, state: str = "another machine") -> Sequence[dok.Future[Any]]:
    """Attach from a machine whose state is in this folder."""
    account.here(state)
    futures: Sequence[dok.Future[Any]] = dok.attach(handle).futures
    return futures


def of_two_tasks(account: Account, faulty: FaultyStore) -> Sequence[dok.Future[Any]]:
    """Let a map have its first call run in one task, and the others in another, since the first could not go on."""
    faulty.add(expired("*/1/begun", method="PUT", occurrence=None))
    futures = chores.pass_on.starmap([(account.starts, number) for number in range(COUNT)]).futures
    assert values(futures) == list(range(COUNT))
    assert tasks(account) == 2
    return futures


def test_what_this_process_has_begun_is_attached_to_as_itself_and_looked_for_by_nobody(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    gate = account.folder / "gate"
    # Its handle is there before its task is.
    alone = chores.stay(account.starts, gate)
    assert dok.attach(alone.handle) is alone
    several = chores.stay.starmap([(account.starts, gate)] * 3)
    same = dok.attach(several.futures[0].handle)
    assert same.futures == several.futures
    assert several.futures[0].handle[: len("stay-0123456789ab")] in repr(several)  # whose beginning is enough
    gate.touch()
    assert list(same) == list(several) == [alone.result(timeout=PATIENCE_S)] * 3
    assert (caplog.text, tasks(account)) == ("", 2)


@pytest.mark.parametrize("state", ["state", "another machine"])
def test_cell_map_k9_results_of_both_of_a_maps_tasks_are_got(account: Account, faulty: FaultyStore, state: str) -> None:
    futures = of_two_tasks(account, faulty)
    assert values(attached(account, futures[0].handle, state)) == list(range(COUNT))
    assert ran(account.starts) == once(futures)
    assert tasks(account) == 2


@pytest.mark.parametrize("state", ["state", "another machine"])
def test_cell_map_k9_results_of_a_container_that_was_lost_are_got_when_all_is_over(
    account: Account, state: str
) -> None:
    gate = account.folder / "gate"
    futures = chores.lose.starmap([(account.starts, number, 2, 0.11, gate) for number in range(COUNT)]).futures
    assert values(futures[:2]) == [0, 1], "they were sent ahead, and the artifact is lost"
    gate.touch()
    told = told_by(futures)
    assert told[:3] == [0, 1, (dok.TaskFailed, "yes")]
    before = ran(account.starts)
    # Twice, since whoever attaches cleans up too.
    assert told_by(attached(account, futures[0].handle, state)) == told
    assert told_by(attached(account, futures[0].handle, state)) == told
    assert ran(account.starts) == before


def test_cell_map_ce_results_that_nothing_else_holds_are_got_when_the_key_of_the_bucket_is_good_again(
    account: Account, faulty: FaultyStore
) -> None:
    faulty.add(expired(SENT, method="GET", occurrence=None))
    never = account.folder / "never"
    futures = chores.pass_on.starmap([(account.starts, n, never if n == 3 else None) for n in range(4)]).futures
    wait_for(lambda: sent(faulty) == {0, 1, 2} and len(faulty.injected) == len(faulty.asked("PUT", SENT)))
    os.kill(main_process(job_of(futures[0])), signal.SIGKILL)
    errors = [failure(future) for future in futures]
    assert {(type(error), error.ran, error.handle) for error in errors} == {(dok.TaskFailed, "yes", futures[0].handle)}
    faulty.clear()
    for state in ("state", "another machine"):
        assert told_by(attached(account, errors[0].handle, state)) == [0, 1, 2, (dok.TaskFailed, "yes")]
    assert ran(account.starts) == once(futures)


def sent(faulty: FaultyStore) -> set[int]:
    """Tell of which calls there are results that went ahead."""
    bodies = [memoryview(request.body) for request in faulty.asked("PUT", SENT)]
    return {header["call"] for body in bodies for _, header, _ in unpack_all(body)}


def test_where_the_first_tasks_results_cannot_be_fetched_now_the_others_are_got_and_all_of_them_later(
    account: Account, faulty: FaultyStore
) -> None:
    futures = of_two_tasks(account, faulty)
    first = min(account.client.tasks.iterate(), key=lambda task: str(task.created_at))
    assert first.artifact is not None
    (rule,) = account.faults(Fault("status", "GET", f"/artifacts/{first.artifact.id}/download/", None, status=403))
    told = attached(account, futures[0].handle)
    error = failure(told[0])
    assert account.injected(rule)
    assert isinstance(error, dok.ResultNotFetched)
    assert (error.attempt, error.handle) == (1, futures[0].handle)
    assert values(told[1:]) == list(range(1, COUNT))
    account.service.faults.remove(rule)
    assert values(attached(account, error.handle)) == list(range(COUNT))


@pytest.mark.parametrize("readable", [True, False], ids=["at the end", "by whoever attaches"])
def test_where_the_artifact_is_gone_what_was_sent_ahead_is_used(
    account: Account, faulty: FaultyStore, *, readable: bool
) -> None:
    (gone,) = account.faults(Fault("status", "GET", "/artifacts/*/download/", None, status=404))
    # What is announced first cannot be had while the task runs, or whatever is cannot at all.
    faulty.add(expired(SENT, method="GET", occurrence=1 if readable else None))
    calls = [(account.starts, number) for number in range(COUNT)]
    futures: Sequence[dok.Future[Any]] = chores.pass_on.options(detach=True).starmap(calls).futures
    if not readable:
        error = failure(futures[0])
        assert isinstance(error, dok.ResultNotFetched)
        engine.reset()
        assert faulty.injected
        faulty.clear()
        futures = attached(account, error.handle)
    assert values(futures) == list(range(COUNT))
    assert account.injected(gone)
    assert faulty.injected or not readable
    assert chores.started(account.starts) == COUNT


def test_where_somebody_has_deleted_the_first_task_its_call_is_told_as_such_and_the_others_are_got(
    account: Account, faulty: FaultyStore
) -> None:
    futures = of_two_tasks(account, faulty)
    first = min(account.client.tasks.iterate(), key=lambda task: str(task.created_at))
    account.client.tasks.delete(first.id)
    told = attached(account, futures[0].handle)
    error = failure(told[0])
    assert isinstance(error, dok.TaskFailed)
    assert error.ran == "maybe"
    assert "somebody deleted it" in str(error)
    assert values(told[1:]) == list(range(1, COUNT))


AGAIN = """
    import os, sys, time
    import dokrun as dok

    @dok.remote(plan="v100-32gb", timeout=120, retries=dok.Retry(1, on=(OSError,)))
    def job(number, starts, gate):
        with open(starts, "a") as file:
            file.write(dok.current().call_id + "\\n")
        if number == 1:
            raise ValueError(number)
        if number == 2 and dok.current().attempt == 1:
            raise OSError(number)
        while number == 3 and not os.path.exists(gate):
            time.sleep(0.01)
        return number

    starts, gate = sys.argv[1:3]
    coming = job.map(range(4), [starts] * 4, [gate] * 4, return_exceptions=True)
    print(coming.futures[0].handle, flush=True)
    print(list(coming), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["state", "another machine"])
def test_whoever_is_attached_follows_each_call_as_far_as_its_owner_does(place: Place, state: str) -> None:
    # The relay lets no websockets through, which early results are heard of by.
    here = {"DOKRUN_API_URL": place.dok.api_url}
    owner = place.start(AGAIN, **here)
    handle = line(owner)
    wait_for(lambda: place.started() == 4)
    # The next attempt is looked for as long as its owner needs to begin it.
    place.here(patiently, **here, DOKRUN_STATE_DIR=str(place.folder / state))
    first, second, *others = dok.attach(handle).futures
    assert first.result(timeout=PATIENCE_S) == 0, "it is heard of what was sent ahead"
    place.gate.touch()
    assert isinstance(second.exception(timeout=PATIENCE_S), ValueError)
    assert values(others) == [2, 3]
    assert line(owner) == "[0, ValueError(1), 2, 3]"
    assert (place.started(), len(place.tasks())) == (5, 2)
