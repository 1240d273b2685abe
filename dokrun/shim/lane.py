"""A place for one worker at a time: a worker that dies is replaced, and its death costs its own call alone.

Calls that take long are given to the worker one by one; short ones several at a time, so that a call costs next to
nothing. Either way it is known which call the worker was at, and whether its function was being run.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import signal
import threading
import time
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Protocol, Sequence, Tuple

from . import cell, memory, protocol, written
from .envelope import Span
from .output import Heard, Passing
from .packs import Packs
from .process import Worker

# How long a worker shall be busy with what it is given at a time, in seconds.
PORTION_S = 0.2
GROWTH = 4
# How long what is done of several waits at least for the others, before it is told without them.
EARLY_S = 0.05

Failure = Dict[str, Any]
# Of the pieces of large reports, by their calls' numbers, as far as the worker has told them.
Digests = Mapping[str, Sequence[str]]


class Calls(Protocol):
    """All the calls that a container knows of."""

    def of(self, number: int) -> Packs:
        """Tell which payload's calls a call is among."""


class Pending(Protocol):
    """Where a lane gets its calls."""

    def take(self, most: int, per_second: float) -> Optional[Span]:
        """Take some calls that follow one another; None where none will come."""

    def done(self, span: Span) -> None:
        """Hear that some calls have come to their end."""

    def give_back(self, span: Span) -> None:
        """Take back what has not been begun."""


class Reports(Protocol):
    """Where it tells what became of them."""

    def add(self, path: str, digests: Digests, *, good: bool) -> None:
        """Take a file of reports that is whole."""

    def reached(self, span: Span) -> None:
        """Hear that some calls have come to their end, whose reports were told before."""

    def failed(self, span: Span, failure: Failure) -> None:
        """Hear what became of calls that have no report."""


# Up to which call all have a report; whether all of them are known to have brought a value; and, if the next one has
# no report and will have none, why.
Reached = Tuple[int, bool, Optional[Failure]]


class Limit(NamedTuple):
    """How long a call may take in all, and how much of that is left, in seconds."""

    number: int
    seconds: float
    left_s: float


class Lane:
    """Runs calls in a worker.

    Args:
        start: what every worker of the lane is told first: where the payload lies, where it tells how far it is, which
            GPU is its own.
        out: the folder for its files of reports, with the beginning of their names.
        calls: tells which payload's a call is.
        heard: told what calls print, where there are several: whose it is, and what. None where there is one alone.
        worker: one that has been started already.
    """

    def __init__(
        self, start: Dict[str, Any], out: str, calls: Calls, heard: Optional[Heard], worker: Optional[Worker]
    ) -> None:
        self._start = start
        self._out = out
        self._calls = calls
        self._heard = heard
        self._cell = cell.make(start["cell"])
        self._worker = worker
        # Whether the worker has brought a call to its end.
        self._used = False
        self._stopping = threading.Event()
        self._renewing = threading.Event()
        self._why = (protocol.STOPPED, protocol.WAS_STOPPED)
        # The most that a worker has heard its GPU to hold for it, in bytes.
        self.gpu_memory: Optional[int] = None
        self.ended = threading.Event()
        self._kills = memory.kills()
        # Held while it is found out whether the worker shall be ended where it is: one that shall be goes on no more.
        self._halting = threading.Lock()
        # The call that somebody has ended.
        self._ended_call = cell.NONE
        self._files = 0
        self._digests: Digests = {}
        self._portion = 1
        self._per_second = 0.0
        self._workers = 0
        self._output: Optional[Passing] = None
        if worker is not None:
            self._start_worker(worker)

    def run(self, pending: Pending, reports: Reports) -> None:
        """Take calls until there is none left."""
        try:
            while True:
                span = pending.take(self._portion, self._per_second)
                if span is None:
                    return
                self._run(span, pending, reports)
        finally:
            try:
                self._discard_worker()
            finally:
                self.ended.set()  # whatever else goes wrong, nobody shall wait for this lane

    def show_stacks(self) -> None:
        """Have the worker write to the log where it is, without waiting for that."""
        worker = self._worker
        if worker is not None:
            worker.show_stacks(wait_s=0.0)

    def stop(self, reason: str, message: str) -> None:
        """End the call under way, for a reason."""
        self._why = (reason, message)
        self._stopping.set()
        worker = self._worker
        if worker is not None:
            worker.kill()

    def end_call(self, number: int) -> None:
        """End a call, if the worker is at it; with it goes the worker."""
        worker = self._worker
        if worker is None:
            return
        with self._halting:
            # From here on it cannot go over to its next call.
            before = self._cell.halt(halted=True)
            now = self._cell.now()
            if now.number == number and now.phase != cell.IDLE and worker is self._worker:
                self._ended_call = number
                worker.kill()
            else:
                self._cell.halt(halted=before)

    def _run(self, span: Span, pending: Pending, reports: Reports) -> None:
        first, end = span
        self._files += 1
        path = f"{self._out}{self._files}"
        started = time.monotonic()
        self._digests = {}
        try:
            reached, good, failure = self._reach(span, path, started, reports)
        except OSError as error:  # no process can be started, or the reports cannot be read
            self._discard_worker()
            reached, good = self._begun(span), False
            message = f"the call could not be seen to its end: {error}"
            failure = protocol.failure(protocol.DIED, self._ran(reached), message)
        if reached > first:
            reports.add(path, self._digests, good=good)
            reports.reached((first, reached))
            self._pace(reached - first, time.monotonic() - started)
        if failure is not None and reached < end:
            reports.failed((reached, reached + 1), failure)
            reached += 1
        pending.done((first, reached))
        if reached < end:
            pending.give_back((reached, end))

    def _pace(self, count: int, seconds: float) -> None:
        """Learn from some calls how many to take at a time."""
        self._per_second = count / max(seconds, 1e-6)
        self._portion = max(1, min(int(self._per_second * PORTION_S), self._portion * GROWTH))

    def _reach(self, span: Span, path: str, started: float, reports: Reports) -> Reached:
        """Have calls run, as far as the worker comes with them."""
        worker, parts = self._ready_worker(), list(self._parts(span))
        told = [{"payload": packs.name, "base": packs.base, "calls": [first, end]} for packs, first, end in parts]
        worker.send({"parts": told, "into": path})
        # Calls of different packs may be given out together: how long it takes at most to see that one takes too long.
        look_s = min(protocol.LONGEST_IMPORT_S, *(packs.shortest_s() for packs, _, _ in parts))
        if self._stopping.is_set():
            worker.kill()  # it was started when the others were already being stopped
        # What is done of several shall not wait for one that takes long.
        early = span[1] - span[0] > 1
        while True:
            left_s = min(self._limit(span, started).left_s, self._early_s(span) if early else look_s)
            heard = worker.hear(left_s)
            if heard is not None:
                kind, answer = heard
                break
            if early:
                self._catch_up(ended=False)
                so_far = written.copied(path)
                if so_far is not None:
                    reports.add(so_far, {}, good=True)  # it comes again with the others, and counts once
                early = False
            late = self._late(span, started)
            if late is not None:
                return self._too_long(worker, span, path, late)
        if kind == "exit":
            return self._died(worker, span, path, answer)
        self._catch_up(ended=True)
        self._used = True
        self._digests = answer.get("digests", {})
        if "gpu_memory" in answer:
            self.gpu_memory = max(self.gpu_memory or 0, answer["gpu_memory"])
        return answer["end"], answer["good"], answer.get("failure")

    def _early_s(self, span: Span) -> float:
        """Tell after how long some calls take far longer than they were thought to."""
        expected_s = (span[1] - span[0]) / max(self._per_second, 1e-6)
        return max(EARLY_S, min(2 * expected_s, protocol.LONG_PORTION_S))

    def _parts(self, span: Span) -> Iterator[Tuple[Packs, int, int]]:
        """Tell which payloads' calls some calls are: of each, from which to which."""
        first, end = span
        while first < end:
            packs = self._calls.of(first)
            yield packs, first, min(end, packs.end)
            first = packs.end

    def _limit(self, span: Span, started: float) -> Limit:
        """Tell how long the worker may take for what it is at."""
        now = self._cell.now()
        number = now.number if span[0] <= now.number < span[1] else span[0]
        limit_s = self._calls.of(number).timeout_s(number)
        if now.phase != cell.RUNNING:
            # The function has its whole timeout to itself.
            limit_s = min(limit_s, protocol.LONGEST_IMPORT_S)
        return Limit(number, limit_s, max(started, now.since) + limit_s - time.monotonic())

    def _late(self, span: Span, started: float) -> Optional[Limit]:
        """Tell for what the worker takes too long, if it does; then it halts there."""
        if self._limit(span, started).left_s > 0:
            return None
        with self._halting:
            before = self._cell.halt(halted=True)
            limit = self._limit(span, started)
            if limit.left_s <= 0:
                return limit
            # It has gone on to its next call meanwhile.
            self._cell.halt(halted=before)
            return None

    def _too_long(self, worker: Worker, span: Span, path: str, limit: Limit) -> Reached:
        worker.show_stacks()
        self._discard_worker()
        reached, ran = self._reached(span, path), self._ran(limit.number)
        if reached > limit.number:
            return reached, False, None  # it had come to its end when it was to halt
        what = "the call took longer than its timeout of"
        if ran == "no":
            what = "what is imported before the function took longer than"
        message = f"{what} {limit.seconds:g} s, and was killed; the log says where it was"
        return reached, False, protocol.failure(protocol.TIMEOUT, ran, message)

    def _died(self, worker: Worker, span: Span, path: str, status: int) -> Reached:
        self._worker = None
        self._end(worker)
        reached = self._reached(span, path)
        ran = self._ran(reached)
        if self._stopping.is_set():
            reason, message = self._why
            failure = protocol.failure(reason, ran, message)
            return reached, False, failure if reached < span[1] else None
        if reached == self._ended_call:
            return reached, False, protocol.failure(protocol.CANCELLED, ran, protocol.WAS_CANCELLED)
        before = self._used or reached > span[0]
        if reached == span[1] or (before and ran == "no"):
            # All is done, or what a call before this one has left running may have killed it: it is tried again.
            return reached, False, None
        return reached, False, self._death(status, ran)

    def _death(self, status: int, ran: str) -> Failure:
        """Say what a worker died of. Its exit status is negative for a signal."""
        what = "the function" if ran == "yes" else "what is imported before the function"
        if status >= 0:
            message = f"{what} ended its process with exit status {status}"
            return protocol.failure(protocol.EXITED, ran, message, exit_code=status)
        if status == -signal.SIGKILL and memory.kills() > self._kills:
            message = f"the container ran out of memory while {what} ran, and the kernel killed the process"
            return protocol.failure(protocol.OUT_OF_MEMORY, ran, message, signal=-status)
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return protocol.failure(
            protocol.DIED, ran, f"the process was killed by {name} while {what} ran", signal=-status
        )

    def _ran(self, number: int) -> str:
        """Tell whether the function of a call was being run when the worker ended."""
        now = self._cell.now()
        return "yes" if now.number == number and now.phase == cell.RUNNING else "no"

    def _reached(self, span: Span, path: str) -> int:
        """Tell up to which call a worker has come that has ended: none before that is run again.

        Of some the report may be gone, where a function has emptied its artifact folder.
        """
        return max(written.whole(path, span[0]), self._begun(span))

    def _begun(self, span: Span) -> int:
        """Tell which of some calls the worker was at when it ended, or the first that it had not begun."""
        now = self._cell.now()
        if not span[0] <= now.number < span[1]:
            return span[0]
        return now.number if now.phase != cell.IDLE else now.number + 1

    def renew(self) -> None:
        """Have the next calls run in a new worker: what they import has changed."""
        self._renewing.set()

    def _ready_worker(self) -> Worker:
        if self._renewing.is_set():
            self._renewing.clear()
            self._discard_worker()
        if self._worker is None:
            self._kills = memory.kills()
            with self._halting:
                self._cell.clear()
            self._worker = Worker()
            self._used = False
            self._start_worker(self._worker)
        return self._worker

    def _start_worker(self, worker: Worker) -> None:
        start = dict(self._start)
        if self._heard is not None:
            self._workers += 1
            start["output"] = f"{start['cell']}-output-{self._workers}"
            self._output = Passing(start["output"], self._heard)
        worker.send(start)

    def _end(self, worker: Worker) -> None:
        """End a worker, and all that it has left running, and have heard its last words."""
        worker.end()
        output, self._output = self._output, None
        if output is not None:
            output.end()

    def _catch_up(self, *, ended: bool) -> None:
        if self._output is not None:
            self._output.catch_up(ended=ended)

    def _discard_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            self._end(worker)
