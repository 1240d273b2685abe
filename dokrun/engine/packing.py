"""What the calls of a job are called with, one record after another; what several of them share is there once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from dokrun.shim import protocol
from dokrun.shim.envelope import Segment, segment_of, write_record

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

    def put(self, segment: Segment, *, shared: bool = False) -> int:
        """Add a segment. Tells its number. With `shared`, it may be there already, and others may use it too."""
        number = self._numbers.get(segment.sha256)
        if number is not None:
            return number
        if shared and segment.size >= protocol.BLOB_SIZE:
            segment = self._keep(segment)
        elif segment.data is not None:
            # What the caller does to it afterwards changes nothing.
            segment = segment._replace(data=memoryview(bytes(segment.data)))
        self.append(segment)
        if shared:
            self._numbers[segment.sha256] = len(self) - 1
        return len(self) - 1


class Pack:
    """Gathers the records of calls of one function."""

    def __init__(self, segments: Segments) -> None:
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

    def header(self, function: int, timeout_s: float) -> dict[str, Any]:
        """Put the records into the segments. Returns what the payload's header says of them."""
        offsets = struct.pack(f"<{len(self._offsets)}Q", *self._offsets)
        return {
            "count": len(self),
            "function": function,
            "records": self._segments.put(segment_of(self._records)),
            "offsets": self._segments.put(segment_of(offsets)),
            "timeout_s": timeout_s,
        }
