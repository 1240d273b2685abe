"""What a call has cost: the containers of all its tasks, of which the last has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from dokrun import errors
from dokrun.api.models import Task
from dokrun.cost import Price, Receipt

_log = logging.getLogger("dokrun.engine")


def receipt_of(last: Task, others: Iterable[Task], prices: Callable[[], Mapping[str, Price]]) -> Receipt | None:
    """Make a call's receipt; None where the service does not tell how long its last task ran, or what that costs.

    Args:
        last: the task that has just ended.
        others: those of earlier attempts, as far as they are known; the last may be among them.
        prices: tells what a second costs on each plan.
    """
    ran_s, plan = _seconds(last), next((container.plan for container in last.containers), "")
    if ran_s is None:
        return None
    try:
        price = prices().get(plan)
    except errors.ApiError as error:
        _log.warning("no receipt for task %s, since the prices are not known: %s", last.id, error)
        return None
    before = [_seconds(task) for task in others if task.ended and task.id != last.id]
    return None if price is None else Receipt((*(each for each in before if each is not None), ran_s), price)


def _seconds(task: Task) -> float | None:
    container = next(iter(task.containers), None)
    return None if container is None or container.execution_seconds is None else float(container.execution_seconds)
