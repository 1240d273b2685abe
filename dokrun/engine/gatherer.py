"""When calls that come one by one are sent: a task of DOK's costs a minute at least, and one runs at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dokrun.engine.gathering import Gathering
from dokrun.engine.target import Target
from dokrun.future import Future
from dokrun.options import Options
from dokrun.outcomes import Outcomes
from dokrun.payload import source

if TYPE_CHECKING:
    from dokrun.engine.engine import Engine

# When nobody has called for so long, the calls so far are what there is.
MOMENT_S = 0.2


class Gatherer:
    """Gathers calls, and has each task's sent when the one before has all its results. For any thread.

    The first ones are sent when no further call has come for a moment, or as soon as somebody waits for one. What comes
    while they are under way goes together after them, as the service would not run it sooner; what fills a task is sent
    at once, and so is everything at the end. Calls whose options differ in more than the timeout do not share a task.

    Args:
        engine: tells the engine that calls go through.
        workers: how many calls run at the same time in each task; None for one on each GPU.
        moment_s: how long a moment is, in seconds.
    """

    def __init__(self, engine: Callable[[], Engine], workers: int | None, *, moment_s: float = MOMENT_S) -> None:
        self._engine = engine
        self._workers = workers
        self._moment_s = moment_s
        # Pickling is one call's business at a time, and may take long; what it holds keeps nobody who only waits.
        self._adding = threading.Lock()
        self._changed = threading.Condition()
        self._open: list[_Open] = []
        self._under_way: set[Outcomes] = set()
        self._changed_at = 0.0
        self._awaited = self._closed = False
        self._thread: threading.Thread | None = None

    def take(self, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options) -> Future[Any]:
        """Take a call, which is sent in its time.

        Raises:
            RuntimeError: there are to be no more.
            Exception: what `Engine.gather` and `Gathering.add` raise.
        """
        with self._adding:
            self._begin_thread()
            opened = self._opened(target, options)
            gathering = opened.gathering
            future = gathering.add(target, args, kwargs, options.timeout_s)
            with self._changed:
                opened.full = gathering.full
                self._changed_at = time.monotonic()
                self._changed.notify_all()
        calls = gathering.calls  # and not what they are made of, for as long as the future lives
        future.add_done_callback(lambda _: self._look_at(calls))
        if gathering.broken is not None:
            gathering.fail(gathering.broken)
        return future

    def close(self) -> None:
        """Send what there is, and take no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _hurry(self) -> None:
        """Hear that somebody waits for what was not sent yet."""
        with self._changed:
            self._awaited = bool(self._open)
            self._changed.notify_all()

    def _begin_thread(self) -> None:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="dokrun-gather", daemon=True)
            thread.start()
            self._thread = thread

    def _opened(self, target: Target, options: Options) -> _Open:
        """Tell where a call belongs, which is made if it is not there."""
        shared = replace(options, timeout_s=None)
        # Their patterns count from there.
        base = source.base_of(source.origin_of(target.function, "").module) if options.include else None
        with self._changed:
            for opened in self._open:
                if (opened.options, opened.base) == (shared, base) and opened.takes_more:
                    return opened
        opened = _Open(self._engine().gather(target, shared, self._workers), shared, base)
        opened.gathering.calls.progress.awaited = self._hurry
        with self._changed:
            self._open.append(opened)
        return opened

    def _run(self) -> None:
        """Send one after the other, each in its time."""
        while self._wait() or not self._at_the_end():
            self._send_next()

    def _send_next(self) -> None:
        with self._adding:
            gathering = self._next()
        if gathering is not None:
            gathering.send()
            self._look_at(gathering.calls)

    def _wait(self) -> bool:
        """Wait until there is something to send. Tells whether there is, or no more will be."""
        with self._changed:
            while (pause_s := self._pause_s()) != 0.0:
                if self._closed and not self._open:
                    return False
                self._changed.wait(pause_s)
            return True

    def _at_the_end(self) -> bool:
        """Tell whether nothing is left, nor can be added by whoever has begun to before there were to be no more."""
        with self._adding:
            return not self._open

    def _pause_s(self) -> float | None:
        """Tell in how many seconds something is to be sent, as things are; None is never. The lock is held."""
        if not self._open:
            return None
        if self._closed or any(opened.full for opened in self._open):
            return 0.0
        if self._under_way:
            return None
        return 0.0 if self._awaited else max(0.0, self._changed_at + self._moment_s - time.monotonic())

    def _next(self) -> Gathering | None:
        """Take out what is to be sent; None if a call has come meanwhile, and a moment is to be waited for again."""
        with self._changed:
            if self._pause_s() != 0.0:
                return None
            opened = next((one for one in self._open if one.full), self._open[0])
            self._open.remove(opened)
            self._awaited &= bool(self._open)
            self._under_way.add(opened.gathering.calls)
            opened.gathering.calls.progress.awaited = None
            return opened.gathering

    def _look_at(self, calls: Outcomes) -> None:
        """See whether all of them have come to something, so that others may have their turn."""
        if calls.over:
            with self._changed:
                self._under_way.discard(calls)
                # Whoever has waited for these may call again.
                self._changed_at = time.monotonic()
                self._changed.notify_all()


@dataclass(eq=False)
class _Open:
    """What takes calls of some options, and the folder that their `include` counts from."""

    gathering: Gathering
    options: Options
    base: Path | None
    full: bool = False

    @property
    def takes_more(self) -> bool:
        """Whether it does: all that it has may have been cancelled, or given up with its engine."""
        return not self.full and not self.gathering.calls.over
