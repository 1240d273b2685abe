"""Large bytes are hashed once, and each beginning of them is known from then on."""

from __future__ import annotations

import hashlib
import os

import pytest

from dokrun.payload.marked import beginning, is_changed, marked, with_marks
from dokrun.shim.envelope import segment_of
from dokrun.shim.protocol import PIECE_BYTES

DATA = os.urandom(1 << 20) * (PIECE_BYTES >> 19) + b"and more"
ENDS = [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, len(DATA) - 1, len(DATA)]


def test_what_is_marked_is_the_same_segment() -> None:
    assert marked(DATA)[:3] == segment_of(DATA)[:3]
    assert marked(DATA[:1000]) == segment_of(DATA[:1000])


@pytest.mark.parametrize("end", ENDS)
def test_each_beginning_is_known(end: int) -> None:
    for _ in range(2):
        assert beginning(marked(DATA), end) == hashlib.sha256(DATA[:end]).hexdigest()


@pytest.mark.parametrize("end", ENDS[:3])
def test_of_what_is_small_too(end: int) -> None:
    small = segment_of(DATA[:PIECE_BYTES])
    assert with_marks(small) is small
    assert beginning(small, end) == hashlib.sha256(DATA[:end]).hexdigest()
    assert not is_changed(small, 0)


def test_at_a_mark_it_is_what_was_hashed_whatever_has_become_of_it() -> None:
    data = bytearray(DATA)
    segment = marked(data)
    data[5] ^= 1
    assert beginning(segment, PIECE_BYTES) == hashlib.sha256(DATA[:PIECE_BYTES]).hexdigest()
    assert segment.sha256 == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize(
    ("place", "seen_from"),
    [(5, [0, 1000]), (PIECE_BYTES, [PIECE_BYTES, 2 * PIECE_BYTES - 1]), (len(DATA) - 1, [len(DATA) - 3])],
)
def test_what_was_changed_since_is_found_where_it_lies(place: int, seen_from: list[int]) -> None:
    data = bytearray(DATA)
    segment = marked(data)
    data[place] ^= 1
    changed = [at for at in (0, 1000, PIECE_BYTES, 2 * PIECE_BYTES - 1, len(DATA) - 3) if is_changed(segment, at)]
    assert changed == seen_from


def test_a_large_segment_gets_its_marks_where_it_has_none() -> None:
    assert with_marks(segment_of(DATA)).marks
    marks = marked(DATA)
    assert with_marks(marks) is marks
