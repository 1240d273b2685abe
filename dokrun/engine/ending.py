"""The end of a job before its time: its task is told to end, and its claim is taken so that nothing starts later."""

from __future__ import annotations

import logging
import threading

from dokrun import errors
from dokrun.engine.definition import Identity
from dokrun.engine.journal import Step
from dokrun.engine.parts import Parts
from dokrun.jobstate import Progress

_log = logging.getLogger("dokrun.engine")


class Ending:
    """Ends the tasks of one job, from whichever thread, each once."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        # The task of which the service need not be told any more, and whether that ended it.
        self._ended: str | None = None
        self._by_us = False
        # The attempt that was given up, if one was.
        self._given_up = 0

    def has_ended(self, task_id: str) -> bool:
        """Tell whether there is nothing more to tell the service about a task."""
        return self._ended == task_id

    def end(self, identity: Identity, progress: Progress) -> bool:
        """Tell the service to end the job's task, if there is one. Tells whether that ended it, now or before."""
        with self._lock:
            task_id, attempt = progress.task_id, progress.attempt
            # What has started has its claim taken; of what was never sent there is none.
            fences = progress.status in ("staging", "waiting") and identity.digest and self._given_up != attempt
            if fences:
                self._parts.journal.note(identity.job_id, Step("given up", attempt))
            if task_id is not None and self._ended != task_id:
                self._tell(task_id, progress)
            # After the task, which costs money.
            if fences:
                self._fence(identity, attempt)
            return task_id is not None and self._ended == task_id and self._by_us

    def _tell(self, task_id: str, progress: Progress) -> None:
        try:
            self._parts.client.tasks.cancel(task_id)
        except (errors.Forbidden, errors.NotFound) as error:
            if self._is_ending(task_id):
                self._ended, self._by_us = task_id, False
            else:
                _not_ended(task_id, progress, error)
        except errors.ApiError as error:
            _not_ended(task_id, progress, error)
        else:
            self._ended, self._by_us = task_id, True

    def _fence(self, identity: Identity, attempt: int) -> None:
        """Take the claim: a task that the service makes or starts later on will find that it may not."""
        try:
            self._parts.submitter.fence(identity, attempt)
        except errors.StorageError as error:
            _log.warning("could not take the claim of job %s: %s", identity.job_id, error)
        else:
            self._given_up = attempt

    def _is_ending(self, task_id: str) -> bool:
        """Tell whether a task has ended, or is about to since somebody else has cancelled it."""
        try:
            task = self._parts.client.tasks.get(task_id)
        except errors.NotFound:
            return True
        except errors.ApiError:
            return False
        return task.ended or task.canceled_at is not None


def _not_ended(task_id: str, progress: Progress, error: errors.ApiError) -> None:
    # Whoever watches the task tries again at the next look.
    costs = f" and {progress.costs}" if progress.costs else ""
    _log.warning("could not cancel task %s, which may still run%s: %s", task_id, costs, error)
