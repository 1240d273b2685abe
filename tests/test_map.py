"""Many calls in one task, or few: their results as they come, and what becomes of each when something goes wrong."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import chores
import numpy as np
import pytest
from maps import told_by
from places import Place, kill, line, place, wait_for
from proxied import faulty, quick
from storefaults import FaultyStore

import dokrun as dok
from dokrun import engine, keys
from dokrun.api import Client
from dokrun.engine.attempts import Attempts
from dokrun.engine.reports import Outcome
from dokrun.map import Map
from dokrun.shim.envelope import segment_of

__all__ = ["faulty", "place", "quick"]


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    return tmp_path / "starts"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


# Results as they come.


@pytest.mark.usefixtures("account")
def test_results_do_not_wait_for_a_call_that_takes_long_and_was_given_out_with_theirs(starts: Path, gate: Path) -> None:
    # So many short ones that the long one is not given out alone.
    coming = chores.pass_on.map([starts] * 400, range(400), [gate if number == 300 else None for number in range(400)])
    assert [next(coming) for _ in range(300)] == list(range(300))
    gate.touch()
    assert list(coming) == list(range(300, 400))
    assert chores.started(starts) == 400


@pytest.mark.usefixtures("account")
def test_results_come_in_order_while_the_task_still_runs(starts: Path, gate: Path, client: Client) -> None:
    coming = chores.pass_on.map([starts] * 4, range(4), [None, None, None, gate])
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    last = coming.futures[3]
    assert client.tasks.get(str(last.task_id)).status == "running"
    assert not last.done()
    gate.touch()
    assert list(coming) == [3]
    assert last.result(timeout=60) == 3
    assert list(coming) == [], "each is handed out once"
    assert chores.started(starts) == 4


@pytest.mark.usefixtures("account")
def test_without_order_they_come_as_they_are_done(starts: Path, gate: Path) -> None:
    coming = chores.pass_on.map([starts] * 3, range(3), [gate, None, None], order=False, workers=2)
    assert [next(coming), next(coming)] == [1, 2]
    gate.touch()
    assert list(coming) == [0]


@pytest.mark.usefixtures("account")
def test_of_several_iterables_the_shortest_ends_it_and_a_starmaps_items_hold_all_arguments(starts: Path) -> None:
    assert list(chores.pass_on.map([starts] * 2, [1, 2, 3])) == [1, 2]
    assert list(chores.pass_on.starmap([(starts, 4), [starts, 5, None]])) == [4, 5]
    assert chores.started(starts) == 4


@pytest.mark.usefixtures("account")
def test_what_a_call_raised_is_raised_in_its_turn_and_the_rest_may_still_be_had() -> None:
    coming = chores.halve.map([2, 3, 4, 5])
    assert next(coming) == 1
    with pytest.raises(ValueError, match="3") as caught:
        next(coming)
    assert "halve" in str(caught.value.__cause__), "the traceback of the container"
    assert next(coming) == 2
    with pytest.raises(ValueError, match="5"):
        next(coming)
    assert list(coming) == []


@pytest.mark.usefixtures("account")
def test_exceptions_are_handed_out_as_results_where_that_is_asked_for() -> None:
    told: list[Any] = list(chores.halve.map([2, 3, 4], return_exceptions=True))
    first, second, third = told
    assert (first, third) == (1, 2)
    assert isinstance(second, ValueError)
    assert second.args == (3,)


@pytest.mark.usefixtures("account")
def test_a_map_can_be_awaited_and_gone_through_without_blocking_the_loop(starts: Path, gate: Path) -> None:
    async def one_after_another() -> list[int]:
        coming = chores.pass_on.map([starts] * 3, range(3), [None, None, gate])
        told = []
        async for number in coming:
            told.append(number)
            if number == 1:
                # Should the next step block this loop, nobody would open the gate.
                asyncio.get_running_loop().call_soon(gate.touch)
        return told

    async def all_at_once() -> Any:
        return await asyncio.gather(chores.halve.map([2, 4]), chores.halve.map([6, 7]), return_exceptions=True)

    assert asyncio.run(one_after_another()) == [0, 1, 2]
    good, bad = asyncio.run(all_at_once())
    assert good == [1, 2]
    assert isinstance(bad, ValueError)


@pytest.mark.usefixtures("account")
def test_each_call_has_a_future_of_its_own_and_all_share_one_task(starts: Path) -> None:
    coming = chores.pass_on.map([starts] * 3, range(3))
    futures = coming.futures
    assert [future.result(timeout=60) for future in futures] == [0, 1, 2]
    assert len({future.task_id for future in futures}) == 1
    assert sorted(future.call_id for future in futures) == sorted(starts.read_text().split())
    assert {future.handle for future in futures} == {futures[0].handle}
    assert futures[0].handle.endswith("x3")
    assert coming.futures == futures, "they are made once"
    assert list(coming) == [0, 1, 2], "futures take nothing away"


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("items", [[], iter(())], ids=["list", "generator"])
def test_a_map_of_nothing_sends_nothing(items: Any, client: Client) -> None:
    before = {task.id for task in client.tasks.iterate()}
    coming = chores.halve.map(items, tasks=2)
    assert list(coming) == []
    assert coming.futures == []
    assert not coming.cancel()

    async def wait() -> list[int]:
        return await chores.halve.map(items)

    assert asyncio.run(wait()) == []
    assert {task.id for task in client.tasks.iterate()} == before


# How the calls are packed.


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("sized", [True, False], ids=["list", "generator"])
def test_calls_are_shared_by_so_many_tasks_as_are_asked_for(starts: Path, *, sized: bool) -> None:
    items = [(starts, number) for number in range(7)]
    coming = chores.pass_on.starmap(items if sized else iter(items), tasks=3)
    futures = coming.futures
    assert list(coming) == list(range(7))
    assert sorted(Counter(future.task_id for future in futures).values()) == [1, 3, 3]
    assert chores.started(starts) == 7


@pytest.mark.usefixtures("account")
def test_with_two_workers_two_calls_run_at_the_same_time(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    coming = chores.meet.options(timeout=60).map([one, other], [other, one], workers=2)
    assert list(coming) == ["one", "other"]


def test_an_array_that_many_calls_are_given_is_uploaded_once(quick: FaultyStore, starts: Path) -> None:
    array = np.random.default_rng().random(200_000)
    assert list(chores.size_of.map([starts] * 50, [array] * 50)) == [200_000] * 50
    key = keys.blob(segment_of(array.data).sha256)
    assert [request.status for request in quick.asked("PUT", f"*/{key}")] == [200]
    largest = max(len(request.body) for request in quick.requests if not fnmatch.fnmatch(request.path, "*/blobs/*"))
    assert largest < array.nbytes
    assert chores.started(starts) == 50


def test_without_a_bucket_results_come_with_the_artifact(account: pytest.MonkeyPatch, starts: Path) -> None:
    for name in ("DOKRUN_BUCKET", "DOKRUN_S3_ENDPOINT_URL"):
        account.delenv(name)
    assert list(chores.pass_on.map([starts] * 5, range(5))) == list(range(5))
    assert [str(one) for one in chores.halve.map([2, 3, 4], return_exceptions=True)] == ["1", "3", "2"]
    with pytest.raises(dok.ConfigError, match="travel without a bucket"):
        chores.size_of.map([starts] * 2, [np.random.default_rng().bytes(100_000)] * 2)


# What is wrong with what was asked for.


@pytest.mark.parametrize(
    ("packing", "said"),
    [
        ({"tasks": 0}, "tasks=0 must be a whole number, 1 or more"),
        ({"tasks": None}, "tasks=None must be a whole number"),
        ({"workers": "2"}, "workers='2' must be a whole number, 1 or more, or \"auto\""),
        ({"workers": None}, "workers=None must be a whole number"),
        ({"workers": True}, "workers=True must be a whole number"),
        ({"order": 1}, "order=1 must be True or False"),
        ({"return_exceptions": "yes"}, "return_exceptions='yes' must be True or False"),
        ({"task": 2}, "map has no option 'task'; did you mean 'tasks'"),
    ],
)
@pytest.mark.usefixtures("account")
def test_a_wrong_option_is_named_before_anything_is_looked_at(packing: dict[str, Any], said: str) -> None:
    items: Iterator[Any] = iter([2, 4])
    for make in (chores.halve.map, chores.halve.starmap):
        with pytest.raises(dok.OptionError) as caught:
            make(items, **packing)
        assert said in str(caught.value)
    assert list(items) == [2, 4]


@pytest.mark.usefixtures("account")
def test_items_that_cannot_be_sent_are_refused_before_anything_is(starts: Path, client: Client) -> None:
    before = {task.id for task in client.tasks.iterate()}
    with pytest.raises(dok.NotSerializable, match="value"):
        chores.answer.map([starts] * 2, [1, threading.Lock()])
    with pytest.raises(dok.OptionError, match="pass_on"):
        chores.pass_on.map([starts])
    assert {task.id for task in client.tasks.iterate()} == before
    assert not starts.exists()


# Calls that are cancelled.


@pytest.mark.usefixtures("account")
def test_cancelling_a_map_ends_its_task(starts: Path, gate: Path, client: Client) -> None:
    coming = chores.pass_on.map([starts] * 3, range(3), [None, gate, None])
    assert next(coming) == 0
    futures = coming.futures
    assert coming.cancel()
    wait_for(lambda: client.tasks.get(str(futures[0].task_id)).status == "canceled")
    assert [future.cancelled() for future in futures] == [False, True, True]
    assert [type(one) for one in told_by(coming)] == [CancelledError] * 2
    assert not coming.cancel(), "there is nothing left to cancel"
    assert chores.started(starts) == 2


@pytest.mark.usefixtures("account")
def test_an_engine_that_is_closed_while_it_listens_to_a_map_says_nothing_but_that(
    starts: Path, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coming = chores.pass_on.map([starts] * 3, range(3), [None, None, gate])
    assert [next(coming), next(coming)] == [0, 1]
    engine.reset()
    for thread in threading.enumerate():
        if thread.name == "dokrun-wait":
            thread.join()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    with pytest.raises(CancelledError):
        next(coming)


@pytest.mark.usefixtures("account")
def test_cancelling_one_of_the_futures_leaves_the_others(starts: Path, gate: Path) -> None:
    coming = chores.pass_on.map([starts] * 4, range(4), [gate, None, None, None])
    futures = coming.futures
    wait_for(lambda: chores.started(starts) == 1)
    assert futures[2].cancel()
    gate.touch()
    assert [futures[number].result(timeout=60) for number in (0, 1, 3)] == [0, 1, 3]
    told = told_by(coming)
    assert [told[number] for number in (0, 1, 3)] == [0, 1, 3]
    assert isinstance(told[2], CancelledError)


@pytest.mark.usefixtures("account")
def test_cancelling_all_of_the_futures_ends_the_task(starts: Path, gate: Path, client: Client) -> None:
    coming = chores.pass_on.map([starts] * 2, range(2), [gate, gate])
    futures = coming.futures
    wait_for(lambda: chores.started(starts) == 1)
    assert all(future.cancel() for future in futures)
    wait_for(lambda: client.tasks.get(str(futures[0].task_id)).status == "canceled")
    assert [type(one) for one in told_by(coming)] == [CancelledError] * 2


# Processes and containers that die.


@pytest.mark.usefixtures("account")
def test_a_call_that_kills_its_worker_is_blamed_alone(starts: Path) -> None:
    told = told_by(chores.perish.map([starts] * 20, range(20), [12] * 20))
    assert [one for one in told if isinstance(one, int)] == [number for number in range(20) if number != 12]
    assert isinstance(told[12], dok.WorkerDied)
    assert (told[12].ran, told[12].signal) == ("yes", 9)
    assert chores.started(starts) == 20


@pytest.mark.usefixtures("account")
def test_cell_map_oo_where_a_container_is_lost_what_was_not_begun_runs_in_another_and_nothing_runs_twice(
    starts: Path, gate: Path
) -> None:
    # So slow that each is begun alone, and few are announced ahead of their turn.
    coming = chores.lose.starmap([(starts, number, 2, 0.11, gate) for number in range(16)])
    assert [next(coming), next(coming)] == [0, 1]
    futures = coming.futures
    first_task = futures[0].task_id
    gate.touch()
    lost, *rest = told_by(coming)
    assert isinstance(lost, dok.TaskFailed)
    assert (lost.ran, lost.call_id, lost.task_id, lost.attempt) == ("yes", futures[2].call_id, first_task, 1)
    unknown = [one for one in rest if isinstance(one, dok.TaskFailed)]
    assert all(one.ran == "maybe" and one.task_id == first_task for one in unknown)
    others = list(range(3 + len(unknown), 16))
    assert rest == [*unknown, *others], "those that may have been begun come first, and the others have run"
    assert len(others) > 5
    assert futures[15].task_id != first_task
    assert Counter(starts.read_text().split()) == {futures[number].call_id: 1 for number in (0, 1, 2, *others)}


@pytest.mark.usefixtures("account")
def test_cell_map_oo_of_calls_that_were_begun_together_it_is_not_known_which_ran(starts: Path) -> None:
    told = told_by(chores.lose.starmap([(starts, number, 200) for number in range(400)]))
    lost = {number for number, one in enumerate(told) if isinstance(one, dok.TaskFailed)}
    assert 200 in lost
    assert told[200].ran == "maybe"
    # The first ones were given out alone, so of those it is known.
    assert {told[number].ran for number in lost} <= {"maybe", "yes"}
    assert all(told[number] == number for number in range(400) if number not in lost)
    assert max(Counter(starts.read_text().split()).values()) == 1


@pytest.mark.usefixtures("account")
def test_with_retries_what_was_lost_with_a_container_runs_again(starts: Path, gate: Path) -> None:
    items = [(starts, number, 2, 0.11, gate) for number in range(8)]
    coming = chores.lose.options(retries=1).starmap(items)
    assert [next(coming), next(coming)] == [0, 1]
    futures = coming.futures
    gate.touch()
    assert list(coming) == [2, 3, 4, 5, 6, 7]
    ran = Counter(starts.read_text().split())
    assert ran == {future.call_id: 2 if number == 2 else 1 for number, future in enumerate(futures)}


# Another process.


@pytest.mark.parametrize("elsewhere", [False, True])
def test_whoever_attaches_to_a_map_that_has_lost_a_container_gets_what_each_of_its_tasks_has(
    account: pytest.MonkeyPatch, tmp_path: Path, starts: Path, gate: Path, *, elsewhere: bool
) -> None:
    items = [(starts, number, 2, 0.11, gate) for number in range(8)]
    coming = chores.lose.options(detach=True).starmap(items)
    first = [next(coming), next(coming)]
    handle = coming.futures[0].handle
    gate.touch()
    told = [*first, *told_by(coming)]
    assert told[:2] == [0, 1]
    assert told[-1] == 7
    # It ends when it has removed from the bucket what nobody needs any more.
    engine.reset()
    if elsewhere:
        account.setenv("DOKRUN_STATE_DIR", str(tmp_path / "elsewhere"))
    attached = dok.attach(handle)
    assert isinstance(attached, Map)
    assert [said(one) for one in told_by(attached)] == [said(one) for one in told]


def test_whoever_is_attached_counts_the_attempts_of_each_call_and_not_those_of_the_job() -> None:
    watching = Attempts(dok.Retry(1), ours=False)
    unbegun = Outcome(error=dok.TaskFailed("lost", ran="no"), again=True)
    for attempt in (1, 2):
        final, following = watching.after([(0, unbegun)], attempt)
        assert not final
        assert following is not None
    died = Outcome(error=dok.WorkerDied("died", ran="yes", signal=9))
    final, following = watching.after([(0, died)], 3)
    assert not final, "it has started once, and may start once more"
    assert following is not None
    assert watching.after([(0, died)], following.attempt) == ([(0, died)], None)


def said(told: object) -> object:
    return (type(told), told.ran, told.task_id) if isinstance(told, dok.TaskFailed) else told


MAP = """
    import os, sys, time
    import dokrun as dok

    @dok.remote(plan="v100-32gb", timeout=120)
    def job(number, starts, gate):
        with open(starts, "a") as file:
            file.write(dok.current().call_id + "\\n")
        while number == 2 and not os.path.exists(gate):
            time.sleep(0.01)
        if number == 4:
            raise ValueError(number)
        return number * 2

    starts, gate = sys.argv[1:3]
    coming = job.map(range(1, 6), [starts] * 5, [gate] * 5)
    print(coming.futures[0].handle, flush=True)
    print(next(coming), flush=True)
    sys.stdin.read()
"""
ATTACH = """
    import sys
    import dokrun as dok
    coming = dok.attach(sys.argv[3])
    print(next(coming), flush=True)
    open(sys.argv[2], "w").close()
    print(next(coming), flush=True)
    print(next(coming), flush=True)
    try:
        next(coming)
    except ValueError as error:
        print(error.args, flush=True)
    print(next(coming), next(coming, "no more"), flush=True)
"""


@pytest.mark.parametrize("state", ["state", "elsewhere"])
def test_cell_map_k9_another_process_gets_all_results_of_a_map_as_they_come(place: Place, state: str) -> None:
    # The relay lets no websockets through, which early results are heard of by.
    here = {"DOKRUN_API_URL": place.dok.api_url}
    child = place.start(MAP, **here)
    handle = line(child)
    assert line(child) == "2"
    kill(child)
    other = place.start(ATTACH, handle, **here, DOKRUN_STATE_DIR=str(place.folder / state))
    assert [line(other) for _ in range(5)] == ["2", "4", "6", "(4,)", "10 no more"]
    assert place.started() == 5
    assert len(place.tasks()) == 1
