"""Which attempt of a job comes after which, and what all of them together have shown. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from dokrun import errors
from dokrun.engine.reports import Outcome
from dokrun.engine.stage import Checkpoint
from dokrun.retry import Retry

# How many tasks an attempt may have of which none starts the function.
STAGINGS = 3
_CERTAINTY: tuple[errors.Ran, ...] = ("no", "maybe", "yes")


@dataclass(frozen=True)
class Next:
    """The attempt that a task comes for next, and how long to wait before it is made, in seconds."""

    attempt: int
    pause_s: float


class Attempts:
    """The attempts of a job so far.

    Args:
        retry: how many there may be, as far as is known: a handle from another machine does not tell.
        ours: whether this process has submitted the job, and so begins them.

    Attributes:
        checkpoint: the last that one of them has saved.
    """

    def __init__(self, retry: Retry, *, ours: bool) -> None:
        self.retry = retry
        self.checkpoint: Checkpoint | None = None
        self._ours = ours
        self._failures: list[BaseException] = []
        self._restagings = 0
        # Whether the process that has submitted the job may begin another, which this one cannot see.
        self.others_go_on = False

    def after(self, outcome: Outcome, attempt: int) -> Next | None:
        """Tell what comes after an attempt that has failed; None where nothing may."""
        error = outcome.error
        if error is None:
            return None
        if not self._ours:
            return self._others(outcome, error, attempt)
        pause_s = 0.0
        if outcome.again:
            self._restagings += 1
            if self._restagings >= STAGINGS:
                return None  # the retries are for what has started
        else:
            self._restagings = 0
            self._failures.append(error)
            if _given_up(error) or not self.retry.allows(self._failures):
                self._say_why(error)
                return None
            pause_s = self.retry.pause_s(len(self._failures))
        self.checkpoint = outcome.checkpoint or self.checkpoint
        return Next(attempt + outcome.claimed, pause_s)

    def _others(self, outcome: Outcome, error: BaseException, attempt: int) -> Next | None:
        if not outcome.again and attempt > self.retry.times:
            return None
        self._failures.append(error)
        return Next(attempt + outcome.claimed, 0.0 if outcome.again else self.retry.pause_s(attempt))

    def _say_why(self, error: BaseException) -> None:
        """Let an error tell why there is no further attempt, though more were allowed."""
        if isinstance(error, errors.CallFailed) and self.retry.gives_up(self._failures):
            error.args = (f"{error.args[0]}; two attempts died alike, so there was no further one",)

    def ran(self, last: errors.Ran, attempt: int) -> errors.Ran:
        """Tell whether the function ran in any attempt, not in the last one alone."""
        told = [failed.ran if isinstance(failed, errors.CallFailed) else "yes" for failed in self._failures]
        # Of attempts that another process has made, this one does not know.
        unknown = self.others_go_on or (not self._ours and attempt > 1)
        told += ["maybe"] if unknown else []
        return max((last, *told), key=_CERTAINTY.index)


def _given_up(error: BaseException) -> bool:
    """Tell whether somebody has ended an attempt before it started, and may have said that nothing will."""
    return isinstance(error, errors.TaskFailed) and error.ran == "no"
