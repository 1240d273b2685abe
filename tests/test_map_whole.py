"""A map looks at its items bit by bit; what is stopped or goes wrong meanwhile stops it all, or is told at its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from maps import Begun, told_by
from waiting import PATIENCE_S

import dokrun as dok


def test_where_the_bucket_refuses_the_second_task_the_error_says_that_the_first_goes_on() -> None:
    begun = Begun(iter(range(7)), refused=2)
    coming = begun.map()
    begun.settle(0)
    with pytest.raises(dok.SubmitFailed, match=r"the rest of halve\.map was not submitted: full") as caught:
        next(coming)
    assert "may still run" in str(caught.value)
    assert [next(coming) for _ in range(3)] == [0, 1, 2]


def test_where_the_bucket_refuses_the_first_task_nothing_runs() -> None:
    with pytest.raises(dok.SubmitFailed, match=r"^halve\.map was not submitted: full\n.* nothing of it runs any more"):
        Begun(iter(range(7)), refused=0).map()


def test_without_order_no_result_waits_for_another_tasks() -> None:
    begun = Begun(iter(range(12)))
    coming = begun.map(order=False)
    begun.settle(1)
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    begun.settle(0)
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    begun.settle(2)
    assert next(coming) == 0
    assert len(begun.jobs) == 4, "those that are over make room for others"


def test_a_generator_is_looked_at_no_further_than_two_tasks_hold() -> None:
    begun = Begun(iter(range(10)))
    coming = begun.map()
    assert [len(job) for job in begun.jobs] == [3, 3]
    assert begun.given == list(range(6))
    begun.settle(0)
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    assert begun.given == list(range(9)), "as one task is done, the next is made"
    begun.settle(1)
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    assert begun.given == list(range(10))
    begun.settle(2)
    begun.settle(3)
    assert list(coming) == [0, 1, 2, 0]


def test_where_an_item_of_the_second_task_cannot_be_sent_the_first_is_cancelled() -> None:
    begun = Begun(iter([1, 2, 3, 4, threading.Lock(), 6]))
    with pytest.raises(dok.NotSerializable):
        begun.map()
    (job,) = begun.jobs
    assert job.cancelled()


def test_an_item_that_cannot_be_sent_is_told_at_once_and_what_was_sent_before_it_still_comes() -> None:
    begun = Begun(iter([*range(7), threading.Lock(), 8, 9]))
    coming = begun.map()
    begun.settle(0)
    with pytest.raises(dok.NotSerializable):
        next(coming)
    with pytest.raises(dok.NotSerializable):
        _ = coming.futures
    begun.settle(1)
    assert [next(coming) for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    with pytest.raises(dok.NotSerializable):
        next(coming)  # it must not end as if it were whole
    assert next(coming, None) is None
    assert [len(job) for job in begun.jobs] == [3, 3], "nothing is sent that a gap would come before"


def interrupted(items: int) -> Iterator[int]:
    """Yield some items, after which somebody stops the process."""
    yield from range(items)
    raise KeyboardInterrupt


def test_a_map_that_was_interrupted_while_it_was_preparing_does_not_end_as_if_it_were_whole() -> None:
    begun = Begun(interrupted(7))
    coming = begun.map()
    begun.settle(0)
    with pytest.raises(KeyboardInterrupt):
        next(coming)
    begun.settle(1)
    *told, last = told_by(coming)
    assert told == [0, 1, 2, 0, 1, 2]
    assert isinstance(last, dok.SubmitFailed)
    assert last.ran == "no"
    assert "halve.map is not whole: its last items were not submitted, since KeyboardInterrupt" in str(last)


def test_a_map_that_is_awaited_does_not_end_as_if_it_were_whole_either() -> None:
    begun = Begun(iter([*range(6), threading.Lock()]))
    coming = begun.map()
    begun.settle(0)
    begun.settle(1)

    async def wait() -> Any:
        return await asyncio.gather(coming, return_exceptions=True)

    for _ in range(2):
        (error,) = asyncio.run(wait())
        assert isinstance(error, dok.NotSerializable)


class Gated:
    """Items of which one is long in coming."""

    def __init__(self, before: int, after: int) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._before, self._after = before, after

    def __iter__(self) -> Iterator[int]:
        yield from range(self._before)
        self.reached.set()
        assert self.opened.wait(PATIENCE_S)
        yield from range(self._after)


def test_cancelling_a_map_cancels_the_task_that_is_being_prepared_and_begins_no_other() -> None:
    items = Gated(7, 9)
    begun = Begun(iter(items))
    coming, told = begun.map(), list[Any]()
    begun.settle(0)
    waiting = threading.Thread(target=lambda: told.extend(told_by(coming)))
    waiting.start()
    assert items.reached.wait(PATIENCE_S)
    assert coming.cancel()
    items.opened.set()
    waiting.join(PATIENCE_S)
    assert [job.cancelled() for job in begun.jobs] == [False, True, True]
    assert told[:3] == [0, 1, 2]
    assert [type(one) for one in told[3:]] == [CancelledError] * 6


def test_whoever_asks_while_another_thread_looks_at_the_items_gets_all_of_them() -> None:
    items = Gated(7, 2)
    begun = Begun(iter(items))
    coming = begun.map()
    begun.settle(0)
    waiting = threading.Thread(target=next, args=(coming,))
    waiting.start()
    assert items.reached.wait(PATIENCE_S)
    items.opened.set()
    assert len(coming.futures) == 9
    waiting.join(PATIENCE_S)
