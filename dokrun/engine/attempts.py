"""Which attempt of a job comes after which, for which of its calls, and what all of them have shown. No I/O."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from dokrun import errors
from dokrun.engine.reports import Outcome
from dokrun.engine.stage import Checkpoint
from dokrun.retry import Retry

_log = logging.getLogger("dokrun.engine")

# How many tasks there may be, one after another, of which none starts a function.
STAGINGS = 3
# How many containers may be lost, one after another, without a call that has come to its end.
LOSSES = 5
_NO_MONEY = "there was no further attempt, since what is left of its max_yen does not pay for one"
_NO_USE = f"there was no further attempt, since {LOSSES} containers in a row were lost before any call had ended"
_CERTAINTY: tuple[errors.Ran, ...] = ("no", "maybe", "yes")

# What became of a call in an attempt, by its number.
Told = tuple[int, Outcome]


@dataclass(frozen=True)
class Next:
    """The attempt that a task comes for next, for which calls, and how long to wait before it is made, in seconds."""

    attempt: int
    calls: Sequence[Told]
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
        self._failures: dict[int, list[BaseException]] = {}
        self._stagings = 0
        self._losses = 0
        # How many calls the last attempt was for.
        self._asked: int | None = None
        # How many attempts there were before the first that was seen.
        self._unseen: int | None = None
        # Whether the process that has submitted the job may begin another, which this one cannot see.
        self.others_go_on = False

    def after(self, told: Sequence[Told], attempt: int, *, pays: bool = True) -> tuple[Sequence[Told], Next | None]:
        """Tell what of an attempt's outcomes is final, and what comes next; None where nothing may.

        `pays` tells whether the job's `max_yen` pays for another task.
        """
        self._unseen = attempt - 1 if self._unseen is None else self._unseen
        idle = all(outcome.again for _, outcome in told)
        self._stagings = self._stagings + 1 if idle and told else 0
        self._count_losses(told)
        again = [(number, outcome) for number, outcome in told if self._goes_on(number, outcome, self._unseen)]
        # What has retries may try again, and takes along what was never begun.
        hopeless = self._losses >= LOSSES and all(outcome.again for _, outcome in again)
        if again and self._ours and (hopeless or not pays):
            for _, outcome in again:
                say_why(outcome.error, _NO_USE if pays else _NO_MONEY)
            again = []
        if not again:
            return told, None
        self._asked = len(again)
        chosen = {number for number, _ in again}
        failed = [len(self._failures[number]) for number in chosen if number in self._failures]
        for _, outcome in again:
            self.checkpoint = outcome.checkpoint or self.checkpoint
        claimed = any(outcome.claimed for _, outcome in again)
        pause_s = 0.0 if idle else self.retry.pause_s(max(failed, default=1))
        final = [(number, outcome) for number, outcome in told if number not in chosen]
        return final, Next(attempt + claimed, again, pause_s)

    def _count_losses(self, told: Sequence[Told]) -> None:
        ended = [
            outcome for _, outcome in told if not outcome.again and not isinstance(outcome.error, errors.TaskFailed)
        ]
        early = self._asked is not None and len(told) < self._asked
        self._losses = 0 if ended or early else self._losses + 1

    def _goes_on(self, number: int, outcome: Outcome, unseen: int) -> bool:
        """Tell whether a call is tried again."""
        error = outcome.error
        if error is None:
            return False
        if outcome.again:
            return not self._ours or self._stagings < STAGINGS  # the retries are for what has started
        failures = self._failures.setdefault(number, [])
        failures.append(error)
        if not self._ours:
            return unseen + len(failures) <= self.retry.times
        if _given_up(error) or not self.retry.allows(failures):
            self._say_why(error, failures)
            return False
        return True

    def _say_why(self, error: BaseException, failures: Sequence[BaseException]) -> None:
        """Let an error tell why there is no further attempt, though more were allowed."""
        if isinstance(error, errors.CallFailed) and self.retry.gives_up(failures):
            error.args = (f"{error.args[0]}; two attempts died alike, so there was no further one",)

    def ran(self, number: int, last: errors.Ran, attempt: int) -> errors.Ran:
        """Tell whether the function of a call ran in any attempt, not in the last one alone."""
        failures = self._failures.get(number, ())
        told = [failed.ran if isinstance(failed, errors.CallFailed) else "yes" for failed in failures]
        # Of attempts that another process has made, this one does not know.
        unseen = attempt - 1 if self._unseen is None else self._unseen
        unknown = self.others_go_on or (not self._ours and unseen > 0)
        told += ["maybe"] if unknown else []
        return max((last, *told), key=_CERTAINTY.index)


def say_why(error: BaseException | None, why: str) -> None:
    """Let an error tell why there is no further attempt, though more were allowed; a user's own bears it as a note."""
    if isinstance(error, errors.CallFailed):
        error.args = (f"{error.args[0]}; {why}",)
        return
    _log.warning("%s", why)
    if error is not None and sys.version_info >= (3, 11):
        error.add_note(why)


def _given_up(error: BaseException) -> bool:
    """Tell whether somebody has ended an attempt before it started, and may have said that nothing will."""
    return isinstance(error, errors.TaskFailed) and error.ran == "no"
