"""What the calls of one job have come to: a place for each, and a future for those that somebody asks for one."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Container, Iterable
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from dokrun.future import Future
from dokrun.jobstate import Progress
from dokrun.progress import Far
from dokrun.shim import protocol

if TYPE_CHECKING:
    from dokrun.display import Display

_log = logging.getLogger("dokrun")


class Result(NamedTuple):
    """What a call has come to: a value, or the error that its future raises."""

    value: Any = None
    error: BaseException | None = None


class Bell:
    """Wakes whoever waits for a call of some jobs, in a thread or in an event loop."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._sleepers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def ring(self) -> None:
        """Wake them. The condition's lock is held."""
        self.changed.notify_all()
        sleepers, self._sleepers = self._sleepers, []
        for loop, sleeper in sleepers:
            with contextlib.suppress(RuntimeError):  # a closed loop has nobody in it who waits
                loop.call_soon_threadsafe(_wake, sleeper)

    def sleeper(self) -> asyncio.Future[None]:
        """Make what is done at the next ring. The condition's lock is held."""
        loop = asyncio.get_running_loop()
        sleeper = loop.create_future()
        self._sleepers.append((loop, sleeper))
        return sleeper


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


class Outcomes:
    """The outcomes of a job's calls, by their numbers; each comes once. For any thread.

    Args:
        job_id: the job.
        count: how many calls it has.
        name: the function's.
        progress: how far the job is.
        bell: rung at each change.
    """

    def __init__(self, job_id: str, count: int, name: str, progress: Progress, bell: Bell | None = None) -> None:
        self.job_id = job_id
        self.name = name
        self.progress = progress
        self._told: list[Result | None] = [None] * count
        # The numbers of those that have been told, in that order.
        self._order: list[int] = []
        self._failed = 0
        self._left_out = 0
        self._futures: dict[int, Future[Any]] = {}
        self._display: Display | None = None
        # Whether some were cancelled before they had come to anything.
        self._cancelled = False
        self._bell = bell or Bell()
        self._changed = self._bell.changed

    @property
    def bell(self) -> Bell:
        """What is rung at each change."""
        return self._bell

    def __len__(self) -> int:
        return len(self._told)

    def call_id(self, number: int) -> str:
        """Tell the id of a call."""
        return protocol.call_id(self.job_id, number)

    def future(self, number: int) -> Future[Any]:
        """Make the future of a call, once."""
        with self._changed:
            future = self._futures.get(number)
            if future is not None:
                return future
            future = self._made(number, self.name)
            told = self._told[number]
        if told is not None:
            _settle(future, told)
        return future

    def another(self, name: str) -> Future[Any]:
        """Make room for one more call, of a function of this name, in a job that has not begun. Tells its future."""
        with self._changed:
            self._told.append(None)
            return self._made(len(self._told) - 1, name)

    def _made(self, number: int, name: str) -> Future[Any]:
        future = self._futures[number] = Future(self.call_id(number), name, self.progress, number, self._together)
        future.add_done_callback(lambda done: self._cancelled_alone(number) if done.cancelled() else None)
        return future

    def _together(self) -> Display | None:
        """Tell what shows in a notebook how far all of them are, whichever is waited for; None where there is one."""
        from dokrun.display import Display, in_notebook

        if len(self._told) == 1 or not in_notebook():
            return None
        with self._changed:
            if self._display is None:
                stop = "cancel() of each one's future stops it"
                self._display = Display(self.name, lambda: self.far, more=lambda: "" if self.over else stop)
            return self._display

    def ready(self, after: int, *, ordered: bool) -> list[Result]:
        """Tell what has come, behind the first `after` ones: in the calls' order up to the first gap, or as it came."""
        with self._changed:
            if not ordered:
                return [told for number in self._order[after:] if (told := self._told[number]) is not None]
            coming = itertools.islice(self._told, after, None)
            return list(itertools.takewhile(lambda told: told is not None, coming))  # type: ignore[arg-type]

    @property
    def far(self) -> Far:
        """How far the job is."""
        far = self.progress.far
        with self._changed:
            done = len(self._order) - self._failed - self._left_out
            return replace(far, total=len(self._told), done=done, failed=self._failed, cancelled=self._left_out)

    @property
    def over(self) -> bool:
        """Whether every call has come to something."""
        with self._changed:
            return len(self._order) == len(self._told)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every call has come to something, at most so many seconds. Tells whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._order) == len(self._told), timeout_s)

    @property
    def left(self) -> list[int]:
        """The numbers of the calls that have no outcome yet, and that somebody still waits for."""
        with self._changed:
            return [number for number, told in enumerate(self._told) if told is None]

    def cancelled(self) -> bool:
        """Tell whether nobody waits for any of them, though not all have come to an outcome of their own."""
        with self._changed:
            return self._cancelled and len(self._order) == len(self._told)

    def abandoned(self) -> bool:
        """Tell whether each of them was cancelled, so that nobody asks what any has left."""
        with self._changed:
            return self._left_out == len(self._told)

    def is_told(self, number: int) -> bool:
        """Tell whether a call has come to something."""
        with self._changed:
            return self._told[number] is not None

    @property
    def left_out(self) -> list[int]:
        """The numbers of the calls that were cancelled."""
        with self._changed:
            if not self._left_out:
                return []
            told = enumerate(self._told)
            return [n for n, result in told if result is not None and isinstance(result.error, CancelledError)]

    def leave_out(self) -> list[int]:
        """Let those that were cancelled so far be no part of the job, unless all were. Tells which are left."""
        with self._changed:
            self._cancelled &= not self.left
            return self.left

    def cancel(self, which: Container[int] | None = None) -> bool:
        """Cancel what has no outcome yet, all of it or some numbers. Tells whether there was anything."""
        with self._changed:
            left = [number for number in self.left if which is None or number in which]
            self._cancelled |= bool(left)
            for number in left:
                self._told[number] = Result(error=CancelledError())
            self._order += left
            self._left_out += len(left)
            futures = [self._futures[number] for number in left if number in self._futures]
            self._bell.ring()
        for future in futures:
            _apart(future, future.cancel)
        return bool(left)

    def _cancelled_alone(self, number: int) -> None:
        """Take down that the future of a call was cancelled: the others go on."""
        with self._changed:
            if self._told[number] is None:
                self._cancelled = True
                self._told[number] = Result(error=CancelledError())
                self._order.append(number)
                self._left_out += 1
                self._bell.ring()

    def settle(self, outcomes: Iterable[tuple[int, Result]]) -> None:
        """Give some calls their outcomes, unless they have one."""
        futures = []
        with self._changed:
            for number, told in outcomes:
                if self._told[number] is None:
                    self._told[number] = told
                    self._order.append(number)
                    self._failed += told.error is not None
                    if number in self._futures:
                        futures.append((self._futures[number], told))
            self._bell.ring()
        for future, told in futures:
            _apart(future, functools.partial(_settle, future, told))
        self.progress.update()


def _settle(future: Future[Any], told: Result) -> None:
    if isinstance(told.error, CancelledError):
        future.cancel()
    elif told.error is not None:
        future.fail(told.error)
    else:
        future.settle(told.value)


def _apart(future: Future[Any], step: Callable[[], object]) -> None:
    """Do something that calls the callbacks of a future, and let nothing of that keep the others from their end."""
    try:
        step()
    except BaseException as error:  # noqa: BLE001 - a callback may raise SystemExit, which the stdlib lets pass
        _log.warning("a callback of %s raised %s", future.name, type(error).__name__)
