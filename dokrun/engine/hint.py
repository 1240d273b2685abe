"""One line, once: for many calls where each is billed a minute, a call that is under way, a session in the way."""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from dokrun import keys
from dokrun.cost import Price
from dokrun.display import in_notebook, is_wanted, running_cell
from dokrun.engine.journal import Entry, Journal
from dokrun.engine.run import Run
from dokrun.errors import ApiError, ConfigError

_log = logging.getLogger("dokrun.engine")

# So many unfinished calls of one function are a sweep.
MANY = 5
# More may be on their way: the line is to tell of all.
_PAUSE_S = 1.0
# A task runs for some days at most, and its artifact is kept for three.
_KEPT_S = 7 * 86400.0
_MOST = 256
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


class Begun(NamedTuple):
    """A call that was begun, and when, in seconds since 1970."""

    name: str
    job_id: str
    at: float


class Again:
    """Tells whoever runs a cell again that a call like that was sent before, and has not told its outcome yet.

    Only notebooks are told: a script that makes the same call twice was written so.

    Args:
        journal: knows what was sent.
        is_there: tells whether a job is this process's own.
        outlasts: whether tasks outlive the process that made them.
    """

    def __init__(self, journal: Journal, is_there: Callable[[str], bool], *, outlasts: bool) -> None:
        self._journal = journal
        self._is_there = is_there
        self._outlasts = outlasts
        self._told: set[tuple[str, str]] = set()
        # The last call of each likeness that this process has begun.
        self._begun: dict[str, Begun] = {}

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to tell."""
        return is_wanted("DOKRUN_HINTS") and in_notebook()

    def called(self, name: str, job_id: str, likeness: str) -> None:
        """Tell it of a call that is about to be begun: whoever runs a cell is told once by each run of it."""
        if not likeness:
            return
        key, former = (likeness, running_cell()), self._begun.pop(likeness, None)
        if len(self._begun) == _MOST:
            del self._begun[next(iter(self._begun))]
        self._begun[likeness] = Begun(name, job_id, time.time())
        if key in self._told:
            return
        # Of those of this process, the last one may not be written down yet.
        found = former if former is not None and self._is_there(former.job_id) else self._written_down(likeness)
        if found is not None:
            self._told.add(key)
            handle = keys.Handle(found.name, found.job_id, "").short
            print(
                f"dokrun: {name} was called just like this at {_when(found.at)}, and its outcome was not told yet: "
                f'dok.attach("{handle}") gets it, and cancel() takes back the one that begins now',
                file=sys.stderr,
            )

    def _written_down(self, likeness: str) -> Begun | None:
        try:
            found = next(filter(self._goes_on, self._journal.alike(likeness)), None)
        except ConfigError as error:
            _log.debug("cannot see whether there was a call like this before: %s", error)
            return None
        return None if found is None else Begun(found.record.name, found.record.id, found.at)

    def _goes_on(self, entry: Entry) -> bool:
        """Tell whether somebody may get its outcome yet, as far as is known here."""
        if self._is_there(entry.record.id):
            return True
        return self._outlasts and entry.task_id is not None and time.time() - entry.at < _KEPT_S


def _when(at: float) -> str:
    then = datetime.fromtimestamp(at).astimezone()
    today = datetime.now().astimezone().date()
    return f"{then:%H:%M}" if then.date() == today else f"{then:%Y-%m-%d %H:%M}"


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
