"""The list of calls of a session, which stays open: jobs are added, their calls given out, cancelled, done.

Calls are numbered one after another over all of the session's jobs. The first number is 1: 0 is the session itself.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import bisect
import collections
import contextlib
import itertools
import threading
import time
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, MutableSequence, Optional, Set, Tuple

from . import protocol
from .blobs import Blobs
from .envelope import Span
from .job import Job, is_attempt
from .mail import Mail
from .packs import Packs

# How long a lane may be busy, as far as is known, with calls that have come one by one and are given to it together.
TOGETHER_S = 0.01


class Opened:
    """Gives out calls to lanes. For any thread.

    Args:
        lanes: how many there are.
        blobs: what calls are given.
    """

    def __init__(self, lanes: int, blobs: Blobs) -> None:
        self._lanes = lanes
        self._blobs = blobs
        self._failed: Callable[[Span, Dict[str, Any]], None]
        self._over: Callable[[Job], None]
        self._changed = threading.Condition()
        # Those that have calls left, by their first number; the numbers in order.
        self._jobs: Dict[int, Job] = {}
        self._bases: List[int] = []
        self._next = 1
        self._waiting: List[Job] = []
        self._spans: Deque[Span] = collections.deque()
        self._own: List[Deque[Span]] = [collections.deque() for _ in range(lanes)]
        self._actors: Dict[str, int] = {}
        # Calls that were cancelled when a lane had them already.
        self._unwanted: Set[int] = set()
        self._closed = False
        self._since = time.monotonic()
        self.reason, self.trouble = protocol.OVER, "the session is over"

    def listen(self, failed: Callable[[Span, Dict[str, Any]], None], over: Callable[[Job], None]) -> None:
        """Have it told which calls cannot be run, and why, and which job's calls have all come to their end."""
        self._failed, self._over = failed, over
        self._blobs.listen(self._came)

    # For the lanes.

    def of(self, number: int) -> Packs:
        """Tell which payload's calls a call is among."""
        return self.job_of(number).packs

    def of_lane(self, number: int) -> "Share":
        """Tell where a lane gets its calls."""
        return Share(self, number)

    def take(self, lane: int, most: int, per_second: float) -> Optional[Span]:
        """Take some calls for a lane, as soon as there are any; None once the session is over.

        Those of one job, or the calls of several jobs that follow one another and are quick.
        """
        with self._changed:
            while not self._closed:
                for spans in (self._own[lane], self._spans):
                    if spans:
                        first, end = self._given(spans, most)
                        # What they come to is told when all have come to it.
                        most = min(most, int(per_second * TOGETHER_S), 1 + len(spans) // self._lanes)
                        while spans and spans[0][0] == end and spans[0][1] - first <= most:
                            _, end = self._given(spans, most)
                        return first, end
                self._changed.wait()
            return None

    def _given(self, spans: Deque[Span], most: int) -> Span:
        first, end = spans.popleft()
        cut = first + max(1, min(most, (end - first) // (2 * self._lanes)))
        if cut < end:
            spans.appendleft((cut, end))
            self._changed.notify()
        job = self.job_of(first)
        job.post(job.event({"kind": "begun", "calls": [first, cut]})._replace(patient=True))
        return first, cut

    def give_back(self, lane: int, span: Span) -> None:
        """Give back what has not been begun."""
        with self._changed:
            for job, part in reversed(list(self._parts(span))):
                spans = self._own[lane] if job.actor else self._spans
                spans.appendleft(part)
                self._take_back(job, spans, self._unwanted)
            self._changed.notify_all()

    def done(self, span: Span) -> None:
        """Take note that some calls have come to their end."""
        with self._changed:
            self._unwanted.difference_update(range(*span))
            for job, part in list(self._parts(span)):
                self._done(job, part[1] - part[0])

    def _parts(self, span: Span) -> Iterator[Tuple[Job, Span]]:
        """Tell whose calls some calls are, job by job."""
        first, end = span
        while first < end:
            job = self.job_of(first)
            yield job, (first, min(end, job.span[1]))
            first = job.span[1]

    def _done(self, job: Job, count: int) -> None:
        job.left -= count
        self._since = time.monotonic()
        if job.left == 0:
            base = job.packs.base
            del self._jobs[base]
            if self._unwanted:
                self._unwanted.difference_update(range(*job.span))
            self._bases.pop(bisect.bisect_left(self._bases, base))
            self._blobs.release(job.id)
            if job.ends:
                self._actors.pop(job.actor, None)
            self._over(job)
            self._changed.notify_all()

    # For those who bring them.

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Let those that are added in the block be taken when all are there: the first would be taken alone."""
        with self._changed:
            yield

    def add(
        self,
        header: Dict[str, Any],
        name: str,
        blobs: Iterable[str],
        mail: Mail,
        lay_out: Callable[[], object] = lambda: None,
    ) -> Optional[Job]:
        """Add the job of a payload, which lies in the file of a name; None where the session is over.

        When all is there that it needs, `lay_out` brings it to where its calls look for it.
        """
        with self._changed:
            if self._closed:
                return None
            packs = Packs(header["calls"], base=self._next, name=name)
            job = Job(header, packs, blobs, mail)
            job.lay_out = lay_out
            self._blobs.taken(job.id)
            self._next += len(job.packs)
            self._jobs[job.packs.base] = job
            self._bases.append(job.packs.base)
            self._waiting.append(job)
            self._since = time.monotonic()
            self._look()
            return job

    def _came(self) -> None:
        """Take note that something has come that calls are given, or will not come."""
        with self._changed:
            self._look()

    def _look(self) -> None:
        """Queue the jobs that have all that they need, and let those fail that never will."""
        waiting, self._waiting = self._waiting, []
        # What is asked of an object is done in its order.
        behind: Set[str] = set()
        for job in waiting:
            trouble, there = self._blobs.trouble(job.blobs), self._blobs.have(job.blobs) and job.actor not in behind
            if there:
                try:
                    job.lay_out()
                except (OSError, ValueError) as error:
                    trouble = str(error)
            if trouble:
                message = f"what the call is given could not be received: {trouble}"
                for span in job.spans:
                    self._failed(span, protocol.failure(protocol.NOT_BEGUN, "no", message))
                self._done(job, job.left)
            elif there:
                spans = self._own[self._lane_of(job)] if job.actor else self._spans
                spans.extend(job.spans)
                self._changed.notify_all()
            else:
                self._waiting.append(job)
                behind |= {job.actor} - {""}

    def _lane_of(self, job: Job) -> int:
        """Tell which lane a job's actor lives in: at first, the one that has the fewest."""
        if job.actor in self._actors:
            return self._actors[job.actor]
        taken = collections.Counter(self._actors.values())
        lane = min(range(self._lanes), key=lambda lane: taken[lane])
        if job.makes:
            self._actors[job.actor] = lane
        return lane

    def job_of(self, number: int) -> Job:
        """Tell which job a call is one of that has calls left. Raises KeyError."""
        with self._changed:
            found = bisect.bisect_right(self._bases, number) - 1
            if found < 0 or not number < self._jobs[self._bases[found]].span[1]:
                raise KeyError(number)
            return self._jobs[self._bases[found]]

    def attempts(self, job_id: str) -> List[Job]:
        """Tell a job that has calls left, and those of its calls that are tried again."""
        with self._changed:
            return [job for job in self._jobs.values() if is_attempt(job.id, job_id)]

    def cancel(self, job: Job, numbers: Iterable[int]) -> List[int]:
        """Take back those calls of a job that no lane has been given. Tells the others."""
        left = set(numbers)
        with self._changed:
            if job in self._waiting:
                self._take_back(job, job.spans, left)
                if not job.left:
                    self._waiting.remove(job)
                    self._look()  # others of its actor may wait for it alone
            else:
                for spans in (self._spans, *self._own):
                    self._take_back(job, spans, left)
                if job.left:
                    self._unwanted |= left
        return sorted(left)

    def _take_back(self, job: Job, spans: MutableSequence[Span], numbers: Set[int]) -> None:
        """Take those calls of a job that have these numbers out of a queue, and their numbers out of these."""
        for span in list(spans):
            gone = sorted(numbers.intersection(range(*span)))
            if gone:
                place = spans.index(span)
                spans.remove(span)
                for kept in reversed(_without(span, gone)):
                    spans.insert(place, kept)
                numbers.difference_update(gone)
                for number in gone:
                    failure = protocol.failure(protocol.CANCELLED, "no", protocol.WAS_CANCELLED)
                    self._failed((number, number + 1), failure)
                self._done(job, len(gone))

    @property
    def unwanted(self) -> List[int]:
        """Calls that were cancelled, and that lanes have."""
        with self._changed:
            return sorted(self._unwanted)

    # Its end.

    def touch(self) -> None:
        """Take note that somebody brings or takes something."""
        with self._changed:
            self._since = time.monotonic()

    def idle_since(self) -> Optional[float]:
        """Tell since when there has been nothing to do, by the monotonic clock; None while there is something."""
        with self._changed:
            return None if self._jobs else self._since

    @property
    def count(self) -> int:
        """How many calls have not come to their end."""
        with self._changed:
            return sum(job.left for job in self._jobs.values())

    @property
    def came_so_far(self) -> int:
        """How many calls have come so far."""
        with self._changed:
            return self._next - 1

    @property
    def over(self) -> bool:
        """Whether nothing is given out or taken any more."""
        with self._changed:
            return self._closed

    def close_if(self, ready: Callable[[], bool]) -> bool:
        """Give out and take nothing more, if it may end now. Tells whether it does."""
        with self._changed:
            if ready():
                self.close()
            return self._closed

    def close(self) -> None:
        """Give out and take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def end(self, reason: str, trouble: str) -> None:
        """Give out and take nothing more, and tell of what was not given out that this is why."""
        with self._changed:
            self.reason, self.trouble = reason, trouble
            self.close()

    def rest(self) -> List[Span]:
        """Tell what was not given out."""
        with self._changed:
            waiting = (job.spans for job in self._waiting)
            return [*itertools.chain(self._spans, *self._own, *waiting)]


class Share:
    """What one lane sees of it."""

    def __init__(self, opened: Opened, lane: int) -> None:
        self._opened = opened
        self._lane = lane

    def take(self, most: int, per_second: float) -> Optional[Span]:
        """Take some calls, as soon as there are any; None once the session is over."""
        return self._opened.take(self._lane, most, per_second)

    def done(self, span: Span) -> None:
        """Take note that some calls have come to their end."""
        self._opened.done(span)

    def give_back(self, span: Span) -> None:
        """Give back what has not been begun."""
        self._opened.give_back(self._lane, span)


def _without(span: Span, gone: List[int]) -> List[Span]:
    """Tell what is left of some calls that follow one another."""
    edges = [span[0] - 1, *gone, span[1]]
    # Python 3.9 knows no `strict`, and no `pairwise`.
    return [(before + 1, after) for before, after in zip(edges, edges[1:]) if before + 1 < after]  # noqa: B905, RUF007
