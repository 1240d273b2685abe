"""The sessions of an engine: those that were opened or found here, and those that single calls share."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from dokrun import keys
from dokrun.config import Settings
from dokrun.engine.hint import Behind
from dokrun.engine.journal import Entry
from dokrun.engine.linger import lingering
from dokrun.engine.link import Link
from dokrun.engine.live import Live
from dokrun.engine.parts import Parts
from dokrun.engine.run import Run
from dokrun.engine.runs import Runs
from dokrun.engine.stage import check_fits
from dokrun.engine.wanted import Wanted, token_of
from dokrun.future import Future
from dokrun.jobstate import Progress
from dokrun.map import Map
from dokrun.options import DEFAULT_TIMEOUT_S, Options
from dokrun.outcomes import Outcomes


class Lives:
    """Makes what takes calls for sessions, and has their containers made. For any thread.

    Args:
        parts: the engine's.
        runs: its jobs.
        settings: what the profile says.
    """

    def __init__(self, parts: Parts, runs: Runs, settings: Settings) -> None:
        self._parts = parts
        self._runs = runs
        self._settings = settings
        self._behind = Behind()
        # Whoever holds it may wait for a session that has another container made; so making one takes none of it.
        self._lock = threading.RLock()
        # What takes calls, by the job: it speaks to each container once, however many are asked for.
        self._lives: weakref.WeakValueDictionary[str, Live] = weakref.WeakValueDictionary()
        # Those that single calls go to, by what is the same for all of these.
        self._shared: dict[Hashable, Live] = {}
        self._links_lock = threading.Lock()
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()

    def open(self, wanted: Wanted) -> Live:
        """Open a session. Raises ConfigError: a secret is not set, or needs a bucket."""
        return Live(self._parts, wanted, lambda owner: self._begin(wanted, owner))

    def shared(self, name: str, options: Options, billed_s: float) -> Live:
        """Tell the session that single calls with such options go to, one after another.

        Args:
            name: what is called.
            options: its own, and the profile's.
            billed_s: what is billed at least, in seconds.
        """
        wanted = lingering(name, options, billed_s)
        key = (
            wanted.options.image,
            tuple(sorted(wanted.options.env.items())),
            options.plan,
            options.tags,
            options.detach,
        )
        with self._lock:
            live = self._shared.get(key)
            if live is not None and live.lasts(options.timeout_s or DEFAULT_TIMEOUT_S):
                return live
            former = list(self._shared.values())
            fresh = self._shared[key] = self.open(wanted)
        for other in former:
            if other is live or not other.busy:
                other.close()  # the new one would wait in line until it has idled long enough
        return fresh

    def attach(self, entry: Entry, *, former: Live | None = None) -> Live:
        """Tell what takes calls for a session that is there, one for all who ask; another one than the `former`."""
        with self._lock:
            live = self._lives.get(entry.record.id)
            if live is None or live is former:
                live = Live.attached(self._parts, lambda owner: self._attach(entry, owner))
            return live

    def find(self, entry: Entry, handle: keys.Handle) -> Future[Any] | Map[Any]:
        """Make the future of a call that somebody has sent to a session, or the map of several."""
        live, full = self.attach(entry), handle._replace(job_id=entry.record.id)
        while (found := live.find(full)) is None:
            # It has read already what its container has left, or has another one.
            live = self.attach(entry, former=live)
        return found

    def begun(self, name: str) -> None:
        """Hear that something is begun, which may have to wait until a session has ended."""
        shared = [live.link for live in list(self._shared.values())]  # which end when they idle
        self._behind.begun(name, [link.run for link in self._all() if link not in shared])

    def close_idle(self) -> None:
        """Close those that single calls share and that have nothing to do."""
        for live in list(self._shared.values()):
            if not live.busy:
                live.close()

    def drop(self, goes_on: Callable[[Run], bool]) -> None:
        """Ask nothing more: this process is ending. `goes_on` tells whether a container outlives it."""
        for link in self._all():
            link.drop(goes_on=goes_on(link.run))

    def _begin(self, wanted: Wanted, owner: Live) -> Link:
        job, token = wanted.job(self._settings)
        if self._parts.bucket is None:
            check_fits(job)
        link = Link(self._parts, token, owner)
        self.begun(job.name)
        run = self._runs.of(job, _itself(job.id, job.name), also=link.also)
        run.begin()
        link.begin(run)
        self._keep(link, owner)
        return link

    def _attach(self, entry: Entry, owner: Live) -> Link:
        record = entry.record
        link = Link(self._parts, token_of(self._settings, record.id), owner)
        run = self._runs.attached(record, _itself(record.id, record.name), link.also)
        link.begin(run)
        self._keep(link, owner)
        run.attach(entry.task_id, entry.attempt)
        return link

    def _keep(self, link: Link, owner: Live) -> None:
        with self._links_lock:
            self._links.add(link)
        self._lives[link.run.identity.job_id] = owner

    def _all(self) -> list[Link]:
        with self._links_lock:
            return list(self._links)


def _itself(job_id: str, name: str) -> Outcomes:
    """Make the outcome of a session, which stands for one call."""
    return Outcomes(job_id, 1, name, Progress())
