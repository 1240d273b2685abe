"""What a job costs while it runs, and has cost: its tasks as they were last seen, their price, the receipt."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal

from dokrun import errors
from dokrun.api.models import Task
from dokrun.cost import Price
from dokrun.engine.journal import Record
from dokrun.engine.outcome import Found, spent_by
from dokrun.engine.parts import Parts
from dokrun.engine.receipt import receipt_of
from dokrun.engine.spending import seconds_of
from dokrun.jobstate import Progress

_log = logging.getLogger("dokrun.engine")


class Bill:
    """Keeps a job's progress up to date about money.

    Args:
        parts: the engine's.
        progress: the job's.
        price: what the job's `max_yen` is counted by, where there is one.
    """

    def __init__(self, parts: Parts, progress: Progress, price: Price | None = None) -> None:
        self._parts = parts
        self._progress = progress
        self._price = price
        # All that bear the job's tag and are its own.
        self._tasks: dict[str, Task] = {}
        progress.costs, progress.outlasts = "cost money" if parts.charges else "", parts.outlasts

    def see(self, tasks: Mapping[str, Task]) -> None:
        """Take down how the job's tasks are."""
        self._tasks.update(tasks)

    def tell_price(self, task: Task) -> None:
        """Have it known what a task costs while it runs, for whoever stops waiting for it."""
        try:
            price = self._parts.prices().get(task.containers[0].plan) if task.containers else None
        except errors.ApiError as error:
            _log.debug("cannot see what task %s costs: %s", task.id, error)
            return
        if price is not None:
            self._progress.update(price=price, costs=f"cost ¥{price.yen_per_second * 60:.2f} a minute")

    def close(self, task: Task, record: Record, found: Found | None = None) -> None:
        """Take down what a task has cost that has ended, and what for, once that was found."""
        self._tasks[task.id] = task
        receipt = receipt_of(task, self._tasks.values(), self._parts.prices, found.spent if found else None)
        if receipt is None:
            return
        self._progress.update(receipt=receipt)
        if found is not None:
            self._parts.journal.spend(spent_by(task, record, receipt, found))

    @property
    def spent(self) -> Decimal:
        """What the tasks that have ended have cost, as far as is known."""
        if self._price is None:
            return Decimal(0) if self._progress.receipt is None else self._progress.receipt.yen
        # Where the prices cannot be had any more, there is no receipt; what was spent is spent all the same.
        each = [seconds_of(task) for task in self._tasks.values() if task.ended]
        return sum((self._price.yen(seconds) for seconds in each if seconds is not None), Decimal(0))
