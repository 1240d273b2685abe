"""What a call has cost, and what for: the containers of all its tasks, of which the last has ended."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dokrun import errors
from dokrun.api.models import Task
from dokrun.cost import Phases, Price, Receipt
from dokrun.engine.spending import seconds_of
from dokrun.shim import protocol

_log = logging.getLogger("dokrun.engine")

# What a container says of its own spending, in its manifest.
Spent = Mapping[str, float]


def receipt_of(
    last: Task, others: Iterable[Task], prices: Callable[[], Mapping[str, Price]], spent: Spent | None = None
) -> Receipt | None:
    """Make a call's receipt; None where the service does not tell how long its last task ran, or what that costs.

    Args:
        last: the task that has just ended.
        others: those of earlier attempts, as far as they are known; the last may be among them.
        prices: tells what a second costs on each plan.
        spent: what the last one's container says.
    """
    ran_s, plan = seconds_of(last), next((container.plan for container in last.containers), "")
    if ran_s is None:
        return None
    try:
        known = prices()
    except errors.ApiError as error:
        _log.warning("no receipt for task %s, since the prices are not known: %s", last.id, error)
        return None
    if plan not in known:
        return None
    before = [seconds_of(task) for task in others if task.ended and task.id != last.id]
    each = (*(each for each in before if each is not None), ran_s)
    return Receipt(each, known[plan], _phases(last, spent or {}), tuple(known.values()))


def _phases(task: Task, spent: Spent) -> Phases:
    queued = (task.started_at - task.created_at).total_seconds() if task.started_at and task.created_at else None
    memory, gpu_memory = (spent.get(name) for name in ("memory", "gpu_memory"))
    return Phases(
        queued_s=None if queued is None else max(0.0, queued),
        downloading_s=spent.get("downloading"),
        running_s=spent.get("running"),
        uploading_s=spent.get("uploading"),
        peak_memory_bytes=None if memory is None else int(memory),
        peak_gpu_memory_bytes=None if gpu_memory is None else int(gpu_memory),
    )


def read_spent(folder: Path) -> Spent:
    """Read what a container says of its own spending; whatever is no number is left out."""
    try:
        told: Any = json.loads((folder / protocol.MANIFEST).read_bytes())["spent"]
        return {str(name): float(value) for name, value in told.items() if _is_amount(value)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
