"""How a job's calls come to their outcomes, and what is left behind when all of them have."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

from dokrun import errors
from dokrun.engine.attempts import Attempts, Told
from dokrun.engine.journal import Step
from dokrun.engine.parts import Parts
from dokrun.engine.reports import Outcome
from dokrun.engine.stage import unstage
from dokrun.outcomes import Outcomes, Result


class Settling:
    """Gives calls their outcomes, each with all that is known of it.

    Args:
        parts: the engine's.
        calls: the job's calls.
        attempts: its attempts so far.

    Attributes:
        without_artifact: those of them that have ended and left none, or none that can be had.
        failed: whether any call has come to an error, in whichever of them.
        lasting: whether nothing would be learnt of any call by looking again.
    """

    def __init__(self, parts: Parts, calls: Outcomes, attempts: Attempts) -> None:
        self._parts = parts
        self._calls = calls
        self._attempts = attempts
        self._kinds: Counter[str] = Counter()
        self.without_artifact: set[int] = set()
        self.failed, self.lasting = False, True

    def settle(self, told: Sequence[Told]) -> None:
        """Give some calls their outcomes."""
        for number, outcome in told:
            self._kinds[outcome.told] += 1
            self.failed |= outcome.error is not None
            self.lasting &= outcome.lasting
            self._locate(number, outcome.error)
        self._calls.settle((number, Result(outcome.value, outcome.error)) for number, outcome in told)

    def each_left(self, error: BaseException, *, lasting: bool) -> list[Told]:
        """Make of one error the outcome of every call that has none."""
        return [(number, Outcome(error=_copied(error), lasting=lasting)) for number in self._calls.left]

    def note(self, told: Sequence[Told]) -> Step:
        """Tell the journal's last step, when these are the last outcomes."""
        kinds = self._kinds + Counter(outcome.told for _, outcome in told)
        kind = next(iter(kinds), "nothing")
        detail = kind if len(self._calls) == 1 else ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return Step("settled", self._calls.progress.attempt, detail="cancelled" if self._calls.cancelled() else detail)

    def clean_up(self) -> None:
        """Remove from the bucket what only the job's containers needed."""
        if self._parts.bucket is not None:
            # What a failed call has saved may be all that is left of it.
            checkpoints = not self.failed and self._attempts.retry.times > 0
            attempts = self._calls.progress.attempt
            unstage(
                self._calls.job_id,
                self._parts.bucket,
                attempts,
                checkpoints=checkpoints,
                without_artifact=self.without_artifact,
            )

    def _locate(self, number: int, error: BaseException | None) -> None:
        """Let an error of ours say which call it is about, and whether its function ran in any attempt."""
        if isinstance(error, errors.CallFailed):
            progress = self._calls.progress
            if isinstance(error, errors.TooExpensive) and progress.receipt is not None:
                error.account(progress.receipt.yen)
            error.ran = self._attempts.ran(number, error.ran, progress.attempt)
            error.still_runs = error.still_runs or self._attempts.others_go_on
            error.locate(
                call_id=self._calls.call_id(number),
                attempt=progress.attempt,
                task_id=progress.task_id or "",
                handle=progress.handle or "",
                costs=progress.costs,
                outlasts=progress.outlasts,
            )


def _copied(error: BaseException) -> BaseException:
    """Make an error of its own of the same: whoever raises one adds to its traceback."""
    other = copy.copy(error)
    other.__cause__ = error.__cause__
    return other
