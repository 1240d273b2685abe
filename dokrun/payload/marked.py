"""Large bytes are hashed once, for their name and for each piece that is sent of them to a session's container."""

from __future__ import annotations

import hashlib

from dokrun.shim.envelope import Buffer, Segment, segment_of
from dokrun.shim.protocol import PIECE_BYTES


def marked(data: Buffer) -> Segment:
    """Make the segment of some bytes, which stay where they lie; where there are many, how their digest stood is kept.

    They are marked after each `PIECE_BYTES`, and at the end.
    """
    view = memoryview(data).cast("B")
    if view.nbytes <= PIECE_BYTES:
        return segment_of(view)
    digest, marks = hashlib.sha256(), []
    for at in range(0, view.nbytes, PIECE_BYTES):
        digest.update(view[at : at + PIECE_BYTES])
        marks.append(digest.copy())
    return Segment(digest.hexdigest(), view.nbytes, view, tuple(marks))


def with_marks(segment: Segment) -> Segment:
    """Tell the same segment, and see to it that it has marks, if it is so large."""
    if segment.marks or segment.size <= PIECE_BYTES:
        return segment
    return segment._replace(marks=marked(_bytes(segment)).marks)


def beginning(segment: Segment, end: int) -> str:
    """Tell the SHA-256 of the first bytes of a segment; costs next to nothing where a mark or its end is.

    Before a mark, they are as they now are since the one before it.
    """
    if end == segment.size:
        return segment.sha256
    marks, rest = divmod(end, PIECE_BYTES)
    if not rest:
        return str(segment.marks[marks - 1].hexdigest())
    digest = _after(segment, marks)
    digest.update(_bytes(segment)[end - rest : end])
    return digest.hexdigest()


def is_changed(segment: Segment, at: int) -> bool:
    """Tell whether what lies at a place in a segment is not any more what it was when it was hashed."""
    before = at // PIECE_BYTES
    digest = _after(segment, before)
    start, end = before * PIECE_BYTES, min(segment.size, (before + 1) * PIECE_BYTES)
    digest.update(_bytes(segment)[start:end])
    return digest.hexdigest() != beginning(segment, end)


def _after(segment: Segment, marks: int) -> hashlib._Hash:
    return segment.marks[marks - 1].copy() if marks else hashlib.sha256()


def _bytes(segment: Segment) -> memoryview:
    assert segment.data is not None  # noqa: S101 - what lies elsewhere is not sent
    return segment.data
