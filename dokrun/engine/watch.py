"""One thread asks how all tasks are, at growing intervals; a failed look is not a failed task."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dokrun import keys
from dokrun.api import Client, resources
from dokrun.api.models import Task
from dokrun.errors import Unauthorized

_log = logging.getLogger("dokrun.engine")
# Not the module's own numbers: whoever seeds those wants to have them all.
_random = random.Random()  # noqa: S311 - no secret

# The first pause, what the later ones grow by, and where that ends: what takes a while is seen a twentieth of it late.
FIRST_INTERVAL_S = 0.015
GROWTH = 1.07
LONGEST_INTERVAL_S = 5.0
# A pause is so much longer than the answer took at least: on a long line, asking more often tells no more.
PAUSE_PER_ANSWER = 2.0
# So many 401 in a row, over so many seconds, show that the API key is no longer good.
REFUSALS = 3
REFUSED_FOR_S = 60.0
# What one request tells about; more jobs than this are asked for in several requests.
BATCH_SIZE = resources.PAGE_SIZE


@dataclass(eq=False)
class Watched:
    """One job that somebody watches.

    Attributes:
        tell: told all tasks that bear the job's tag, as they now are; answers whether it wants to hear more.
        fail: told once that the service does not let this client look any more.
    """

    tell: Callable[[list[Task]], bool]
    fail: Callable[[Unauthorized], object]


@dataclass(eq=False)
class Batch:
    """Jobs that are asked for together, by a tag that their tasks share.

    `watched` has the jobs by their own tags; `refusals` are the 401 in a row, the first of them at `refused_at`.
    """

    tag: str = field(default_factory=lambda: keys.batch_tag(keys.new_id()))
    given: int = 0
    watched: dict[str, Watched] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    refusals: int = 0
    refused_at: float = 0.0

    @classmethod
    def of_job(cls, job_id: str) -> Batch:
        """Make the batch of one job alone, which no other's task shall belong to."""
        return cls(keys.job_tag(job_id), given=BATCH_SIZE)


class Watcher:
    """Tells each watched job how its tasks are, as long as the job wants to know.

    Asked for by tag and not by id, a second task of the same job shows too, however late.

    Args:
        client: DOK.
        refused_for_s: for how many seconds the service must have refused to answer before that is taken for final.
    """

    def __init__(self, client: Client, *, refused_for_s: float = REFUSED_FOR_S) -> None:
        self._client = client
        self._refused_for_s = refused_for_s
        self._changed = threading.Condition()
        self._batches: list[Batch] = []
        self._new = False
        self._closed = False
        # A failed look is told once, until one succeeds.
        self._level = logging.WARNING
        # Started now: while the interpreter ends, it cannot be.
        self._thread = threading.Thread(target=self._run, name="dokrun-watcher", daemon=True)
        self._thread.start()

    def batch(self) -> Batch:
        """Tell the batch that a new job's task shall belong to: its tag goes into the task's definition."""
        with self._changed:
            if not self._batches or self._batches[-1].given >= BATCH_SIZE:
                self._batches = [*filter(lambda batch: batch.watched, self._batches), Batch()]
            self._batches[-1].given += 1
            return self._batches[-1]

    def watch(self, batch: Batch, job_id: str, watched: Watched) -> None:
        """Tell a job's tasks whenever the service was asked, until it wants to hear no more."""
        with self._changed:
            batch.watched[keys.job_tag(job_id)] = watched
            if batch not in self._batches:
                self._batches.insert(0, batch)
            self._new = True
            self._changed.notify()

    def hurry(self) -> None:
        """Ask at once, and at short intervals again."""
        with self._changed:
            self._new = True
            self._changed.notify()

    def close(self) -> None:
        """Stop asking."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        interval_s, answered_s = FIRST_INTERVAL_S, 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or any(batch.watched for batch in self._batches))
                # A new task cuts the interval short: it is the one that somebody has just begun to wait for.
                least_s = min(PAUSE_PER_ANSWER * answered_s, LONGEST_INTERVAL_S)
                pause_s = max(interval_s, least_s) * _random.uniform(0.8, 1.0)
                self._changed.wait_for(lambda: self._closed or self._new, timeout=pause_s)
                if self._closed:
                    return
                interval_s = FIRST_INTERVAL_S if self._new else min(interval_s * GROWTH, LONGEST_INTERVAL_S)
                self._new = False
                batches = [(batch, dict(batch.watched)) for batch in self._batches if batch.watched]
            asked = time.monotonic()
            for batch, watched in batches:
                self._look(batch, watched)
            answered_s = time.monotonic() - asked

    def _look(self, batch: Batch, watched: dict[str, Watched]) -> None:
        try:
            self._ask(batch, watched)
        except Unauthorized as error:
            batch.refused_at = batch.refused_at if batch.refusals else time.monotonic()
            batch.refusals += 1
            if batch.refusals >= REFUSALS and time.monotonic() - batch.refused_at >= self._refused_for_s:
                for tag, one in watched.items():
                    self._forget(batch, tag, one)
                    one.fail(error)
        except Exception as error:  # noqa: BLE001 - without this thread every future would wait for ever
            _log.log(self._level, "cannot see how the tasks are, and will ask again: %s", error)
            self._level = logging.DEBUG
        else:
            batch.refusals, self._level = 0, logging.WARNING

    def _ask(self, batch: Batch, watched: dict[str, Watched]) -> None:
        found: dict[str, list[Task]] = {tag: [] for tag in watched}
        for task in self._client.tasks.iterate(tag=batch.tag):
            for tag in found.keys() & set(task.tags):
                found[tag].append(task)
        for tag, tasks in found.items():
            with self._changed:
                # Where something moves, more may follow soon.
                self._new |= any(batch.statuses.get(task.id) != task.status for task in tasks)
                batch.statuses.update({task.id: task.status for task in tasks})
            if not watched[tag].tell(tasks):
                self._forget(batch, tag, watched[tag])

    def _forget(self, batch: Batch, tag: str, watched: Watched) -> None:
        with self._changed:
            if batch.watched.get(tag) is not watched:
                return  # its next attempt is being watched already
            del batch.watched[tag]
            if not batch.watched and batch in self._batches:
                # Its tag stays on the ended tasks; the next job begins a batch whose list is short.
                self._batches.remove(batch)
