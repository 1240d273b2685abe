"""The calls that no worker has been given yet, and how far the container says it has come with them.

Where the container is lost, the client must know which calls were never begun: those may be sent again. So it is
written into the bucket up to which number calls may have been begun, always before they are. The claim says so of the
first ones, and another object, written again and again, of all that come after them.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import collections
import json
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, List, Optional

from . import protocol
from .envelope import Span

if TYPE_CHECKING:
    from .supplies import Supplies

# How much of the time that has passed the calls may take that are announced ahead of their turn.
AHEAD = 0.02
LEAST_AHEAD_S = 0.5
MOST_AHEAD_S = 10.0
# Calls that are no quicker are announced when their turn comes.
QUICK_PER_S = 1.0


class Pending:
    """Gives calls out in order, each once; what a worker has left undone comes back.

    Args:
        spans: the calls.
        lanes: how many workers share them.
        address: where it is written how far they have been given out; empty where nobody could read it.
        failed: told of a call that cannot be run, and why.
        supplies: what they need that lies elsewhere, if there is any.

    Attributes:
        trouble: why nothing more is given out, where it is not for being closed.
    """

    reason = protocol.NOT_BEGUN

    def __init__(
        self,
        spans: List[Span],
        lanes: int,
        address: str,
        failed: Callable[[Span, Dict[str, Any]], None],
        supplies: Optional["Supplies"] = None,
    ) -> None:
        self._spans: Deque[Span] = collections.deque(spans)
        self._left = sum(end - first for first, end in spans)
        self._lanes = lanes
        self._address = address
        self._failed = failed
        self._supplies = supplies
        self._begun = begun_with(spans, lanes)
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._taking = threading.Lock()
        self._closed = False
        self.trouble = ""

    def of_lane(self, _number: int) -> "Pending":
        """Tell where a lane gets its calls: all of them from here."""
        return self

    def take(self, most: int, per_second: float) -> Optional[Span]:
        """Take some calls, `most` at most; None where none is left.

        `per_second` is how many of them the lane does in a second.
        """
        # One at a time, and not with the lock that `close` needs: the store may keep it waiting.
        with self._taking:
            while True:
                with self._lock:
                    if self._closed or not self._spans:
                        return None
                    first, end = self._spans[0]
                    # Towards the end in ever smaller portions, so that all lanes end at the same time.
                    cut = min(end, first + max(1, min(most, self._left // (2 * self._lanes))))
                cut = self._supplied((first, cut))
                if cut > first:
                    break
            try:
                self._reach(cut, per_second)
            except OSError as error:
                # What may have been begun and what cannot have must not be mixed up.
                self.close(f"it cannot be written down that further calls are begun: {error}")
                return None
            return self._taken(cut)

    def _supplied(self, span: Span) -> int:
        """Wait for what the first of some calls needs. Tells up to which one all is there.

        Where it cannot be had, no call is ready.
        """
        first, end = span
        if self._supplies is None:
            return end
        reached, failure = self._supplies.reach(first, end)
        if failure is not None:
            self._refuse(first, failure)
        return reached

    def _refuse(self, number: int, failure: Dict[str, Any]) -> None:
        """Let a call fail, unless others that came back meanwhile are before it now."""
        with self._lock:
            if self._closed or not self._spans or self._spans[0][0] != number:
                return
            first, end = self._spans.popleft()
            if first + 1 < end:
                self._spans.appendleft((first + 1, end))
            self._left -= 1
        self._failed((number, number + 1), failure)
        self.done((number, number + 1))

    def _taken(self, cut: int) -> Optional[Span]:
        with self._lock:
            if self._closed:
                return None
            first, end = self._spans.popleft()
            if cut <= first:  # what came back meanwhile goes first
                cut = end
            cut = min(cut, end)
            self._left -= cut - first
            if cut < end:
                self._spans.appendleft((cut, end))
            return first, cut

    def done(self, span: Span) -> None:
        """Take note that some calls have come to their end: nobody gives them out again."""
        if self._supplies is not None:
            self._supplies.release(span)

    def give_back(self, span: Span) -> None:
        """Give back what has not been begun."""
        with self._lock:
            self._spans.appendleft(span)
            self._left += span[1] - span[0]

    def close(self, trouble: str = "") -> None:
        """Give out nothing more."""
        with self._lock:
            self._closed, self.trouble = True, trouble
        if self._supplies is not None:
            self._supplies.close()

    def rest(self) -> List[Span]:
        """Tell what was not given out."""
        with self._lock:
            return list(self._spans)

    def _reach(self, end: int, per_second: float) -> None:
        if not self._address or end <= self._begun:
            return
        from . import fetch

        ahead_s = min(MOST_AHEAD_S, max(LEAST_AHEAD_S, AHEAD * (time.monotonic() - self._started)))
        begun = end + (int(ahead_s * per_second) * self._lanes if per_second > QUICK_PER_S else 0)
        fetch.send(self._address, json.dumps({"begun": begun}).encode(), "application/json")
        self._begun = begun


def begun_with(spans: List[Span], lanes: int) -> int:
    """Tell up to which number calls may have been begun once the claim is taken: one for each lane."""
    for first, end in spans:
        if end - first >= lanes:
            return first + lanes
        lanes -= end - first
    return spans[-1][1] if spans else 0
