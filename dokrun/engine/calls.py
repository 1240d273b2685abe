"""The calls of a job as whoever has made them sees them: each comes to one outcome, which says all that is known."""

from __future__ import annotations

from typing import Any

from dokrun import errors
from dokrun.engine.attempts import Attempts
from dokrun.engine.reports import Outcome
from dokrun.future import Future, Progress


class Calls:
    """Gives the calls of a job their outcomes.

    Args:
        future: the call's.
        progress: the job's.
        attempts: those of the job so far.
    """

    def __init__(self, future: Future[Any], progress: Progress, attempts: Attempts) -> None:
        self._future = future
        self._progress = progress
        self._attempts = attempts

    def cancelled(self) -> bool:
        """Whether nobody waits for the job any more."""
        return self._future.cancelled()

    def cancel(self) -> None:
        """Cancel what has no outcome yet."""
        self._future.cancel()

    def locate(self, error: BaseException) -> None:
        """Let an error of ours say which call it is about, and whether its function ran in any attempt."""
        if isinstance(error, errors.CallFailed):
            error.ran = self._attempts.ran(error.ran, self._progress.attempt)
            error.still_runs = error.still_runs or self._attempts.others_go_on
            error.locate(
                call_id=self._future.call_id,
                attempt=self._progress.attempt,
                task_id=self._progress.task_id or "",
                handle=self._progress.handle or "",
                costs=self._progress.costs,
            )

    def settle(self, outcome: Outcome) -> None:
        """Give the call its outcome, unless it has one."""
        if outcome.error is not None:
            self._future.fail(outcome.error)
        else:
            self._future.settle(outcome.value)
        self._progress.update()
