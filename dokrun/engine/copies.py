"""Copies of what goes to a session's container and may have to be sent once more, each of them once."""

from __future__ import annotations

import threading
import weakref

from dokrun.shim.envelope import Segment

# How much a session keeps in this process's memory, for calls that may be tried again in another container.
ROOM_BYTES = 2 << 30


class Copy:
    """A segment whose bytes nobody changes."""

    __slots__ = ("__weakref__", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment._replace(data=memoryview(bytes(segment.data or b"")))


class Copies:
    """Keeps copies of segments for as long as somebody has them. For any thread.

    Args:
        room_bytes: how large they may be together.
    """

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self._room_bytes = room_bytes
        self._lock = threading.Lock()
        self._copies: weakref.WeakValueDictionary[str, Copy] = weakref.WeakValueDictionary()

    def of(self, segment: Segment) -> Copy:
        """Tell the copy of a segment, which is made if there is none."""
        with self._lock:
            copy = self._copies.get(segment.sha256)
            if copy is None:
                copy = self._copies[segment.sha256] = Copy(segment)
            return copy

    def has_room(self, segment: Segment) -> bool:
        """Tell whether a segment may be kept, or is."""
        return segment.sha256 in self._copies or self.size_bytes + segment.size <= self._room_bytes

    @property
    def size_bytes(self) -> int:
        """How large they are together."""
        return sum(copy.segment.size for copy in list(self._copies.values()))
