"""One thread asks how all tasks are, at growing intervals; a failed look is not a failed task."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from dokrun import keys
from dokrun.api import Client, resources
from dokrun.api.models import Task
from dokrun.errors import NotFound

_log = logging.getLogger("dokrun.engine")

FIRST_INTERVAL_S = 0.05
LONGEST_INTERVAL_S = 5.0
GROWTH = 1.25
# A look that finds nothing is not proof that a task is gone, just after its creation least of all.
MISSES = 3
# What one request tells about; more jobs than this are asked for in several requests.
BATCH_SIZE = resources.PAGE_SIZE


@dataclass(eq=False)
class Batch:
    """Jobs that are asked for together, by a tag that their tasks share."""

    tag: str = field(default_factory=lambda: keys.batch_tag(keys.new_id()))
    given: int = 0
    watched: dict[str, Callable[[Task | None], None]] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)


class Watcher:
    """Tells each watched task's every state to the one who watches it, until it has ended."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._changed = threading.Condition()
        self._batches: list[Batch] = []
        self._new = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def batch(self) -> Batch:
        """Tell the batch that a new job's task shall belong to: its tag goes into the task's definition."""
        with self._changed:
            if not self._batches or self._batches[-1].given >= BATCH_SIZE:
                self._batches = [*filter(lambda batch: batch.watched, self._batches), Batch()]
            self._batches[-1].given += 1
            return self._batches[-1]

    def watch(self, batch: Batch, task_id: str, tell: Callable[[Task | None], None]) -> None:
        """Call `tell` with the task whenever it was asked for, last when it has ended; with None if it is gone."""
        with self._changed:
            batch.watched[task_id] = tell
            if batch not in self._batches:
                self._batches.insert(0, batch)
            self._new = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dokrun-watcher", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Stop asking."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        interval_s = FIRST_INTERVAL_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or any(batch.watched for batch in self._batches))
                # A new task cuts the interval short: it is the one that somebody has just begun to wait for.
                self._changed.wait_for(lambda: self._closed or self._new, timeout=interval_s * random.uniform(0.8, 1.0))  # noqa: S311 - no secret
                if self._closed:
                    return
                interval_s = FIRST_INTERVAL_S if self._new else min(interval_s * GROWTH, LONGEST_INTERVAL_S)
                self._new = False
                batches = [(batch, dict(batch.watched)) for batch in self._batches if batch.watched]
            for batch, watched in batches:
                try:
                    self._ask(batch, watched)
                except Exception as error:  # noqa: BLE001 - without this thread every future would wait for ever
                    _log.warning("cannot see how the tasks are, and will ask again: %s", error)

    def _ask(self, batch: Batch, watched: dict[str, Callable[[Task | None], None]]) -> None:
        missing = set(watched)
        for task in self._client.tasks.iterate(tag=batch.tag):
            if task.id in missing:
                missing.remove(task.id)
                self._tell(batch, task.id, watched[task.id], task)
            if not missing:
                return
        for task_id in missing:  # not listed yet, or deleted by somebody
            try:
                self._tell(batch, task_id, watched[task_id], self._client.tasks.get(task_id))
            except NotFound:
                batch.misses[task_id] = batch.misses.get(task_id, 0) + 1
                if batch.misses[task_id] >= MISSES:
                    self._tell(batch, task_id, watched[task_id], None)

    def _tell(self, batch: Batch, task_id: str, tell: Callable[[Task | None], None], task: Task | None) -> None:
        with self._changed:
            if task is not None and batch.statuses.get(task.id) != task.status:
                batch.statuses[task.id] = task.status
                self._new = True  # where something moves, more may follow soon
            if task is None or task.ended:
                batch.watched.pop(task_id, None)
                if not batch.watched and batch in self._batches:
                    # Its tag stays on the ended tasks; the next job begins a batch whose list is short.
                    self._batches.remove(batch)
        tell(task)
