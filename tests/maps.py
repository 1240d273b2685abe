"""What tests of maps need: an account whose store goes wrong, what became of each call, a map without any account."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import account as accounts
import chores
import pytest
from account import Account
from places import PATIENCE_S
from storefaults import FaultyStore

import dokrun as dok
from dokrun.engine.portions import Portions
from dokrun.engine.prepare import Job, Preparing
from dokrun.engine.target import Target
from dokrun.errors import StorageError
from dokrun.jobstate import Progress
from dokrun.map import Map, Packing
from dokrun.options import Options
from dokrun.outcomes import Bell, Outcomes, Result

# Where results lie that were sent ahead, and what says how far the calls have come.
SENT, BEGUN = "*/results/*", "*/begun"


@pytest.fixture
def account(faulty: FaultyStore, tmp_path: Path) -> Iterator[Account]:
    """An account whose store goes wrong."""
    with accounts.opened(faulty.url, faulty.bucket, tmp_path) as account:
        yield account


def values(futures: Sequence[dok.Future[Any]]) -> list[Any]:
    """Wait for what some calls have returned."""
    return [future.result(timeout=PATIENCE_S) for future in futures]


def ran(starts: Path) -> Counter[str]:
    """Tell how often each call was started, by its id."""
    return Counter(starts.read_text().split() if starts.exists() else ())


def once(futures: Sequence[dok.Future[Any]]) -> Counter[str]:
    """Tell what `ran` does where each call was started once."""
    return Counter(future.call_id for future in futures)


def tasks(account: Account) -> int:
    """Tell how many tasks there are, and were."""
    return len(list(account.client.tasks.iterate()))


def told_by(coming: Map[Any]) -> list[Any]:
    """Wait for what is left of a map; an exception stands in its place."""
    told: list[Any] = []
    while True:
        try:
            told.append(next(coming))
        except StopIteration:
            return told
        except (Exception, CancelledError) as error:  # noqa: BLE001 - it is looked at
            told.append(error)


class Begun:
    """A map of a generator with three calls for each task; it is told by the test what becomes of them.

    `refused` is the task that the bucket does not take, counted from 0.
    """

    def __init__(self, items: Iterator[Any], refused: int | None = None) -> None:
        self._refused = refused
        self.given: list[Any] = []
        self.jobs: list[Outcomes] = []
        self._bell = Bell()
        portions = Portions(self._looked_at(items), None, 1, self._prepare, self._begin, name="halve.map", most=3)
        self.begin = portions.begin

    def map(self, *, order: bool = True) -> Map[int]:
        return Map("halve", self.begin, self._bell, Packing(order=order))

    def settle(self, number: int) -> None:
        """Let the calls of a job return their numbers in it."""
        job = self.jobs[number]
        job.settle((call, Result(call)) for call in range(len(job)))

    def _looked_at(self, items: Iterator[Any]) -> Iterator[tuple[Any]]:
        for item in items:
            self.given.append(item)
            yield (item,)

    def _prepare(self) -> Preparing:
        function = chores.halve.local
        return Preparing(Target(function, inspect.signature(function), "halve"), "v100-32gb", Options())

    def _begin(self, job: Job) -> Outcomes:
        if len(self.jobs) == self._refused:
            raise StorageError("full")
        self.jobs.append(Outcomes(job.id, job.calls, job.name, Progress(), self._bell))
        return self.jobs[-1]
