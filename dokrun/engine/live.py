"""A session as the engine sees it: calls are checked and pickled for it, and sent to whichever container it has."""

from __future__ import annotations

import copy
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from dokrun import errors, keys
from dokrun.cost import Meter
from dokrun.engine.carrying import Carrying
from dokrun.engine.copies import Copies
from dokrun.engine.flight import Flight
from dokrun.engine.link import Link
from dokrun.engine.parts import Parts
from dokrun.engine.portions import Portions
from dokrun.engine.prepare import Job, Preparing
from dokrun.engine.reports import described
from dokrun.engine.run import Run
from dokrun.engine.speaking import Gone, Speaking
from dokrun.engine.submit import failed_future
from dokrun.engine.target import Target
from dokrun.engine.wanted import Asked, Wanted
from dokrun.future import Future
from dokrun.jobstate import Progress
from dokrun.map import Map, Packing, handed_out
from dokrun.options import DEFAULT_TIMEOUT_S, Options
from dokrun.outcomes import Bell, Outcomes
from dokrun.payload.known import GOOD_FOR_S, Known
from dokrun.secret import Secret

_log = logging.getLogger("dokrun.engine")

_MOST_OPTIONS = 64
_FEW = 64


# Has a container made.
Begin = Callable[["Live"], Link]


class Live:
    """Takes calls for one session. For any thread.

    Args:
        parts: the engine's.
        wanted: what it shall be like.
        begin: has another container made.
    """

    def __init__(self, parts: Parts, wanted: Wanted, begin: Begin) -> None:
        self.wanted = wanted
        self._parts = parts
        self._begin = begin
        self._copies = Copies()
        self._known = Known(GOOD_FOR_S)
        # What a function's options come to here; by identity, as they hold what has no hash.
        self._merged: dict[int, tuple[Options, Options]] = {}
        self._lock = threading.Lock()
        self._closed = self._cancelled = False
        # Whether any call may be tried again.
        self._may_retry = False
        self._pid = os.getpid()
        # What was sent and has not come to an end, as far as was looked.
        self._open: weakref.WeakSet[Outcomes] = weakref.WeakSet()
        # With how many of them it is looked next.
        self._many = _FEW
        # What somebody still holds of what was sent or found, by the job.
        self._held: weakref.WeakValueDictionary[str, Outcomes] = weakref.WeakValueDictionary()
        self._link = begin(self)

    @property
    def link(self) -> Link:
        """The container that calls are sent to."""
        return self._link

    @property
    def run(self) -> Run:
        """The job of that container."""
        return self._link.run

    @classmethod
    def attached(cls, parts: Parts, begin: Begin) -> Live:
        """Take calls for a session that somebody has opened, of which this process knows no more than its handle."""
        return cls(parts, Wanted("", Options(), Asked(0.0)), begin)

    def find(self, handle: keys.Handle) -> Future[Any] | Map[Any] | None:
        """Make the future of a call that somebody has sent to the session, or the map of several.

        None where it cannot be heard here any more: what the handle's container has left was read, or is another's.
        """
        with self._lock:
            calls = self._held.get(handle.call)
            if calls is None or _may_be_better(calls):
                calls = self._found(handle)
        return None if calls is None else handed_out(calls)

    def _found(self, handle: keys.Handle) -> Outcomes | None:
        if self.run.identity.job_id != handle.job_id:
            return None
        job = Job(handle.call, handle.name or "call", "", Options(), {}, [], handle.calls, 1, 0.0)
        calls = Outcomes(job.id, job.calls, job.name, Progress())
        if not self._link.find(Flight(job, calls, {}, set(), found=True)):
            return None
        self._held[job.id] = calls
        return calls

    def end_calls(self, handle: keys.Handle) -> None:
        """Cancel those calls of a job that have not ended, which somebody has sent to the session.

        Raises:
            DokrunError: the session is no more, or cannot be spoken to.
        """
        speaking, ended = self.speaking(), f"{handle.name} cannot be cancelled: its session"
        if speaking is None:
            raise errors.DokrunError(f"{ended} {self._link.fate}")
        try:
            speaking.ask(f"/cancel/{handle.call}", {"calls": list(range(handle.calls))})
        except Gone:
            raise errors.DokrunError(f"{ended} has ended") from None

    def call(
        self, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options, **more: Any
    ) -> Future[Any]:
        """Send one call. Returns as soon as what the caller may still change is safe.

        Raises:
            OptionError: the options cannot hold in this session.
            NotSerializable: an argument or the function cannot be pickled.
            SourceTooLarge: the user's files that would go along are too many.
            ConfigError: a secret is not set.
            SessionLost: the session is closed.
        """
        carrying, preparing = self._prepared(target, options, more)
        try:
            preparing.add(args, kwargs)
            return self._sent(preparing.job(), carrying).future(0)
        except errors.StorageError as error:
            return failed_future(target.name, error)

    def map(
        self, target: Target, calls: Iterator[tuple[Any, ...]], size: int | None, options: Options, packing: Packing
    ) -> Map[Any]:
        """Send many calls, as few jobs; each item is the positional arguments of one. Raises as `call` does."""
        if packing.workers != "auto":
            raise errors.OptionError(
                "workers= of a map is for a task of its own; a session is given it when it is made"
            )
        bell = Bell()
        carryings: dict[str, Carrying] = {}

        def prepare() -> Preparing:
            carrying, preparing = self._prepared(target, options, {})
            carryings[carrying.job_id] = carrying
            return preparing

        portions = Portions(
            calls,
            size,
            packing.tasks,
            prepare,
            lambda job: self._sent(job, carryings.pop(job.id), bell),
            name=f"{target.name}.map",
        )
        return Map(target.name, portions.begin, bell, packing, portions.size)

    def later(self, chore: Callable[[], object]) -> None:
        """Have something done behind what was sent so far, as long as there is a container. Takes no lock."""
        self._link.later(chore)

    def close(self, *, now: bool = False) -> None:
        """Let the container end when all its calls have come to an end, or at once; nothing more is taken."""
        with self._lock:
            self._closed = True
            self._cancelled |= now
            waits = not now and self._may_retry and any(not calls.over for calls in self._open)
        if waits:
            # A call that fails now may be tried again in the same container, which ends as soon as it may.
            threading.Thread(target=self._close_later, name="dokrun-close", daemon=True).start()
        else:
            self._link.close(now=now)

    def _close_later(self) -> None:
        self.wait()
        if not self._cancelled:
            self._link.close(now=False)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every call that was sent has come to an end, at most so many seconds. Tells whether it has."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._lock:
                calls = next(iter(self._open), None)
            if calls is None:
                return True
            if not calls.wait(None if until is None else max(0.0, until - time.monotonic())):
                return False
            with self._lock:
                self._open.discard(calls)

    def speaking(self) -> Speaking | None:
        """Wait for the container, and tell what asks it; None where it is no more."""
        link = self._link
        link.wait()
        return link.speaking

    @property
    def busy(self) -> bool:
        """Whether any call that was sent has not come to an end."""
        with self._lock:
            return any(not calls.over for calls in self._open)

    @property
    def closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._closed or (self.run.calls.over and not self.wanted.asked.reconnect)

    @property
    def meter(self) -> Meter:
        """What the container costs so far, and how long it may last, as of now."""
        link, progress = self._link, self.run.calls.progress
        passed_s, state = time.monotonic() - link.state_at, link.state
        price = progress.price
        left_s = idle_left_s = None
        if state and not self.run.calls.over:
            left_s = self._left_s(state, passed_s)
            idle_left_s = state["idle_left_s"] and max(0.0, float(state["idle_left_s"]) - passed_s)
        yen_per_minute = None if price is None else 60 * price.yen_per_second
        with self._lock:
            calls = sum(len(each.left) for each in self._open)
        return Meter(progress.yen, yen_per_minute, left_s, idle_left_s, calls)

    def lasts(self, seconds: float) -> bool:
        """Tell whether its container may last so much longer, as far as is known."""
        left_s = self.meter.left_s
        return self._link.never_there is None and (left_s is None or left_s >= seconds)

    @property
    def plan(self) -> str:
        """On which plan it is; empty where that is not known yet."""
        task = self.run.task
        return self.wanted.plan or (task.containers[0].plan if task is not None and task.containers else "")

    def _left_s(self, state: dict[str, Any], passed_s: float) -> float | None:
        """How long the container may still run: it knows its own limit, and who has opened it what may be paid."""
        told = [float(state["left_s"])] if "left_s" in state else []  # which older containers do not tell
        known = [self._longest_s - float(state["age_s"])] if self.wanted.plan else []
        return max(0.0, min(told + known) - passed_s) if told or known else None

    @property
    def _longest_s(self) -> float:
        """How long a container may run at most."""
        wanted = self.wanted
        timeout_s = wanted.options.timeout_s or DEFAULT_TIMEOUT_S
        if wanted.price is None or wanted.options.max_yen is None:
            return timeout_s
        return min(timeout_s, wanted.price.seconds_for(wanted.options.max_yen) or timeout_s)

    def _prepared(self, target: Target, options: Options, more: Mapping[str, Any]) -> tuple[Carrying, Preparing]:
        if self._pid != os.getpid():
            raise errors.OptionError("a session belongs to the process that opened it; use dok.attach(session.handle)")
        if self._closed:
            raise errors.SessionLost(f"{target.name} was not sent: its session is closed", ran="no")
        merged = self._merged_options(target, options)
        again = self.wanted.asked.reconnect or (merged.retries is not None and merged.retries.times > 0)
        carrying = Carrying(keys.new_id(), self._link, self._parts.bucket, self._copies, again)
        plan = self.wanted.plan
        return carrying, Preparing(
            target, plan, merged, keep=carrying, job_id=carrying.job_id, more=more, known=self._known
        )

    def _merged_options(self, target: Target, options: Options) -> Options:
        """Tell with which options a function runs here. Raises OptionError."""
        known = self._merged.get(id(options))
        if known is not None:
            return known[1]
        merged = self._checked(target, options)
        if len(self._merged) == _MOST_OPTIONS:
            self._merged.clear()
        self._merged[id(options)] = options, merged  # which lives on, so that no others have its id
        return merged

    def _checked(self, target: Target, options: Options) -> Options:
        has = replace(self.wanted.options, plan=self.wanted.plan)
        for name in ("plan", "image", "profile"):
            own, here = getattr(options, name), getattr(has, name)
            if own is not None and own != here and self.wanted.plan:
                told = "has none" if here is None else f"has {here!r}"
                raise errors.OptionError(
                    f"{target.name} wants {name}={own!r}, and its session {told}; write {target.name}.options("
                    f"{name}=None)(…), or call it outside of the session"
                )
        for name in ("tags", "detach", "max_yen", "http"):
            if getattr(options, name):
                raise errors.OptionError(
                    f"{target.name} has {name}=, which is for a task of its own; say it of the session, and write "
                    f"{target.name}.options({name}=None)(…)"
                )
        # The container has its environment already; each function's own is set when it is called.
        env = {name: Secret(text) for name, text in options.env.items()}
        defaults = replace(self.wanted.options, timeout_s=None, name=None, tags=(), max_yen=None, detach=None)
        return replace(
            options.over(replace(defaults, env={})),
            env={},
            secrets={**self.wanted.options.secrets, **env, **options.secrets},
        )

    def _sent(self, job: Job, carrying: Carrying, bell: Bell | None = None) -> Outcomes:
        calls = Outcomes(job.id, job.calls, job.name, Progress(), bell)
        with self._lock:
            if len(self._open) >= self._many:
                self._open = weakref.WeakSet(one for one in self._open if not one.over)
                self._many = max(_FEW, 2 * len(self._open))
            self._open.add(calls)
            self._held[job.id] = calls
        flight = Flight(job, calls, carrying.held, carrying.straight, keeps=self.wanted.asked.reconnect)
        if flight.job.retry.times:
            self._may_retry = True
        carrying.held.clear()  # the job knows it, which lives as long as the calls' futures do
        self._send(flight)
        return calls

    def _send(self, flight: Flight) -> None:
        with self._lock:
            link = self._link
        if not link.send(flight):
            self.lost(link, [flight])

    def retry(self, flight: Flight, number: int, error: BaseException) -> bool:
        """Hear what a call has failed with. Tells whether it is tried again."""
        lost = isinstance(error, errors.SessionLost)
        over = self._cancelled or (lost and (self._closed or not self.wanted.asked.reconnect))
        following = None if over else flight.next(number, error)
        if following is None:
            return False
        again, pause_s = following
        flight.printed(number).end()
        _log.warning("a call of %s is tried again: %s", flight.name, described(error))
        if pause_s:
            threading.Thread(target=self._send_later, args=(again, pause_s), daemon=True).start()
        else:
            self._send(again)
        return True

    def _send_later(self, flight: Flight, pause_s: float) -> None:
        self._parts.sleep(pause_s)
        if flight.left:
            self._send(flight)

    def lost(self, link: Link, flights: list[Flight]) -> None:
        """Send what a container that has ended did not run to another one, or say that there is none."""
        fate = link.fate if flights else ""
        with self._lock:
            # One that was never there would be made again and again, for money.
            again = flights and self.wanted.asked.reconnect and not self._closed and link.went_well
            try:
                if again and link is self._link:
                    self._link = self._begin(self)
            except Exception as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
                fate, again = f"could not be made again: {described(error)}", False
        for flight in flights:
            if again:
                flight.again()
                self._send(flight)
            else:
                flight.fail(_not_sent(flight.name, fate, link.never_there))


def _may_be_better(calls: Outcomes) -> bool:
    """Tell whether more may be learnt of a job's calls when the container, or what it has left, is asked again."""
    unknown = errors.ResultNotFetched, errors.SessionLost
    return calls.over and any(isinstance(told.error, unknown) for told in calls.ready(0, ordered=False))


def _not_sent(name: str, fate: str, why: BaseException | None) -> Callable[[int], errors.CallFailed]:
    def made(_number: int) -> errors.CallFailed:
        if isinstance(why, errors.BudgetExceeded):
            refused = copy.copy(why)  # as of any other call that would cost too much
            refused.call_id = refused.handle = ""
            return refused
        error = errors.SessionLost(f"{name} was not sent: its session {fate}", ran="no")
        error.__cause__ = why
        return error

    return made
