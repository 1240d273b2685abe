"""Waiting for calls, with their log and how far they are, in one thread that has the terminal to itself."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from dokrun.cli.ends import say
from dokrun.cli.opened import attached
from dokrun.errors import ApiError, CallFailed

if TYPE_CHECKING:
    from dokrun.engine.engine import Engine
    from dokrun.future import Future
    from dokrun.map import Map
    from dokrun.progress import Far

# How long the rest of a log may take when every call has its outcome.
_REST_S = 30.0


@dataclass(frozen=True)
class Watched:
    """Calls that are waited for: their futures, how far they are, and what yields their log, if it is wanted.

    `many` tells whether they are a map's, and `of_session` whether it is a session that is waited for.
    """

    name: str
    futures: Sequence[Future[Any]]
    far: Callable[[], Far]
    log: Callable[[], Iterator[str]] | None
    many: bool = False
    of_session: bool = False

    def wait(self, out: IO[str]) -> None:
        """Wait until all have ended; write their log as it grows, and between its lines how far they are."""
        from dokrun.display import Display

        display = Display(self.name, self._far)
        last = "\n"

        def wait() -> Any:
            # Nothing is drawn behind half a line.
            return display.wait() if last.endswith("\n") else None

        for last in _Events(self).each(wait):
            out.write(last)
            out.flush()
        if not last.endswith("\n"):
            print(file=out, flush=True)
        display.end()

    def _far(self) -> Far:
        far = self.far()
        # Where DOK cannot be reached that may go on for ever.
        return replace(far, note="Ctrl-C stops the waiting") if far.status == "looking" else far


class _Events:
    """What comes while calls are waited for: pieces of their log, and their ends."""

    def __init__(self, watched: Watched) -> None:
        # A piece of the log; or None, when a call or the log has come to its end.
        self._came: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._left = len(watched.futures)
        self._logging = watched.log is not None
        # When what is left of the log is not waited for any longer; it is set when all calls have ended.
        self._until: float | None = None
        for future in watched.futures:
            future.add_done_callback(self._ended)
        if watched.log is not None:
            threading.Thread(target=partial(self._read, watched.log), name="dokrun-log", daemon=True).start()

    def each(self, wait: Callable[[], Any]) -> Iterator[str]:
        """Yield the log, and show how far it is meanwhile: in what `wait` opens, if it is not None."""
        while True:
            waiting = wait()
            with contextlib.nullcontext() if waiting is None else waiting:
                came = self._next(waiting)
            if came is not None:
                yield came
            elif self._over():
                return

    def _next(self, waiting: Any) -> str | None:
        """Wait for what comes next; None is an end, or too long a silence after the last one."""
        while True:
            pauses = [None if waiting is None else waiting.pause_s, self._left_s()]
            try:
                return self._came.get(timeout=min((s for s in pauses if s is not None), default=None))
            except queue.Empty:
                if self._left_s() == 0.0:
                    return None
                if waiting is not None:
                    waiting.look()

    def _over(self) -> bool:
        with self._lock:
            if self._left:
                return False
            over = self._came.empty() and not self._logging
            self._until = self._until or time.monotonic() + _REST_S
        return over or self._left_s() == 0.0

    def _left_s(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def _ended(self, _: object) -> None:
        with self._lock:
            self._left -= 1
        self._came.put(None)

    def _read(self, log: Callable[[], Iterator[str]]) -> None:
        try:
            for piece in log():
                self._came.put(piece)
        except (ApiError, CallFailed) as error:
            say(f"the log cannot be seen: {str(error).splitlines()[0]}")
        except Exception:  # noqa: BLE001 - the futures tell what is wrong
            pass
        finally:
            self._logging = False
            self._came.put(None)


def watch(engine: Engine, text: str, *, log: bool = True) -> Watched:
    """Find the calls that a handle means."""
    from dokrun.engine.live import Live

    found = attached(engine, text)
    if isinstance(found, Live):
        future = found.run.calls.future(0)
        return Watched(future.name, [future], far_of(future), future.logs if log else None, of_session=True)
    return watched_of(found, (lambda: engine.desk.logs(engine.desk.find(text))) if log else None)


def watched_of(found: Future[Any] | Map[Any], log_of_map: Callable[[], Iterator[str]] | None) -> Watched:
    """Make what is waited for of a call's future, or of a map, whose log is told apart."""
    from dokrun.map import Map

    if isinstance(found, Map):
        return Watched(found.name, found.futures, far_of(found), log_of_map, many=True)
    return Watched(found.name, [found], far_of(found), None if log_of_map is None else found.logs)


def far_of(waited: Any) -> Callable[[], Far]:
    """Tell what says how far a future or a map is."""
    return waited._far  # type: ignore[no-any-return]  # noqa: SLF001 - what shows itself has no public word for it
