"""The calls of a payload, as its header tells them: in packs, each of one function, numbered one after another.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import bisect
import itertools
import struct
from typing import Any, Dict, List, Tuple

from . import protocol
from .envelope import EnvelopeError, Record, Segment, read_record


class Packs:
    """Finds a call by its number.

    `base` is the first one's, and `name` tells where the payload lies (see `place_of`): a session has many, whose calls
    are numbered on and on.
    """

    def __init__(self, packs: List[Dict[str, Any]], *, base: int = 0, name: str = protocol.PAYLOAD) -> None:
        self._packs = packs
        self._starts: List[int] = list(itertools.accumulate((pack["count"] for pack in packs), initial=base))
        self.base = base
        self.name = name

    @property
    def end(self) -> int:
        """The number after the last one's."""
        return self._starts[-1]

    def __len__(self) -> int:
        return self._starts[-1] - self.base

    def of(self, _number: int) -> "Packs":
        """Tell which payload's calls a call is among: all are among these."""
        return self

    def timeout_s(self, number: int) -> float:
        """Tell how long a call may take, in seconds."""
        return float(self.find(number)[0]["timeout_s"])

    def shortest_s(self) -> float:
        """Tell how long the calls may take that may take the least, in seconds."""
        return min((float(pack["timeout_s"]) for pack in self._packs), default=protocol.LONGEST_IMPORT_S)

    def record(self, number: int, segments: List[Segment]) -> Record:
        """Tell what a call is called with."""
        pack, index = self.find(number)
        offsets, records = segments[pack["offsets"]].data, segments[pack["records"]].data
        if offsets is None or records is None:
            raise EnvelopeError("what the calls are called with did not come with the payload")
        start, end = struct.unpack_from("<2Q", offsets, 8 * index)
        return read_record(records[start:end])

    def find(self, number: int) -> Tuple[Dict[str, Any], int]:
        """Tell the pack that a call is in, and its place there."""
        found = bisect.bisect_right(self._starts, number) - 1
        return self._packs[found], number - self._starts[found]


def place_of(name: str) -> Tuple[str, slice]:
    """Tell in which file the payload of a name lies, and where there."""
    file, at, place = name.partition("@")
    return (file, slice(*map(int, place.split("-")))) if at else (file, slice(None))
