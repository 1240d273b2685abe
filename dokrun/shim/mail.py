"""What waits in a container to be told to somebody: outcomes, and what calls print, until it is known to have come.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import collections
import threading
import time
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Tuple

# How much of what calls print waits to be told; what is older is in the log alone.
PRINTED_BYTES = 4 << 20

OUTPUT = "output"
# How long a patient event waits.
PATIENCE_S = 0.05


class Event(NamedTuple):
    """Something to tell: what, the bytes that go with it, and whether it may wait a little for others to go with."""

    told: Dict[str, Any]
    data: bytes = b""
    patient: bool = False


class Mail:
    """What one speaker is told. For any thread."""

    def __init__(self) -> None:
        self._events: Deque[Tuple[int, Event]] = collections.deque()
        self._last = 0
        self._printed = 0
        self._changed = threading.Condition()
        self._woken = False

    def post(self, event: Event) -> None:
        """Have something told."""
        with self._changed:
            self._last += 1
            self._events.append((self._last, event))
            if event.told["kind"] == OUTPUT:
                self._printed += len(event.data)
                if self._printed > PRINTED_BYTES:
                    self._leave_out()
            self._changed.notify_all()

    def after(self, number: int, wait_s: float, most_bytes: int) -> List[Tuple[int, Event]]:
        """Tell what comes after the event of a number, as soon as there is anything, but wait no longer than so long.

        At least one, if there is any; and no more than so many bytes go with them.
        """
        until = time.monotonic() + wait_s
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_pressing(number), PATIENCE_S if wait_s else 0.0):
                self._changed.wait_for(lambda: self._woken or self._any(number), until - time.monotonic())
            self._woken = False
            told: List[Tuple[int, Event]] = []
            for one in self._events:
                if one[0] > number:
                    most_bytes -= len(one[1].data)
                    if told and most_bytes < 0:
                        break
                    told.append(one)
            return told

    def forget(self, number: int) -> List[Event]:
        """Forget the events up to a number, which are known to have come. Tells them."""
        with self._changed:
            come = []
            while self._events and self._events[0][0] <= number:
                _, event = self._events.popleft()
                come.append(event)
                if event.told["kind"] == OUTPUT:
                    self._printed -= len(event.data)
            return come

    def wake(self) -> None:
        """Let whoever waits wait no longer."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be told."""
        with self._changed:
            return not self._events

    def _any(self, number: int) -> bool:
        return bool(self._events) and self._events[-1][0] > number

    def _is_pressing(self, number: int) -> bool:
        return self._woken or any(at > number and not event.patient for at, event in self._events)

    def _leave_out(self) -> None:
        oldest: Optional[Tuple[int, Event]] = None
        for one in self._events:
            if one[1].told["kind"] == OUTPUT:
                oldest = one
                break
        if oldest is not None:
            self._events.remove(oldest)
            self._printed -= len(oldest[1].data)
