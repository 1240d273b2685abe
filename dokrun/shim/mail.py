"""What waits in a container to be told to somebody: outcomes, and what calls print, until it is known to have come.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import collections
import itertools
import threading
import time
from typing import Any, Deque, Dict, Iterable, List, NamedTuple, Optional, Tuple

# How much of what calls print waits to be told; what is older is in the log alone.
PRINTED_BYTES = 4 << 20

# How many events are told at once.
MOST = 4096

OUTPUT = "output"
# How long a patient event waits.
PATIENCE_S = 0.05


class Event(NamedTuple):
    """Something to tell: what, the bytes that go with it, and whether it may wait a little for others to go with."""

    told: Dict[str, Any]
    data: bytes = b""
    patient: bool = False


class Mail:
    """What one speaker is told. For any thread.

    Attributes:
        away: whether it is put away, since its speaker is not heard any more.
    """

    def __init__(self) -> None:
        # By their numbers, from the one behind `_gone` on; some may have come before others.
        self._events: Dict[int, Event] = {}
        self._last = self._gone = 0
        # The last one that is not patient.
        self._pressing = 0
        # Those that are of what calls print, and how much that is.
        self._prints: Deque[int] = collections.deque()
        self._printed = 0
        self._lock = threading.Lock()
        # Whoever waits for what is pressing is not woken for what is not.
        self._pressed = threading.Condition(self._lock)
        self._changed = threading.Condition(self._lock)
        self._woken = False
        self.away = False

    def post(self, *events: Event) -> None:
        """Have something told, all of it at once."""
        with self._lock:
            pressing = self._pressing
            for event in () if self.away else events:
                self._add(event)
            if self._pressing != pressing:
                self._pressed.notify_all()
            self._changed.notify_all()

    def _add(self, event: Event) -> None:
        prints = event.told["kind"] == OUTPUT
        if prints and len(event.data) > PRINTED_BYTES:
            return
        self._last += 1
        self._events[self._last] = event
        if not event.patient:
            self._pressing = self._last
        if prints:
            self._prints.append(self._last)
            self._printed += len(event.data)
            while self._printed > PRINTED_BYTES:
                self._remove(self._prints.popleft())

    def after(self, number: int, wait_s: float, most_bytes: int) -> List[Tuple[int, Event]]:
        """Tell what comes after the event of a number, as soon as there is anything, but wait no longer than so long.

        At least one, if there is any; no more than `MOST`, and no more than so many bytes go with them.
        """
        until = time.monotonic() + wait_s
        with self._lock:
            # Of what is gone nothing is told, whether it came before or was put away.
            if not self._pressed.wait_for(
                lambda: self._woken or self._pressing > max(number, self._gone), PATIENCE_S if wait_s else 0.0
            ):
                self._changed.wait_for(
                    lambda: self._woken or self._last > max(number, self._gone), until - time.monotonic()
                )
            self._woken = False
            told: List[Tuple[int, Event]] = []
            for at in range(max(number, self._gone) + 1, self._last + 1):
                event = self._events.get(at)
                if event is not None:
                    most_bytes -= len(event.data)
                    if told and (most_bytes < 0 or len(told) == MOST):
                        break
                    told.append((at, event))
            return told

    def forget(self, number: int, also: Iterable[int] = ()) -> List[Event]:
        """Forget the events up to a number, and some others, which are known to have come. Tells them."""
        with self._lock:
            number = min(number, self._last)
            come = [self._remove(at) for at in itertools.chain(range(self._gone + 1, number + 1), also)]
            self._gone = max(self._gone, number)
            while self._prints and self._prints[0] not in self._events:
                self._prints.popleft()
            return [event for event in come if event is not None]

    def wake(self) -> None:
        """Let whoever waits wait no longer."""
        with self._lock:
            self._woken = True
            self._pressed.notify_all()
            self._changed.notify_all()

    def put_away(self) -> None:
        """Keep nothing, and take nothing, until it is opened again."""
        with self._lock:
            self.away = True
            self._events.clear()
            self._prints.clear()
            self._printed, self._gone = 0, self._last

    def open(self) -> None:
        """Take what shall be told from now on."""
        with self._lock:
            self.away = False

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be told."""
        with self._lock:
            return not self._events

    def _remove(self, number: int) -> Optional[Event]:
        event = self._events.pop(number, None)
        if event is not None and event.told["kind"] == OUTPUT:
            self._printed -= len(event.data)
        return event
