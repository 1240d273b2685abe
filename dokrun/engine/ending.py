"""The end of a job before its time: its task is told to end, and its claim is taken so that nothing starts later."""

from __future__ import annotations

import logging
import threading

from dokrun import errors
from dokrun.engine.definition import Identity
from dokrun.engine.journal import Step
from dokrun.engine.parts import Parts
from dokrun.future import Progress

_log = logging.getLogger("dokrun.engine")


class Ending:
    """Ends the tasks of one job, from whichever thread, each once."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        # Whether there is nothing more to tell the service about the task of the attempt under way.
        self.done = False
        self._by_us = False

    def begin_again(self) -> None:
        """Be ready for another task."""
        self.done = False

    def end(self, identity: Identity, progress: Progress) -> bool:
        """Tell the service to end the job's task, if there is one. Tells whether that ended it, now or before."""
        with self._lock:
            if self.done:
                return self._by_us
            if progress.status in ("staging", "waiting"):
                self._fence(identity, progress)
            if progress.task_id is None:
                return False
            try:
                self._parts.client.tasks.cancel(progress.task_id)
            except (errors.Forbidden, errors.NotFound) as error:
                if not self._has_ended(progress.task_id):
                    return _not_ended(progress.task_id, error)
                self.done = True
                return False
            except errors.ApiError as error:
                return _not_ended(progress.task_id, error)
            self.done = self._by_us = True
            return True

    def _fence(self, identity: Identity, progress: Progress) -> None:
        """Take the claim: a task that the service makes or starts later on will find that it may not."""
        if not identity.digest:
            return  # nothing has been sent, nor will be
        self._parts.journal.note(identity.job_id, Step("given up", progress.attempt))
        try:
            self._parts.submitter.fence(identity, progress.attempt)
        except errors.StorageError as error:
            _log.warning("could not take the claim of job %s: %s", identity.job_id, error)

    def _has_ended(self, task_id: str) -> bool:
        try:
            return self._parts.client.tasks.get(task_id).ended
        except errors.NotFound:
            return True
        except errors.ApiError:
            return False


def _not_ended(task_id: str, error: errors.ApiError) -> bool:
    # Whoever watches the task tries again at the next look.
    _log.warning("could not cancel task %s, which may still cost money: %s", task_id, error)
    return False
