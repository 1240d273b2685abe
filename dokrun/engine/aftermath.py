"""What becomes of a session's calls when its container has ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from dokrun import errors
from dokrun.api.models import Task
from dokrun.engine.flight import Flight
from dokrun.engine.flights import Flights
from dokrun.engine.parts import Parts
from dokrun.engine.reports import NoOutcome, Outcome, read_outcomes
from dokrun.engine.tasklog import Log, read_log
from dokrun.shim import protocol

_log = logging.getLogger("dokrun.engine")


class Aftermath:
    """Gives calls their outcomes that had none when their container ended.

    Args:
        parts: the engine's.
        flights: the jobs that the container had.
    """

    def __init__(self, parts: Parts, flights: Flights) -> None:
        self._parts = parts
        self._flights = flights
        # Whose calls the manifest speaks of, and the number of the first of each; None as long as it was not read.
        self._jobs: dict[str, int] | None = None

    def read(self, folder: Path, task: Task) -> None:
        """Read what the container has left of calls whose outcomes nobody has taken."""
        self._jobs = _jobs(folder)
        if self._jobs is None:
            return
        for flight in self._flights.to_read():
            for ticket in _attempts(flight, self._jobs):
                flight.base = self._jobs[ticket]
                self._read_one(flight, flight.base, folder, task)
            if flight.found:
                for number in flight.left:
                    self._flights.settle(flight, number, Outcome(error=flight.elsewhere()))

    def _read_one(self, flight: Flight, base: int, folder: Path, task: Task) -> None:
        expected = self._flights.expected(flight, flight.left, base)
        try:
            for number, outcome in read_outcomes(expected, task, folder, self._parts.state_dir / "results"):
                # Of a job that was found, others may have taken some, and others may be in another attempt.
                if not (flight.found and outcome.unnamed):
                    self._flights.heard(flight, number, outcome)
        except NoOutcome as error:
            _log.info("the session has left nothing of %s: %s", flight.name, error)

    def judge(self, flights: Sequence[Flight], task: Task | None, fate: str, *, runs_on: bool) -> None:
        """Give calls that a lost container had taken their end: the log may say whether they ran.

        `fate` tells what has become of the container, and `runs_on` whether it may go on with them.
        """
        logs: dict[str, Log] = {}
        for flight in flights:
            if self._never_came(flight):
                flight.sent = False
                continue
            log = Log() if runs_on else self._log_of(flight, task, logs)
            for number in flight.left:
                if number in flight.handed_back:
                    continue
                heard = None if flight.base is None else log.ran(flight.base + number)
                ran = flight.ran(number) if heard is None else heard
                lost = errors.SessionLost(f"the session of {flight.name} {fate}", ran=ran)
                lost.still_runs = runs_on
                self._flights.settle(flight, number, Outcome(error=lost))

    def _never_came(self, flight: Flight) -> bool:
        """Tell whether the container is known never to have had a job: it would speak of it."""
        heard = flight.found or flight.base is not None
        return self._jobs is not None and not heard and flight.ticket not in self._jobs

    def _log_of(self, flight: Flight, last: Task | None, known: dict[str, Log]) -> Log:
        """Read the log of the task that has taken a job, which may not be the last one of the session's."""
        taken = None if flight.where is None else flight.where.task
        task = last if taken is None or (last is not None and last.id == taken.id) else taken
        if task is None:
            return Log()
        if task.id not in known:
            expected = self._flights.expected(flight, ())
            known[task.id] = read_log(self._parts.client, expected, task, self._parts.sleep)
        return known[task.id]


def _attempts(flight: Flight, jobs: Collection[str]) -> list[str]:
    """Tell what a manifest calls a flight; of one that was found, all attempts of its job, the last ones first."""
    if not flight.found:
        return [job for job in (flight.ticket,) if job in jobs]
    again = [job for job in jobs if job.startswith(f"{flight.ticket}.")]
    again.sort(key=lambda job: int(job.rpartition(".")[2]) if job.rpartition(".")[2].isdecimal() else 0, reverse=True)
    return [*again, *(job for job in (flight.ticket,) if job in jobs)]


def _jobs(folder: Path) -> dict[str, int] | None:
    """Tell whose calls a manifest speaks of, and the number of the first of each; None where that cannot be read."""
    try:
        told = json.loads((folder / protocol.MANIFEST).read_bytes())["jobs"]
        return {str(job): int(base) for job, base in told.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
