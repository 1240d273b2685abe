"""The future as a thing of its own; what it does with a real call is in test_road and test_failures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from typing import Any

import pytest

import dokrun as dok
from dokrun.jobstate import Progress
from dokrun.outcomes import Bell, Outcomes, Result


def cancel_from_many_threads(future: dok.Future[int]) -> list[int]:
    """Tell how often the engine heard of it."""
    told: list[int] = []
    future._progress.cancel = lambda: told.append(1)
    barrier = threading.Barrier(4)

    def cancel() -> bool:
        barrier.wait()
        return future.cancel()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(done.result() for done in [pool.submit(cancel) for _ in range(4)])
    return told


def make() -> dok.Future[int]:
    return dok.Future("c" * 32, "train")


def test_cancelling_tells_the_waiters_the_callbacks_and_the_engine_once() -> None:
    future, told = make(), list[str]()
    future._progress.cancel = lambda: told.append("engine")
    future.add_done_callback(lambda _: told.append("callback"))
    assert future.cancel()
    assert future.cancel()
    assert sorted(told) == ["callback", "engine"]
    done, _ = concurrent.futures.wait([future], timeout=0)
    assert done == {future}


def test_many_threads_may_cancel_at_once() -> None:
    for _ in range(50):
        assert cancel_from_many_threads(make()) == [1]


def test_an_outcome_after_a_cancellation_is_dropped() -> None:
    future = make()
    future.cancel()
    future.settle(1)
    future.fail(ValueError())
    assert future.cancelled()


def test_of_two_outcomes_the_first_one_stands() -> None:
    future = make()
    future.settle(1)
    future.settle(2)
    future.fail(ValueError("too late"))
    assert future.result() == 1


def test_cancelling_an_asyncio_wait_cancels_the_call() -> None:
    future = make()

    async def wait() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.01)

    asyncio.run(wait())
    assert future.cancelled()


def test_it_shows_its_function_its_call_and_its_state() -> None:
    future = make()
    assert repr(future) == "<dokrun.Future train cccccccc preparing>"
    future.cancel()
    assert "cancelled" in repr(future)
    job, digest = "a" * 32, "b" * 32
    for handle, shown in {
        f"train-{job}.{digest}": "train-aaaaaaaaaaaa",
        f"train-{job}.{digest}x3": "train-aaaaaaaaaaaa call 0",
        f"train-{'d' * 32}@{job}.{digest}": "train cccccccc",  # a session's
    }.items():
        known = make()
        known._progress.update(handle=handle)
        assert repr(known) == f"<dokrun.Future {shown} preparing>"
    done, failed = make(), make()
    done.settle(1)
    failed.fail(ValueError(2))
    assert [repr(it).split()[-1] for it in (done, failed)] == ["done>", "failed>"], "the task may still run"


def test_a_cancelled_future_lets_whoever_waits_for_its_handle_go_on() -> None:
    future = make()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: list(future.logs()))
        future.cancel()
        assert waiting.result(timeout=60) == []


def test_a_callback_that_exits_keeps_no_other_future_of_its_job_from_its_outcome(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for cancelled in (False, True):
        calls = Outcomes("a" * 32, 3, "train", Progress())
        futures = [calls.future(number) for number in range(3)]
        futures[0].add_done_callback(lambda _: sys.exit(3))
        if cancelled:
            assert calls.cancel()
        else:
            calls.settle((number, Result(number)) for number in range(3))
        assert [future.done() for future in futures] == [True] * 3
        assert caplog.messages == ["a callback of train raised SystemExit"]
        caplog.clear()


def test_a_job_whose_other_calls_go_on_is_no_cancelled_job() -> None:
    calls = Outcomes("a" * 32, 0, "train", Progress())
    futures = [calls.another(name) for name in ("train", "test", "tell")]
    assert [future.name for future in futures] == ["train", "test", "tell"]
    futures[1].cancel()
    assert calls.leave_out() == [0, 2]
    calls.settle((number, Result(number)) for number in (0, 2))
    assert [future.done() for future in futures] == [True] * 3
    assert calls.over
    assert not calls.cancelled()


def test_a_job_whose_calls_were_all_cancelled_before_it_began_stays_a_cancelled_one() -> None:
    calls = Outcomes("a" * 32, 2, "train", Progress())
    assert calls.future(0).cancel()
    assert calls.cancel({1})
    assert calls.leave_out() == []
    assert calls.cancelled()
    assert calls.future(1).cancelled()


class ClosesMeanwhile(asyncio.SelectorEventLoop):
    """A loop that is closed just before it is asked to wake somebody."""

    def call_soon_threadsafe(self, *told: Any, **context: Any) -> asyncio.Handle:  # type: ignore[override]
        self.close()
        return super().call_soon_threadsafe(*told, **context)


def test_a_loop_that_is_closed_keeps_nobody_else_from_being_woken() -> None:
    bell = Bell()

    async def sleep() -> None:
        with bell.changed:
            bell.sleeper()

    loop = ClosesMeanwhile()
    calls = Outcomes("a" * 32, 1, "train", Progress(), bell)
    asyncio.run(sleep())
    loop.run_until_complete(sleep())
    calls.settle([(0, Result(1))])
    assert loop.is_closed()
    assert calls.over
