"""One container of a session: it is spoken to as soon as it is there, until it is no more."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from dokrun import errors, keys
from dokrun.api.container import Container
from dokrun.api.models import Task
from dokrun.api.transport import Backoff
from dokrun.engine.aftermath import Aftermath
from dokrun.engine.flight import Flight, Where
from dokrun.engine.flights import Flights
from dokrun.engine.hearing import Hearing
from dokrun.engine.parts import Parts
from dokrun.engine.reports import described
from dokrun.engine.run import Run
from dokrun.engine.sending import Queue, Sending
from dokrun.engine.speaking import Gone, Speaking
from dokrun.engine.ways import TRIES, Ways
from dokrun.secret import Secret

_log = logging.getLogger("dokrun.engine")
_BACKOFF = Backoff()


class Owner(Protocol):
    """Whoever has jobs sent to a container."""

    def lost(self, link: Link, flights: list[Flight]) -> None:
        """Hear that the container is no more, and which jobs have calls that it did not run."""

    def retry(self, flight: Flight, number: int, error: BaseException) -> bool:
        """Hear what a call has failed with. Tells whether it is tried again."""


class Link:
    """Sends jobs to one container, as soon as it is there, and settles their calls. For any thread.

    Args:
        parts: the engine's.
        token: what the container knows its client by.
        owner: whose container it is.
    """

    def __init__(self, parts: Parts, token: Secret, owner: Owner) -> None:
        self._parts = parts
        self._token = token
        self._owner = owner
        self._run: Run
        self._flights: Flights
        self._aftermath: Aftermath
        self._queue: Queue = queue.SimpleQueue()
        self._container: Container | None = None
        # They are there once the container is spoken to.
        self._ways: Ways | None = None
        self._hearing: Hearing | None = None
        self._sending: Sending | None = None
        self._sender: threading.Thread | None = None
        self._dropped = False
        # Why the container cannot be spoken to, and whether its task could not be ended for that.
        self._broken: Exception | None = None
        self._runs_on = False
        self.state: dict[str, Any] = {}
        self.state_at = 0.0

    def begin(self, run: Run) -> None:
        """Speak to the container of a job as soon as it is there."""
        self._run = run
        self._flights = Flights(self._parts, run, self._owner.retry)
        self._aftermath = Aftermath(self._parts, self._flights)
        threading.Thread(target=self._live, name="dokrun-session", daemon=True).start()

    # What the owner does.

    @property
    def run(self) -> Run:
        """The job that the container is of."""
        return self._run

    @property
    def went_well(self) -> bool:
        """Whether it was spoken to, so that another one in its place may be, too."""
        return self._ways is not None and self._broken is None and not self._dropped

    @property
    def never_there(self) -> BaseException | None:
        """Why it was never there, where it has ended before it could be spoken to."""
        calls = self._run.calls
        return calls.future(0).exception() if self._ways is None and calls.over and not calls.cancelled() else None

    @property
    def fate(self) -> str:
        """What has become of it, in words that follow «its session»."""
        if self._broken is not None:
            task = "may still run" if self._runs_on else "was ended"
            return f"could not be spoken to, and its task {task}: {described(self._broken)}"
        calls = self._run.calls
        error = calls.future(0).exception() if calls.over and not calls.cancelled() else None
        if error is None:
            return "has ended"
        return f"{'is not there' if self._ways is None else 'was lost'}: {described(error)}"

    @property
    def speaking(self) -> Speaking | None:
        """What asks the container, once it is there."""
        return None if self._ways is None else self._ways.speaking

    @property
    def ways(self) -> Ways | None:
        """What brings large bytes there, once it is there."""
        return self._ways

    def wait(self) -> None:
        """Wait until the container is spoken to, or will not be."""
        progress = self._run.calls.progress
        progress.wait_until(lambda: self._ways is not None or self._flights.ended or self._dropped)

    def send(self, flight: Flight) -> bool:
        """Have a job sent. Tells whether it will be: not when the container is no more."""
        flight.calls.progress.update(
            status="waiting", session=self._run.calls.progress, cancel=lambda: self._cancel(flight)
        )
        if not self._flights.add(flight):
            return False
        self._queue.put(flight)
        return True

    def later(self, chore: Callable[[], object]) -> None:
        """Have something done behind what was sent so far, as long as it is there. Takes no lock."""
        self._queue.put(lambda _: chore())

    def find(self, flight: Flight) -> bool:
        """Hear what becomes of a job that another process has sent. Tells whether it will be: not if it is too late."""
        flight.calls.progress.update(session=self._run.calls.progress, cancel=lambda: self._cancel(flight))
        if not self._flights.add(flight):
            return False
        # In its turn: many may be looked for at once.
        self._queue.put(lambda _: self._look_for(flight))
        return True

    def _look_for(self, flight: Flight) -> None:
        if self._hearing is not None and self._sending is not None:
            self._hearing.find(flight)
            self._sending.cancel(flight)  # what was cancelled before

    def close(self, *, now: bool) -> None:
        """Let the container end when all is done, or at once. Nothing more may be sent."""
        speaking = self.speaking
        if self._broken is None and not now and (speaking is not None or self._flights.all):
            self._run.closed = True
            self._queue.put(lambda there: self._tell_closed(there, now=False))  # behind what is to be sent
        elif speaking is None or self._broken is not None:
            self._end_from_outside()  # there is nobody who could end it from within
        else:
            # Where the container does not answer, that takes a while; nobody shall wait for it.
            telling = threading.Thread(target=self._tell_closed, args=(speaking,), kwargs={"now": now}, daemon=True)
            telling.start()

    def _tell_closed(self, speaking: Speaking, *, now: bool) -> None:
        try:
            speaking.ask("/close", {"now": now}, tries=1 if now else TRIES)
            self._run.closed = True
        except (Gone, errors.DokrunError) as error:
            _log.info("the session could not be told to end: %s", error)
            if now:
                self._end_from_outside()

    def _end_from_outside(self) -> None:
        """Have the task ended, again and again if need be, whatever it leaves."""
        self._run.calls.cancel()
        self._parts.cancels.submit(self._run.cancel)

    def drop(self, *, goes_on: bool) -> None:
        """Ask nothing more: this process is ending. Unless the container goes on, its calls are cancelled."""
        self._dropped = True
        self._run.calls.progress.update()
        for flight in self._flights.all if not goes_on else ():
            flight.calls.cancel()
            flight.see_cancelled()

    def also(self, folder: Path, task: Task) -> None:
        """Read what the container has left of calls whose outcomes nobody has taken. For the run."""
        self._aftermath.read(folder, task)

    def _cancel(self, flight: Flight) -> None:
        """See to calls of a job that were cancelled, in whichever flight they are: some may be tried again."""
        others = [one for one in self._flights.all if one.calls is flight.calls and one is not flight]
        for one in [flight, *others]:
            one.see_cancelled()
            if self._sending is not None:
                self._sending.cancel(one)

    # Its life.

    def _there(self) -> bool:
        return self._broken is None and not (self._dropped or self._flights.ended or self._run.calls.over)

    def _live(self) -> None:
        try:
            self._speak()
        except Gone:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody shall wait for ever
            self._give_up(error)
        self._queue.put(None)
        if self._sender is not None:
            self._sender.join()
        self._end()
        if self._container is not None:
            self._container.close()

    def _give_up(self, error: Exception) -> None:
        """Have the task ended of a container that cannot be spoken to, so that nobody pays for it."""
        self._broken, self._runs_on = error, not self._run.ours
        if self._runs_on:
            return  # whoever has opened it may speak to it all the same
        for attempt in range(1, _BACKOFF.attempts + 1):
            if self._run.end_task() or self._dropped or self._run.calls.over:
                return  # what it leaves is read, as ever
            self._parts.sleep(_BACKOFF.pause_s(attempt))
        self._runs_on = True
        self._end_from_outside()

    def _meet(self) -> Speaking | None:
        """Wait until the container answers. Tells what asks it; None where it ended before."""
        progress = self._run.calls.progress
        while self._there():
            url = progress.wait_for("address", lambda: progress.over or self._dropped)
            if url is None:
                break
            self._container = container = Container(url, self._token)
            try:
                return self._greeted(container, url)
            except Gone:
                container.close()  # its task may be staged again, and has another address then
        return None

    def _greeted(self, container: Container, url: str) -> Speaking:
        progress = self._run.calls.progress
        Speaking(container, lambda: self._there() and progress.address == url, self._parts.sleep).hello()
        return Speaking(container, self._there, self._parts.sleep)

    def _speak(self) -> None:
        speaking, task = self._meet(), self._run.task
        if speaking is None or task is None:
            return
        progress, identity = self._run.calls.progress, self._run.identity
        where = Where(task, keys.Handle(self._run.name, identity.job_id, identity.digest))
        ways = Ways(self._parts, speaking, identity.job_id)
        hearing = Hearing(ways, where, self._flights, self._tell_state)
        self._sending = sending = Sending(
            self._parts, ways, where, self._flights, lambda flight: self._owner.lost(self, [flight])
        )
        self._ways, self._hearing = ways, hearing
        progress.update()
        self._sender = threading.Thread(target=sending.run, args=(self._queue,), name="dokrun-send", daemon=True)
        self._sender.start()
        hearing.run()

    def _tell_state(self, state: dict[str, Any]) -> None:
        self.state, self.state_at = state, time.monotonic()

    def _end(self) -> None:
        """Tell what became of the calls that have no outcome, when the container has ended."""
        progress = self._run.calls.progress
        progress.wait_until(lambda: progress.over or self._dropped or self._runs_on)
        flights = self._flights.end()
        if self._dropped:
            return
        left = [flight for flight in flights if flight.left]
        sent = [flight for flight in left if flight.sent]
        progress.update()
        if sent:
            self._aftermath.judge(sent, self._run.task, self.fate, runs_on=self._runs_on)
        self._owner.lost(self, [flight for flight in left if flight.left])
