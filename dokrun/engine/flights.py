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
        self._ended = False

    def add(self, flight: Flight) -> bool:
        """Take one. Tells whether it is taken: not when the container has ended."""
        with self._lock:
            if not self._ended:
                self._flights[flight.ticket] = flight
            return not self._ended

    def remove(self, flight: Flight) -> None:
        """Keep one no longer."""
        with self._lock:
            self._flights.pop(flight.ticket, None)

    def of(self, ticket: str) -> Flight | None:
        """Tell the one that the container calls so; None where its calls have come to something."""
        with self._lock:
            return self._flights.get(ticket)

    @property
    def all(self) -> list[Flight]:
        """Those that there are."""
        with self._lock:
            return list(self._flights.values())

    @property
    def sent(self) -> list[Flight]:
        """Those that the container may have heard of."""
        return [flight for flight in self.all if flight.sent]

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

    def forget(self, flight: Flight) -> None:
        """Keep one no longer, nor what it was given, if something has come of each of its calls."""
        if flight.over:
            flight.held.clear()
            self.remove(flight)

    def reader(self, flight: Flight, task: Task) -> Reader:
        """Make what reads the reports of a job's calls."""
        return Reader(self.expected(flight, ()), self._parts.state_dir / "results", task)

    def expected(self, flight: Flight, left: Sequence[int]) -> Expected:
        """Tell whose outcomes are looked for."""
        job, identity = flight.job, self._run.identity
        attempt = self._run.calls.progress.attempt
        return Expected(job.id, attempt, job.name, left, session=identity.job_id, base=flight.base or 0)
