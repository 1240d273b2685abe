"""What the calls of a job are called with, one record after another; what several of them share is there once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from dokrun.shim import protocol
from dokrun.shim.envelope import SMALLEST_BUFFER, Segment, segment_of, write_record

# Of many calls' buffers so much travels in the payload, all of which is there before the first call.
MOST_HELD_BYTES = 16 << 20

# Brings a segment to safety that is kept by its content; what it returns lies elsewhere, or is left as it was.
Keep = Callable[[Segment], Segment]


class Segments(list[Segment]):
    """The segments of a payload. What several calls share is there once, and is brought to safety when it comes.

    Args:
        keep: does so.
    """

    def __init__(self, keep: Keep) -> None:
        super().__init__()
        self._keep = keep
        self._numbers: dict[str, int] = {}
        # How many bytes travel in the payload itself, and how many segments lie elsewhere.
        self.held_bytes = 0
        self.kept = 0

    def put(self, segment: Segment, *, shared: bool = False) -> int:
        """Add a segment. Tells its number. With `shared`, it may be there already, and others may use it too."""
        number = self._numbers.get(segment.sha256)
        if number is not None:
            return number
        if shared and self._goes_apart(segment.size):
            segment = self._keep(segment)
        elif segment.data is not None:
            # What the caller does to it afterwards changes nothing.
            segment = Segment(segment.sha256, segment.size, memoryview(bytes(segment.data)))
        if segment.data is None:
            self.kept += 1
        else:
            self.held_bytes += segment.size
        self.append(segment)
        if shared:
            self._numbers[segment.sha256] = len(self) - 1
        return len(self) - 1

    def _goes_apart(self, size: int) -> bool:
        """Tell whether something is worth an object of its own: what is large, or what makes the payload so."""
        large = size >= protocol.BLOB_SIZE
        return large or (size >= SMALLEST_BUFFER and self.held_bytes + size > MOST_HELD_BYTES)


class Pack:
    """Gathers the records of calls of one function, each of which may take so many seconds."""

    def __init__(self, segments: Segments, function: int, timeout_s: float) -> None:
        self.function = function
        self.timeout_s = timeout_s
        self._segments = segments
        self._records = bytearray()
        self._offsets = [0]

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def size_bytes(self) -> int:
        """How long the records are, all together."""
        return len(self._records)

    def add(self, arguments: list[Segment], given: Sequence[int] = ()) -> None:
        """Add a call, by its pickled arguments and their buffers, and the numbers of what else it is given."""
        pickled, *buffers = arguments
        if pickled.data is not None:
            numbers = [self._segments.put(buffer, shared=True) for buffer in buffers]
            self._records += write_record(pickled.data, numbers, given)
        self._offsets.append(len(self._records))

    def header(self) -> dict[str, Any]:
        """Put the records into the segments. Returns what the payload's header says of them."""
        offsets = struct.pack(f"<{len(self._offsets)}Q", *self._offsets)
        return {
            "count": len(self),
            "function": self.function,
            "records": self._segments.put(segment_of(self._records)),
            "offsets": self._segments.put(segment_of(offsets)),
            "timeout_s": self.timeout_s,
        }
