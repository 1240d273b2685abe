"""The results of many calls, as they come: what `f.map(…)` returns.

In the container this file is there too, for modules that speak of maps; what shows how far one is, is not.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import sys
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, cast

from dokrun.errors import OptionError, SubmitFailed, suggest

if TYPE_CHECKING:
    from dokrun.future import Future
    from dokrun.outcomes import Bell, Outcomes, Result
    from dokrun.progress import Far

T = TypeVar("T")


class GivenPacking(TypedDict, total=False):
    """How a map's calls are packed, as the user writes it."""

    tasks: int
    workers: int | Literal["auto"]
    order: bool
    return_exceptions: bool
    progress: bool


@dataclass(frozen=True)
class Packing:
    """How calls share tasks, and how their results are handed out; see `RemoteFunction.map`."""

    tasks: int = 1
    workers: int | Literal["auto"] = "auto"
    order: bool = True
    return_exceptions: bool = False
    progress: bool = True

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> Packing:
        """Read what the user has written. Raises OptionError."""
        for name, value in given.items():
            if name in ("order", "return_exceptions", "progress"):
                if not isinstance(value, bool):
                    raise OptionError(f"{name}={value!r} must be True or False")
            elif name not in ("tasks", "workers"):
                raise OptionError(f"map has no option {name!r}{suggest(name, GivenPacking.__annotations__)}")
            elif not (value == "auto" and name == "workers") and (type(value) is not int or value < 1):
                auto = ', or "auto"' if name == "workers" else ""
                raise OptionError(f"{name}={value!r} must be a whole number, 1 or more{auto}")
        return cls(**given)

    @property
    def lanes(self) -> int | None:
        """How many calls run at the same time in each task; None for one on each GPU."""
        return None if self.workers == "auto" else self.workers


# How many tasks are made before their turn: the service lets one run, and the next stands in line behind it.
AHEAD = 2


class Map(Generic[T]):
    """The results of many calls, which come while the calls still run; each is handed out once.

    The calls are packed into one task, or few. What a call raised is raised in its turn, after which the next results
    may still be asked for; the other calls go on. An item that cannot be sent is told at once, and again when all that
    was sent before it is handed out, since what lies behind it is missing. What takes long shows how far it is on
    standard error, in the thread that waits; `len(m)` tells how many results there are in all, where the number of
    items is known.

    Attributes:
        name: the function's name.

    Examples:
        >>> @dok.remote(plan="v100-32gb")
        ... def inverse(number: int) -> float:
        ...     return 1 / number
        >>> list(inverse.map([1, 2, 4], workers=2))
        [1.0, 0.5, 0.25]
        >>> for result in inverse.map([0, 5], return_exceptions=True):
        ...     print(repr(result))
        ZeroDivisionError('division by zero')
        0.2
        >>> results = inverse.map([8], order=False)
        >>> len(results), results.futures[0].result()
        (1, 0.125)
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[], Outcomes | None],
        bell: Bell,
        packing: Packing,
        size: int | None = None,
    ) -> None:
        self.name = name
        self._begin = begin
        self._bell = bell
        self._packing = packing
        # Those that may still bring results, and how many of each one's were handed out or are about to be.
        self._jobs: deque[Outcomes] = deque()
        self._taken: Counter[Outcomes] = Counter()
        self._ready: deque[Result] = deque()
        # Whether no more items are looked at, and why not all of them were; the lock is whoever's that looks at some.
        self._exhausted = threading.Event()
        self._broken: BaseException | None = None
        self._looking = threading.RLock()
        # Whoever counts sees each job among those that go on or among those before, and not in both.
        self._moving = threading.Lock()
        self._size = size
        from dokrun.display import Display
        from dokrun.progress import Far

        # What has become of the jobs whose results were all handed out.
        self._before = Far("preparing", 0, billed=True)
        self._display = Display(
            f"{name}.map",
            self._far,
            wanted=packing.progress,
            more=lambda: "" if self._far().over else "its cancel() stops it",
        )
        try:
            self._advance()
        except BaseException:
            # Whoever makes it gets no map, and so nothing that would stop what has begun.
            self.cancel()
            raise

    def __iter__(self) -> Iterator[T]:
        return self

    def __len__(self) -> int:
        """Tell how many results there are in all, those that were handed out among them.

        Raises:
            TypeError: nobody knows, as of a generator's items.
        """
        if self._size is None:
            raise TypeError(f"{self.name}.map does not know how many items there are")
        return self._size

    def __bool__(self) -> bool:
        return True

    def __next__(self) -> T:
        """Wait for the next result, and return it or raise what its call raised."""
        try:
            while not self._ready:
                self._wait()
                if not self._fill():
                    self._display.end()
                    raise self._take_broken() or StopIteration
        except KeyboardInterrupt:
            self._tell_that_it_goes_on()
            raise
        return self._given(self._ready.popleft())

    def _tell_that_it_goes_on(self) -> None:
        from dokrun.display import at_prompt

        if not at_prompt():
            return  # the end of the script says what becomes of it
        costs = next((f" and may {job.progress.costs_on}" for job in self._jobs.copy() if job.progress.costs_on), "")
        print(f"dokrun: {self.name}.map goes on{costs}; its cancel() stops it", file=sys.stderr)

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        """Do as `next` does, without blocking the event loop."""
        while not self._ready:
            with self._bell.changed:
                sleeper = None if self._may_go_on() else self._bell.sleeper()
            if sleeper is not None:
                await self._wait_for(sleeper)
            if not await asyncio.to_thread(self._fill):
                self._display.end()
                raise self._take_broken() or StopAsyncIteration
        return self._given(self._ready.popleft())

    def __await__(self) -> Generator[Any, None, list[T]]:
        """Wait for all results that were not handed out, without blocking the event loop; a list of them."""
        return self._all().__await__()

    @property
    def futures(self) -> list[Future[T]]:
        """A future for each call whose results come yet; items that were not looked at until now are, all of them."""
        while self._begin_another():
            pass
        if self._broken is not None:
            raise self._broken
        return [job.future(number) for job in self._jobs for number in range(len(job))]

    def cancel(self) -> bool:
        """Cancel the calls that have no result yet; their task is told to end. Tells whether there were any."""
        self._exhausted.set()
        # Another thread may be about to add one, which it cancels itself.
        stopped = [_cancel(job) for job in self._jobs.copy()]
        return any(stopped)

    def _ipython_display_(self) -> None:
        """Show in a notebook's cell how far it is, until all its calls have come to something."""
        if not self._display.show():
            print(repr(self))

    def __repr__(self) -> str:
        """Tell the function's name, what `dok.attach` takes of each task that has that, and how far they are."""
        from dokrun.keys import read_handle

        told = []
        for job in self._jobs.copy():
            handle = read_handle(job.progress.handle or "")
            # The beginning of what a session has taken means the session.
            named = f"{handle.short} " if handle is not None and not handle.call else ""
            told.append(f"{named}{job.progress.status}")
        return f"<dokrun.Map {self.name} {', '.join(told) or 'over'}>"

    async def _all(self) -> list[T]:
        return [result async for result in self]

    def _wait(self) -> None:
        with self._display.wait() as wait:
            while True:
                with self._bell.changed:
                    if self._bell.changed.wait_for(self._may_go_on, wait.pause_s):
                        return
                wait.look()

    async def _wait_for(self, sleeper: asyncio.Future[None]) -> None:
        from dokrun.display import in_notebook

        try:
            with self._display.wait() as wait:
                while not (await asyncio.wait([sleeper], timeout=wait.pause_s))[0]:
                    wait.look()
        except asyncio.CancelledError:
            if in_notebook():  # where that is what an interrupt comes to
                self._tell_that_it_goes_on()
            raise

    def _far(self) -> Far:
        from dokrun.progress import together

        exhausted = self._exhausted.is_set()
        with self._moving:
            jobs, before = self._jobs.copy(), self._before
        far = functools.reduce(together, [job.far for job in jobs], before)
        # Of one that was cancelled, or that broke, some calls are never made.
        return dataclasses.replace(far, total=far.total if exhausted else self._size)

    def _may_go_on(self) -> bool:
        """Tell whether there is something to hand out, or to begin; the lock is held."""
        return not self._jobs or any(self._taken[job] == len(job) or self._come(job) for job in self._next_jobs())

    def _next_jobs(self) -> list[Outcomes]:
        """Tell whose results may be handed out: those of one job after another, or of all as they come."""
        return [*self._jobs][: 1 if self._packing.order else None]

    def _come(self, job: Outcomes) -> list[Result]:
        return job.ready(self._taken[job], ordered=self._packing.order)

    def _fill(self) -> bool:
        """Take what has come. Tells whether there was anything, or may be."""
        from dokrun.progress import together

        for job in [job for job in self._jobs if self._taken[job] == len(job)]:
            far = job.far
            with self._moving:
                self._jobs.remove(job)
                self._before = together(self._before, far)
            del self._taken[job]
        self._advance()
        for job in self._next_jobs():
            ready = self._come(job)
            self._taken[job] += len(ready)
            self._ready.extend(ready)
        return bool(self._jobs)

    def _advance(self) -> None:
        while sum(not job.over for job in self._jobs) < max(AHEAD, self._packing.tasks) and self._begin_another():
            pass

    def _begin_another(self) -> bool:
        """Have the next items sent. Tells whether there were any.

        Where that fails, no more are looked at: those before the one that cannot be sent would be missing.
        """
        # Whoever waits in an event loop may have been cancelled, and its thread be at it still.
        with self._looking:
            if self._exhausted.is_set():
                return False
            try:
                job = self._begin()
            except BaseException as error:
                self._exhausted.set()
                self._broken = error if isinstance(error, Exception) else _interrupted(self.name, error)
                raise
            if job is None:
                self._exhausted.set()
                return False
            self._jobs.append(job)
            if self._exhausted.is_set():
                _cancel(job)  # as the map was, while this one was being prepared
            return not self._exhausted.is_set()

    def _take_broken(self) -> BaseException | None:
        """Tell why results are missing at the end, if they are; once, as every error is told."""
        broken, self._broken = self._broken, None
        return broken

    def _given(self, told: Result) -> T:
        if told.error is None:
            return cast("T", told.value)
        if self._packing.return_exceptions:
            return cast("T", told.error)
        raise told.error


def handed_out(calls: Outcomes) -> Future[Any] | Map[Any]:
    """Make the future of a job's one call, or the map of its several."""
    if len(calls) == 1:
        return calls.future(0)
    jobs = iter([calls])
    return Map(calls.name, lambda: next(jobs, None), calls.bell, Packing(), len(calls))


def _cancel(job: Outcomes) -> bool:
    """Cancel what of a job has no result yet. Tells whether there was anything."""
    stopped = job.cancel()
    if job.progress.cancel is not None:
        job.progress.cancel()
    return stopped


def _interrupted(name: str, error: BaseException) -> SubmitFailed:
    """Make the error of a map whose items were being sent when something stopped that."""
    stopped = f"{type(error).__name__} came while the next ones were being prepared"
    failed = SubmitFailed(f"{name}.map is not whole: its last items were not submitted, since {stopped}", ran="no")
    failed.__cause__ = error
    return failed
