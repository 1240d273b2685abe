"""One job on its way: staged, submitted, watched, collected, settled. Each step runs on one of the engine's threads."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dokrun import errors
from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.bucket import Bucket
from dokrun.cost import Price, Receipt
from dokrun.engine.collect import Outcome, download, read_outcomes
from dokrun.engine.prepare import Job
from dokrun.engine.stage import stage
from dokrun.engine.watch import Watcher
from dokrun.engine.workers import Workers
from dokrun.future import Future

_log = logging.getLogger("dokrun.engine")


@dataclass(frozen=True)
class Parts:
    """What all jobs of an engine share."""

    client: Client
    bucket: Bucket
    watcher: Watcher
    # One at a time, so that tasks stand in line as they were called; the line is one task wide anyway.
    submissions: Workers
    others: Workers
    prices: Callable[[], dict[str, Price]]
    state_dir: Path


class Run:
    """Brings one job to its outcome, and its task to an end."""

    def __init__(self, parts: Parts, job: Job, future: Future[Any], forget: Callable[[Run], None]) -> None:
        self.job = job
        self.future = future
        self._parts = parts
        self._forget = forget
        self._batch = parts.watcher.batch()
        self._cancelling = threading.Lock()
        self._cancelled = False
        self._ended_by_us = False

    def begin(self) -> None:
        """Go on in the background until the future has its outcome."""
        self.future.on_cancel = lambda: self._later(self.cancel)
        self._parts.submissions.submit(lambda: self._guarded(self._submit))

    def cancel(self) -> bool:
        """Tell the service to end the task, if there is one. Tells whether that ended it, now or before."""
        with self._cancelling:
            if self._cancelled or self.future.task_id is None:
                return self._ended_by_us
            try:
                self._parts.client.tasks.cancel(self.future.task_id)
            except (errors.Forbidden, errors.NotFound):
                self._cancelled = True  # it has ended already
                return False
            except errors.ApiError as error:
                # `_seen` tries again at the next look.
                _log.warning("could not cancel task %s, which may still cost money: %s", self.future.task_id, error)
                return False
            self._cancelled = self._ended_by_us = True
            return True

    def _later(self, step: Callable[[], object]) -> None:
        self._parts.others.submit(lambda: self._guarded(step))

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            self._settle(Outcome(error=error))

    def _submit(self) -> None:
        if self.future.cancelled():
            self._forget(self)
            return
        try:
            self.future.status = "staging"
            definition = stage(self.job, self.job.options.plan or "", self._parts.bucket, [self._batch.tag])
            if self.future.cancelled():
                self._forget(self)
                return
            task = self._parts.client.tasks.create(definition)
        except errors.DokrunError as error:
            raise self._not_submitted(error) from error
        self.future.status = task.status
        self.future.task_id = task.id
        if self.future.cancelled():
            self.cancel()
        self._parts.watcher.watch(self._batch, task.id, self._seen)

    def _not_submitted(self, error: errors.DokrunError) -> errors.SubmitFailed:
        if isinstance(error, (errors.NoAnswer, errors.ServerError, errors.InvalidAnswer)) and not isinstance(
            error, errors.NotSent
        ):
            message = f"nobody knows whether {self.job.name} was submitted: {error}"
            return errors.SubmitFailed(message, ran="maybe", call_id=self.future.call_id)
        return errors.SubmitFailed(f"{self.job.name} was not submitted: {error}", ran="no", call_id=self.future.call_id)

    def _seen(self, task: Task | None) -> None:
        if task is not None and not task.ended:
            self.future.status = task.status
            if self.future.cancelled() and not self._cancelled:
                self._later(self.cancel)
            return
        self._later(lambda: self._finish(task))

    def _finish(self, task: Task | None) -> None:
        if self.future.cancelled():
            self._settle(Outcome())
            return
        if task is None:
            message = f"the task {self.future.task_id} of {self.job.name} no longer exists; somebody deleted it"
            raise errors.TaskFailed(
                message, ran="maybe", call_id=self.future.call_id, task_id=self.future.task_id or ""
            )
        self.future.receipt = self._receipt(task)
        # Only its owner can enter a folder that mkdtemp made; what was mapped from it outlives it.
        folder = Path(tempfile.mkdtemp(prefix="dokrun-"))
        try:
            download(self._parts.client, self.job, task, folder, time.sleep)
            outcome = read_outcomes(self.job, task, folder, self._parts.state_dir / "results")[0]
        except errors.ApiError as error:
            message = f"the result of {self.job.name} could not be fetched; DOK keeps it for 72 hours: {error}"
            raise errors.CallFailed(message, ran="maybe", call_id=self.future.call_id, task_id=task.id) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.future.status = task.status
        self._settle(outcome)

    def _receipt(self, task: Task) -> Receipt | None:
        seconds = next((container.execution_seconds for container in task.containers), None)
        try:
            price = self._parts.prices().get(self.job.options.plan or "")
        except errors.ApiError as error:
            _log.warning("no receipt for %s, since the prices are not known: %s", self.job.name, error)
            return None
        return None if seconds is None or price is None else Receipt(float(seconds), price)

    def _settle(self, outcome: Outcome) -> None:
        self._forget(self)
        if outcome.error is not None:
            self.future.fail(outcome.error)
        else:
            self.future.settle(outcome.value)
