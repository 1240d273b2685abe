"""What is large is vouched for as it was when it was named: what was changed since does not get to a session."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from dokrun import errors
from dokrun.engine.ways import Ways
from dokrun.shim.envelope import Segment, segment_of
from dokrun.shim.protocol import PIECE_BYTES

if TYPE_CHECKING:
    from dokrun.engine.parts import Parts
    from dokrun.engine.speaking import Speaking

SIZE = 2 * PIECE_BYTES + 1000


class Scripted:
    """Takes pieces as a container does, which refuses those that are not what was vouched for."""

    def __init__(self, loses: int = 0) -> None:
        self.refused = 0
        self._loses = loses

    def ask(self, path: str, body: memoryview, *, digest: Callable[[], str], tries: int | None) -> bytes:
        assert tries is None, "there is no bucket"
        at = int(path.rpartition("/")[2])
        while (
            digest() != hashlib.sha256(self.before[at - at % PIECE_BYTES : at] + bytes(body)).hexdigest() or self._loses
        ):
            self._loses = max(0, self._loses - 1)
            self.refused += 1
        return json.dumps({"at": at + len(body)}).encode()

    before = b""


def ways(scripted: Scripted) -> Ways:
    parts = cast("Parts", SimpleNamespace(bucket=None))
    return Ways(parts, cast("Speaking", scripted), "session")


def unread(data: bytes | bytearray) -> Segment:
    """Tell what is known of a file that was named before, or of what came from elsewhere."""
    return segment_of(data)._replace(digests=())


@pytest.mark.parametrize("make", [segment_of, unread])
@pytest.mark.parametrize("piece", [PIECE_BYTES, PIECE_BYTES // 2])
def test_what_is_lost_on_its_way_is_vouched_for_again(make: Callable[[Any], Segment], piece: int) -> None:
    scripted = Scripted(loses=2)
    scripted.before = os.urandom(SIZE)
    found = ways(scripted)
    found.piece = piece
    found.put("job", make(scripted.before))
    assert scripted.refused == 2


def test_what_is_not_any_more_what_it_is_known_as_is_not_sent() -> None:
    scripted, data = Scripted(), bytearray(os.urandom(SIZE))
    segment = unread(data)
    data[5] ^= 1
    with pytest.raises(errors.StorageError, match="was changed while it was being sent; call again"):
        ways(scripted).put("job", segment)
    assert not scripted.refused


@pytest.mark.parametrize("place", [0, PIECE_BYTES, SIZE - 1])
def test_what_is_changed_while_it_is_sent_is_told_and_not_sent_for_ever(place: int) -> None:
    scripted, data = Scripted(), bytearray(os.urandom(SIZE))
    scripted.before = bytes(data)
    segment = segment_of(data)
    data[place] ^= 1
    with pytest.raises(errors.StorageError, match="was changed while it was being sent; call again"):
        ways(scripted).put("job", segment)
    assert scripted.refused == 1
