"""What a task's log says: the ends of what was printed, which calls were begun, what the supervisor has announced."""

from __future__ import annotations

import bisect
import logging
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from dokrun import errors
from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.engine.reports import Expected
from dokrun.engine.stage import Checkpoint
from dokrun.shim import protocol

_log = logging.getLogger("dokrun.engine")

LAST_LINES = 20
# Of how many calls the last lines are kept, at most.
_LAST_CALLS = 1000
_LONGEST_LINE = 500
_NUMBER, _DIGEST = "([0-9]{1,15})", "([0-9a-f]{64})"


def _pattern(line: str, *parts: str) -> re.Pattern[str]:
    # What a function prints may look like it.
    return re.compile(re.escape(line).replace(r"\{\}", "{}").format(*parts))


_CALL = _pattern(protocol.CALL, _NUMBER)
_STARTED = _pattern(protocol.STARTED, _NUMBER, _NUMBER, _NUMBER)
_WORD = _pattern(protocol.WORD, "([0-9a-f]{16})")
_CHECKPOINT = _pattern(protocol.CHECKPOINT, "([0-9a-f]{16})", "([01])", _DIGEST, _NUMBER)
_RESULTS = _pattern(protocol.RESULTS, "([0-9a-f]{16})", "([0-9]{1,6})", _DIGEST, _NUMBER)
# The log may be collected a little after the task's end: pauses between looks, in seconds.
PATIENCE_S = (0.1, 0.5, 2.0)


class Ahead(NamedTuple):
    """Results that a container has sent ahead of its artifact: in which of its places, and what their bytes must be."""

    slot: int
    sha256: str
    size: int


@dataclass(frozen=True)
class Log:
    """The end of a task's log, and what it says of calls that were begun, of a checkpoint, of results sent ahead.

    Where there are several calls, `of_calls` has the end of what each of the last ones has printed.
    """

    last: tuple[str, ...] = ()
    of_calls: Mapping[int, Sequence[str]] = field(default_factory=dict)
    begun: tuple[range, ...] = ()
    checkpoint: Checkpoint | None = None
    results: tuple[Ahead, ...] = ()

    def end_of(self, number: int, calls: Collection[int]) -> tuple[str, ...]:
        """Tell the end of what one of some calls has printed."""
        return self.last if len(calls) == 1 and not self.of_calls else tuple(self.of_calls.get(number, ()))

    def ran(self, number: int) -> errors.Ran | None:
        """Tell whether it says that a call's function ran; None where it does not speak of it."""
        if number in self._alone:
            return "yes"
        found = bisect.bisect_right(self._joined, number, key=lambda numbers: numbers.start) - 1
        # Of several that were begun together, it is not known how far they came.
        return "maybe" if found >= 0 and number in self._joined[found] else None

    @cached_property
    def _alone(self) -> frozenset[int]:
        return frozenset(numbers.start for numbers in self.begun if numbers.start + 1 == numbers.stop)

    @cached_property
    def _joined(self) -> Sequence[range]:
        """Tell what was begun, in order, without overlaps: one may ask for each of very many calls."""
        joined: list[range] = []
        for numbers in sorted(filter(None, self.begun), key=lambda numbers: numbers.start):
            if joined and numbers.start <= joined[-1].stop:
                joined[-1] = range(joined[-1].start, max(joined[-1].stop, numbers.stop))
            else:
                joined.append(numbers)
        return joined


def read_log(client: Client, expected: Expected, task: Task, sleep: Callable[[float], object]) -> Log:
    """Read the log of a task that has ended, as far as it can be had; a failed look says nothing about it."""
    if task.started_at is None:
        return Log()  # it never wrote anything
    # A session's calls have attempts of their own, and each of these a number of its own there.
    attempt = None if expected.session else expected.attempt
    problem: errors.ApiError | None = None
    for pause_s in (0.0, *PATIENCE_S):
        sleep(pause_s)
        try:
            return _read(client.tasks.output_lines(task.id), attempt)
        except errors.ApiError as error:
            problem = error
    _log.warning("the log of task %s cannot be had: %s", task.id, problem)
    return Log()


class Supervisor:
    """Reads the lines that a supervisor writes in the log: those that bear the word that it said first."""

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self._word: str | None = None

    def read(self, line: str) -> Ahead | Checkpoint | None:
        """Tell what a line announces: results, or a checkpoint; None of any other."""
        told = _WORD.fullmatch(line)
        if told and self._word is None:
            self._word = told[1]
        elif (told := _RESULTS.fullmatch(line)) and told[1] == self._word:
            return Ahead(int(told[2]), told[3], int(told[4]))
        elif (told := _CHECKPOINT.fullmatch(line)) and told[1] == self._word:
            return Checkpoint(self._attempt, int(told[2]), told[3], int(told[4]))
        return None


class Tails:
    """The end of what a task has printed, and of what each of its last calls has, where there are several."""

    def __init__(self) -> None:
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self.of_calls: OrderedDict[int, deque[str]] = OrderedDict()

    def take(self, line: str) -> None:
        """Take the next line of the log."""
        if told := _CALL.fullmatch(line):
            number = int(told[1])
            self.of_calls.setdefault(number, deque(maxlen=LAST_LINES))
            self.of_calls.move_to_end(number)
            if len(self.of_calls) > _LAST_CALLS:
                self.of_calls.popitem(last=False)
        elif not line.startswith(protocol.OURS_IN_LOG):
            self.last.append(line[:_LONGEST_LINE])
            if self.of_calls:
                next(reversed(self.of_calls.values())).append(line[:_LONGEST_LINE])


def _read(lines: Iterable[str], attempt: int | None) -> Log:
    begun: list[range] = []
    results: list[Ahead] = []
    checkpoint, supervisor, tails = None, Supervisor(attempt or 0), Tails()
    for line in lines:
        tails.take(line)
        if told := _STARTED.fullmatch(line):
            begun += [range(int(told[1]), int(told[2]) + 1)] if attempt in (None, int(told[3])) else []
        elif isinstance(announced := supervisor.read(line), Ahead):
            results.append(announced)
        else:
            checkpoint = announced or checkpoint
    return Log(tuple(tails.last), tails.of_calls, tuple(begun), checkpoint, tuple(results))
