"""A job whose calls a session takes: how far they are, what they print, and what they come to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dokrun import errors, keys
from dokrun.api.models import Task
from dokrun.bucket import Bucket
from dokrun.engine.attempts import say_why
from dokrun.engine.copies import Copy
from dokrun.engine.prepare import Job
from dokrun.engine.reports import Outcome
from dokrun.engine.tasklog import LAST_LINES
from dokrun.outcomes import Outcomes, Result
from dokrun.shim.envelope import Segment, pack

# How much of what a call has printed is kept here; the task's log has all of it.
_PRINTED_CHARS = 1 << 20


# Yields what a call has printed, as it grows, by its task and its number.
Logs = Callable[[str, int], Iterator[str]]


@dataclass(frozen=True)
class Where:
    """Which container has taken calls: its task, and the session's handle."""

    task: Task
    handle: keys.Handle


class Again(NamedTuple):
    """That it is for one call alone, which is tried again: which, in which attempt, and what those before came to."""

    number: int
    attempt: int
    failures: dict[int, list[BaseException]]


class Flight:
    """A job on its way to a session, and back.

    Attributes:
        job: what is sent.
        calls: what its calls have come to.
        held: of what they are given, what is still here, by digest, as long as it may be sent; the rest is there, or in
            the bucket.
        sent: whether the container may have heard of it.
        base: the number of its first call there, once it has taken it.
        where: which container that is.
        found: whether another process has sent it, so that this one hears only what nobody has taken yet.
        handed_back: the calls that a container was given and was over before it began them: another one may run them.
    """

    def __init__(
        self,
        job: Job,
        calls: Outcomes,
        held: Mapping[str, Copy],
        straight: set[str],
        again: Again | None = None,
        *,
        found: bool = False,
        keeps: bool = False,
    ) -> None:
        self.job = job
        self.calls = calls
        self.held = dict(held)
        self._straight = straight
        self._again = again
        # Whether another container may need what its calls are given, after one has taken it.
        self._keeps = keeps or job.retry.times > 0
        # Which calls are sent; None is all that it is for.
        self._chosen: list[int] | None = None if again is None else [again.number]
        self.handed_back: set[int] = set()
        self._failures: dict[int, list[BaseException]] = {} if again is None else again.failures
        self.found = found
        self.sent = found
        self.base: int | None = None
        self.where: Where | None = None
        # Those that the container is told to cancel.
        self._cancelled: set[int] = set()
        # The calls of which something has come: an outcome, or a failure after which they are tried again.
        self._come: set[int] = set()
        self._printed: dict[int, Printed] = {}
        self._lock = threading.Lock()
        former = calls.progress.logs
        calls.progress.logs = (
            self._logs if again is None or former is None else _of_one(again.number, self._logs, former)
        )

    @property
    def name(self) -> str:
        """The function's name."""
        return self.job.name

    @property
    def ticket(self) -> str:
        """What the container calls it by."""
        return self.job.id if self._again is None else f"{self.job.id}.{self._again.number}.{self._again.attempt}"

    @property
    def payload(self) -> bytes:
        """What is sent."""
        more: dict[str, object] = {}
        if self._chosen is not None:
            more["chosen"] = self._chosen
        if self._again is not None:
            more |= {"ticket": self.ticket, "attempt": self._again.attempt}
        return pack({**self.job.header, **more}, self.job.segments)

    @property
    def left(self) -> list[int]:
        """The calls that it is for, of which nothing has come, and that somebody waits for."""
        left = self.calls.left
        if self._again is not None:
            left = [] if self.calls.is_told(self._again.number) else [self._again.number]
        return [number for number in left if number not in self._come]

    @property
    def over(self) -> bool:
        """Whether something has come of each of its calls."""
        return len(self._come) == (self.job.calls if self._again is None else 1)

    def come(self, number: int) -> bool:
        """Take note that something has come of a call. Tells whether it is the first that does, and wanted."""
        new = number not in self._come
        self._come.add(number)
        return new and not self.calls.is_told(number)

    def next(self, number: int, error: BaseException) -> tuple[Flight, float] | None:
        """Tell how a call that has failed is tried again, after how many seconds; None where it is not."""
        self._locate(number, error)
        failures = self._failures.setdefault(number, [])
        failures.append(error)
        retry = self.job.retry
        if not retry.allows(failures):
            return None
        again = Again(number, len(failures) + 1, self._failures)
        flight = Flight(self.job, self.calls, self.held, self._straight, again, keeps=self._keeps)
        return flight, retry.pause_s(len(failures))

    def needs(self, bucket: Bucket | None) -> dict[str, tuple[int, str | None]]:
        """Tell what its calls are given that lies elsewhere: how large it is, and its address in the bucket."""
        elsewhere = {segment.sha256: segment for segment in self.job.segments if segment.data is None}
        return {sha256: (segment.size, self._address(segment, bucket)) for sha256, segment in elsewhere.items()}

    def _address(self, segment: Segment, bucket: Bucket | None) -> str | None:
        if segment.sha256 in self.held or segment.sha256 in self._straight or bucket is None:
            return None
        return bucket.address(keys.blob(segment.sha256))

    def taken(self, base: int, where: Where) -> None:
        """Take note that a container has taken it."""
        self.base, self.where = base, where
        if not self._keeps:
            self.held.clear()
        handle = where.handle._replace(name=self.job.name, call=self.job.id, calls=self.job.calls)
        self.calls.progress.update(task_id=where.task.id, handle=str(handle))

    def again(self) -> None:
        """Be ready for another container."""
        self.sent, self.base, self.where = False, None, None
        if self.handed_back:
            self._chosen, self.handed_back = self.left, set()
        self.calls.progress.update(status="waiting", task_id=None)

    def begun(self) -> None:
        """Take note that a worker was given some of its calls."""
        if not self.calls.over:  # it may have been cancelled since
            self.calls.progress.update(status="running")

    def ran(self, number: int) -> errors.Ran:
        """Tell what is known here of a call that has no outcome."""
        if not self.sent:
            return "no"
        # A worker may have been given it, and not have come to its function.
        return "yes" if self.printed(number).last else "maybe"

    def printed(self, number: int) -> Printed:
        """Tell what a call has printed."""
        with self._lock:
            return self._printed.setdefault(number, Printed())

    def settle(self, number: int, outcome: Outcome) -> None:
        """Give a call its outcome."""
        error, printed = outcome.error, self.printed(number)
        if error is not None:
            self._locate(number, error)
        self.calls.settle([(number, Result(outcome.value, error))])
        printed.end()
        if self.calls.over:
            self.calls.progress.update(over=True, status="done")

    def _logs(self, _task_id: str, number: int) -> Iterator[str]:
        return self.printed(number).follow(lambda: self.calls.is_told(number))

    def _locate(self, number: int, error: BaseException) -> None:
        """Let an error of ours say which call and attempt it is about, once, and whether the function ran in any."""
        failures, progress = self._failures.get(number, ()), self.calls.progress
        if not isinstance(error, errors.CallFailed) or any(failure is error for failure in failures):
            return
        if any(_has_run(failure) for failure in failures):
            error.ran = "yes"
        error.locate(
            call_id=self.calls.call_id(number),
            attempt=1 if self._again is None else self._again.attempt,
            task_id=progress.task_id or "",
            handle=progress.handle or "",
            outlasts=(progress.session or progress).outlasts,
        )
        if not isinstance(error, errors.RemoteError):
            error.log = tuple(self.printed(number).last)

    def fail(self, make: Callable[[int], errors.CallFailed]) -> None:
        """Give every call that has no outcome an error, made for its number; or its last own, where there is one."""
        for number in self.left:
            if self.come(number):
                self.settle(number, Outcome(error=self._last(number, make(number))))
        self.held.clear()

    def _last(self, number: int, error: errors.CallFailed) -> BaseException:
        """Tell what a call has failed with last, and why there was no other attempt; else the error itself."""
        failures = self._failures.get(number)
        if not failures:
            return error
        say_why(failures[-1], f"it was not tried again: {error.args[0]}")
        return failures[-1]

    def elsewhere(self) -> errors.SessionLost:
        """Make the error of a call whose outcome is there no more."""
        message = f"somebody else has taken what this call of {self.name} came to: the process that did has it"
        return errors.SessionLost(message, ran="maybe")

    def newly_cancelled(self) -> list[int]:
        """Tell which of its calls were cancelled since this was asked last."""
        with self._lock:
            new = [number for number in self._left_out if number not in self._cancelled]
            self._cancelled.update(new)
            return new

    @property
    def _left_out(self) -> list[int]:
        left_out = self.calls.left_out
        return left_out if self._again is None else [number for number in left_out if number == self._again.number]

    def see_cancelled(self) -> None:
        """Let what waits for more of the calls that were cancelled wait no longer."""
        for number in self._left_out:
            self.printed(number).end()
        if self.calls.over:
            self.calls.progress.update(over=True, status="canceled" if self.calls.abandoned() else "done")


class Printed:
    """What a call has printed, as it grows; the end of it, where it is much."""

    def __init__(self) -> None:
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self._pieces: deque[str] = deque()
        self._left_out = 0
        self._chars = 0
        self._changed = threading.Condition()
        self._ended = False

    def add(self, text: str) -> None:
        """Take more."""
        with self._changed:
            self.last.extend(text.splitlines())
            self._pieces.append(text)
            self._chars += len(text)
            while self._chars > _PRINTED_CHARS and len(self._pieces) > 1:
                self._chars -= len(self._pieces.popleft())
                self._left_out += 1
            self._changed.notify_all()

    def end(self) -> None:
        """Take note that nothing more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def follow(self, told: Callable[[], bool]) -> Iterator[str]:
        """Yield it piece by piece, until nothing more comes; `told` tells whether the call has its outcome."""
        number = 0
        while pieces := self._after(number, told):
            number = pieces[-1][0]
            yield "".join(text for _, text in pieces)

    def _after(self, number: int, told: Callable[[], bool]) -> list[tuple[int, str]]:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._left_out + len(self._pieces) > number or told())
            pieces = enumerate(self._pieces, start=self._left_out + 1)
            return [piece for piece in pieces if piece[0] > number]


def _of_one(number: int, logs: Logs, others: Logs) -> Logs:
    """Tell what has the log of one call, while others are in another flight."""
    return lambda task_id, asked: (logs if asked == number else others)(task_id, asked)


def _has_run(failure: BaseException) -> bool:
    return not isinstance(failure, errors.CallFailed) or failure.ran == "yes"
