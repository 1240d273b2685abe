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

from dokrun import errors, keys
from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.bucket import Bucket
from dokrun.cost import Price, Receipt
from dokrun.engine.collect import Outcome, download, read_outcomes
from dokrun.engine.images import Images, Ready
from dokrun.engine.prepare import Job
from dokrun.engine.stage import stage
from dokrun.engine.watch import Watcher
from dokrun.engine.workers import Workers
from dokrun.future import Future
from dokrun.shim import protocol

_log = logging.getLogger("dokrun.engine")


# After these answers there is no task; after every other failure of the request, nobody knows.
_NOT_CREATED = (errors.NotSent, errors.BadRequest, errors.Unauthorized, errors.Forbidden, errors.NotFound)


@dataclass(frozen=True)
class Parts:
    """What all jobs of an engine share."""

    client: Client
    bucket: Bucket | None
    images: Images
    watcher: Watcher
    # Images that are not known to be ready are made so here, one at a time; jobs whose image is ready overtake them.
    builds: Workers
    # One at a time, so that tasks stand in line as they were called; the line is one task wide anyway.
    submissions: Workers
    # On their own, so that no download keeps money flowing.
    cancels: Workers
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
        # Whether there is a payload in the bucket.
        self._staged = False

    def begin(self) -> None:
        """Go on in the background until the future has its outcome."""
        self.future.on_cancel = self._cancel_later
        ready = self._parts.images.known(self.job.options.image)
        if ready is None:
            self._do(self._parts.builds, self._make_ready)
        else:
            self._do(self._parts.submissions, lambda: self._submit(ready))

    def _do(self, workers: Workers, step: Callable[[], object]) -> None:
        if not workers.submit(lambda: self._guarded(step)):
            self._forget(self)
            message = f"{self.job.name} was not submitted: dokrun is being closed"
            self.future.fail(errors.SubmitFailed(message, ran="no", call_id=self.future.call_id))

    def _make_ready(self) -> None:
        if self.future.cancelled():
            self._forget(self)
            return
        self.future.status = "image"
        try:
            ready = self._parts.images.ready(self.job.options.image)
        except errors.CallFailed:
            raise
        except errors.DokrunError as error:
            raise self._not_submitted(error) from error
        self._do(self._parts.submissions, lambda: self._submit(ready))

    def cancel(self) -> bool:
        """Tell the service to end the task, if there is one. Tells whether that ended it, now or before."""
        with self._cancelling:
            if self._cancelled or self.future.task_id is None:
                return self._ended_by_us
            try:
                self._parts.client.tasks.cancel(self.future.task_id)
            except (errors.Forbidden, errors.NotFound) as error:
                if not self._has_ended(self.future.task_id):
                    return self._not_cancelled(error)
                self._cancelled = True
                return False
            except errors.ApiError as error:
                return self._not_cancelled(error)
            self._cancelled = self._ended_by_us = True
            return True

    def _cancel_later(self) -> None:
        self._parts.cancels.submit(lambda: self._guarded(self.cancel))

    def _has_ended(self, task_id: str) -> bool:
        try:
            return self._parts.client.tasks.get(task_id).ended
        except errors.NotFound:
            return True
        except errors.ApiError:
            return False

    def _not_cancelled(self, error: errors.ApiError) -> bool:
        # `_seen` tries again at the next look.
        _log.warning("could not cancel task %s, which may still cost money: %s", self.future.task_id, error)
        return False

    def _later(self, step: Callable[[], object]) -> None:
        self._parts.others.submit(lambda: self._guarded(step))

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except errors.CallFailed as error:
            self._settle(Outcome(error=error))
        except BaseException as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            failed = errors.CallFailed(f"{self.job.name}: {error}", ran="maybe", call_id=self.future.call_id)
            failed.__cause__ = error
            self._settle(Outcome(error=failed))

    def _submit(self, image: Ready) -> None:
        if self.future.cancelled():
            self._forget(self)
            return
        try:
            self.future.status = "staging"
            definition = stage(self.job, self._parts.bucket, image, [self._batch.tag])
            self._staged = protocol.PAYLOAD_URL in definition.containers[0].environment
            if self.future.cancelled():
                self._settle(Outcome())
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
        if isinstance(error, errors.ApiError) and not isinstance(error, _NOT_CREATED):
            message = f"nobody knows whether {self.job.name} was submitted: {error}"
            return errors.SubmitFailed(message, ran="maybe", call_id=self.future.call_id)
        return errors.SubmitFailed(f"{self.job.name} was not submitted: {error}", ran="no", call_id=self.future.call_id)

    def _seen(self, task: Task | None) -> None:
        if task is not None and not task.ended:
            self.future.status = task.status
            if self.future.cancelled() and not self._cancelled:
                self._cancel_later()
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
            self.future.artifact = download(self._parts.client, self.job, task, folder, time.sleep)
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
            price = self._parts.prices().get(self.job.plan)
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
        if self._parts.bucket is None or not self._staged:
            return
        try:
            self._parts.bucket.delete(keys.payload(self.job.id, self.job.attempt))
        except errors.StorageError as error:
            _log.warning("the payload of %s stays in the bucket: %s", self.job.name, error)
