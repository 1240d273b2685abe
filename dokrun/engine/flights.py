"""The jobs whose calls one container of a session has, or is being sent; each call comes to its outcome here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from dokrun.api.models import Task
from dokrun.engine.flight import Flight
from dokrun.engine.parts import Parts
from dokrun.engine.reports import Expected, Outcome, Reader
from dokrun.engine.run import Run

# Hears what a call has failed with, and tells whether it is tried again.
Retry = Callable[[Flight, int, BaseException], bool]


class Flights:
    """Keeps them until all their calls have come to something. For any thread.

    Args:
        parts: the engine's.
        run: the container's job.
        retry: hears what a call has failed with.
    """

    def __init__(self, parts: Parts, run: Run, retry: Retry) -> None:
        self._parts = parts
        self._run = run
        self._retry = retry
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}
        self._ended = self._read = False

    def add(self, flight: Flight) -> bool:
        """Take one. Tells whether it is taken: not when the container has ended.

        One that was found may have its outcomes in what the container has left, and is not taken when that was read.
        """
        with self._lock:
            takes = not (self._ended or (flight.found and self._read))
            if takes:
                self._flights[flight.ticket] = flight
            return takes

    def remove(self, flight: Flight) -> None:
        """Keep one no longer."""
        with self._lock:
            self._flights.pop(flight.ticket, None)

    def of(self, ticket: str) -> Flight | None:
        """Tell the one that the container calls so; None where its calls have come to something.

        One that was found is all attempts of its job.
        """
        with self._lock:
            flight = self._flights.get(ticket)
            if flight is None:
                whole = self._flights.get(ticket.partition(".")[0])
                flight = whole if whole is not None and whole.found else None
            return flight

    @property
    def all(self) -> list[Flight]:
        """Those that there are."""
        with self._lock:
            return list(self._flights.values())

    def to_read(self) -> list[Flight]:
        """Tell those that the container may have heard of, when what it has left is read."""
        with self._lock:
            self._read = True
            return [flight for flight in self._flights.values() if flight.sent]

    @property
    def ended(self) -> bool:
        """Whether no more are taken."""
        with self._lock:
            return self._ended

    def end(self) -> list[Flight]:
        """Take no more, and keep none any longer. Tells those that there were."""
        with self._lock:
            self._ended = True
            flights, self._flights = list(self._flights.values()), {}
            return flights

    def settle(self, flight: Flight, number: int, outcome: Outcome) -> None:
        """Give a call its outcome, unless it is tried again."""
        if flight.come(number) and (outcome.error is None or not self._retry(flight, number, outcome.error)):
            flight.settle(number, outcome)
        self.forget(flight)

    def heard(self, flight: Flight, number: int, outcome: Outcome) -> None:
        """Take what a container, or what it has left, says of a call."""
        if outcome.over and not flight.found:
            flight.handed_back.add(number)  # what becomes of the call shows when the container has ended
        else:
            self.settle(flight, number, outcome)

    def forget(self, flight: Flight) -> None:
        """Keep one no longer, nor what it was given, if something has come of each of its calls."""
        if flight.over:
            flight.held.clear()
            self.remove(flight)

    def reader(self, flight: Flight, task: Task, base: int = 0) -> Reader:
        """Make what reads the reports of a job's calls, whose first one has the number `base`."""
        return Reader(self.expected(flight, (), base), self._parts.state_dir / "results", task)

    def expected(self, flight: Flight, left: Sequence[int], base: int = 0) -> Expected:
        """Tell whose outcomes are looked for."""
        job, identity = flight.job, self._run.identity
        attempt = self._run.calls.progress.attempt
        return Expected(job.id, attempt, job.name, left, session=identity.job_id, base=base)
