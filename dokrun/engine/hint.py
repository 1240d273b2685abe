"""One line, once: for many calls where each is billed a minute, and for a session that is in the way."""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping

from dokrun.cost import Price
from dokrun.display import is_wanted
from dokrun.engine.run import Run
from dokrun.errors import ApiError

_log = logging.getLogger("dokrun.engine")

# So many unfinished calls of one function are a sweep.
MANY = 5
# More may be on their way: the line is to tell of all.
_PAUSE_S = 1.0
# It was told to this process, or is about to be.
_told = threading.Lock()


class Behind:
    """Tells of a session, once, that something has to wait until it ends: the service runs one task of a project."""

    def __init__(self) -> None:
        self._wanted = is_wanted("DOKRUN_HINTS")
        self._told: weakref.WeakSet[Run] = weakref.WeakSet()

    def begun(self, name: str, sessions: Iterable[Run]) -> None:
        """Tell it of what is begun while there are such sessions of this process."""
        for session in sessions if self._wanted else ():
            if not (session.calls.over or session.closed or session in self._told):
                self._told.add(session)
                print(
                    f"dokrun: {name} waits until your session {session.name!r} ends, since DOK runs one task of a "
                    "project at a time; session.close() ends it, and f.options(session=session)(…) runs a call in it",
                    file=sys.stderr,
                )


class Hint:
    """Counts calls that are a task each.

    Args:
        prices: tells what a second costs on each plan.
        sleep: waits so many seconds.
        wanted: whether anybody pays for tasks. `DOKRUN_HINTS=0` says that nobody wants to hear of it.
    """

    def __init__(
        self, prices: Callable[[], Mapping[str, Price]], sleep: Callable[[float], object], *, wanted: bool
    ) -> None:
        self._prices = prices
        self._sleep = sleep
        self._wanted = wanted and is_wanted("DOKRUN_HINTS")
        self._lock = threading.Lock()
        # Plans of which nothing is to be told, as far as is known.
        self._cheap: set[str] = set()
        self._runs: dict[tuple[str, str], weakref.WeakSet[Run]] = {}

    def called(self, run: Run, plan: str) -> None:
        """Take down a call, and have it told if there are many."""
        if not self._wanted or plan in self._cheap or _told.locked():
            return
        with self._lock:
            runs = self._runs.setdefault((run.name, plan), weakref.WeakSet())
            runs.add(run)
        if self._unfinished(runs) >= MANY and _told.acquire(blocking=False):
            threading.Thread(target=self._tell, args=(run.name, plan, runs), name="dokrun-hint", daemon=True).start()

    def _unfinished(self, runs: weakref.WeakSet[Run]) -> int:
        with self._lock:
            for run in list(runs):
                if run.calls.over:
                    runs.discard(run)
            return len(runs)

    def _tell(self, name: str, plan: str, runs: weakref.WeakSet[Run]) -> None:
        """Tell it; if there is nothing to tell after all, another time may come."""
        try:
            self._sleep(_PAUSE_S)
            price, calls = self._prices().get(plan), self._unfinished(runs)
        except ApiError as error:
            _log.debug("cannot see what many calls of %s cost: %s", name, error)
            price, calls = None, 0
        line = hint(name, calls, price) if price is not None and calls >= MANY else None
        if line is None:
            self._cheap |= set() if price is None or price.minimum_seconds > 1 else {plan}
            _told.release()
        else:
            print(f"dokrun: {line}", file=sys.stderr)


def hint(name: str, calls: int, price: Price) -> str | None:
    """Tell what one task would save in place of so many; None where each is billed by the second anyway."""
    if price.minimum_seconds <= 1:
        return None
    return (
        f"{calls} calls of {name} wait as a task each, which is billed {price.minimum_seconds} s at least: "
        f"¥{price.yen(0) * calls:,.2f} or more; {name}.map(…) makes one task of them, from ¥{price.yen(0):,.2f}"
    )
