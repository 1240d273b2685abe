"""What an ended task has cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from dokrun import errors
from dokrun.api.models import Task
from dokrun.cost import Price, Receipt

_log = logging.getLogger("dokrun.engine")


def receipt_of(task: Task, prices: Callable[[], Mapping[str, Price]]) -> Receipt | None:
    """Make a task's receipt; None where the service does not tell how long it ran, or what that costs."""
    container = next(iter(task.containers), None)
    if container is None or container.execution_seconds is None:
        return None
    try:
        price = prices().get(container.plan)
    except errors.ApiError as error:
        _log.warning("no receipt for task %s, since the prices are not known: %s", task.id, error)
        return None
    return None if price is None else Receipt(float(container.execution_seconds), price)
