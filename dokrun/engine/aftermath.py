"""What becomes of a session's calls when its container has ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
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

    def read(self, folder: Path, task: Task) -> None:
        """Read what the container has left of calls whose outcomes nobody has taken."""
        jobs = _jobs(folder)
        if jobs is None:
            return
        for flight in self._flights.sent:
            if flight.ticket not in jobs:
                # The container has never had it, or somebody else has taken what it came to.
                flight.sent = flight.base is not None
                continue
            flight.base = jobs[flight.ticket]
            expected = self._flights.expected(flight, flight.left)
            try:
                for number, outcome in read_outcomes(expected, task, folder, self._parts.state_dir / "results"):
                    self._flights.settle(flight, number, outcome)
            except NoOutcome as error:
                _log.info("the session has left nothing of %s: %s", flight.name, error)

    def judge(self, flights: Sequence[Flight], task: Task | None, fate: str, *, runs_on: bool) -> None:
        """Give calls that a lost container had taken their end: the log may say whether they ran.

        `fate` tells what has become of the container, and `runs_on` whether it may go on with them.
        """
        logs: dict[str, Log] = {}
        for flight in flights:
            log = Log() if runs_on else self._log_of(flight, task, logs)
            for number in flight.left:
                heard = None if flight.base is None else log.ran(flight.base + number)
                ran = flight.ran(number) if heard is None else heard
                lost = errors.SessionLost(f"the session of {flight.name} {fate}", ran=ran)
                lost.still_runs = runs_on
                self._flights.settle(flight, number, Outcome(error=lost))

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


def _jobs(folder: Path) -> dict[str, int] | None:
    """Tell whose calls a manifest speaks of, and the number of the first of each; None where that cannot be read."""
    try:
        told = json.loads((folder / protocol.MANIFEST).read_bytes())["jobs"]
        return {str(job): int(base) for job, base in told.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
