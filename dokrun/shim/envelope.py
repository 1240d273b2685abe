"""The one file format of dokrun: payloads go out and results come back in it.

    8 bytes   magic
    8 bytes   length of the header, little-endian
    header    JSON; `format` and `segments` are the envelope's own, the rest is the writer's
    padding   to a multiple of 64
    body      inline segments, each at a multiple of 64, and so is its end

A segment is `{"sha256", "size", "at"}`: bytes in the body, `at` counted from the body's start; or
`{"sha256", "size"}`: bytes that lie elsewhere, under their digest (see `digests`). What lies in the body may have no
digest of its own, where nobody goes by it, as in a report. A value is its pickle (protocol 5) followed by its
out-of-band buffers; 64-byte alignment lets an array be used where it lies.

Envelopes may follow one another in one file. A *record* is what one call is called with, in a segment that it shares
with the records of other calls: how many buffers it has, and what else it is given, the numbers of those segments
(four bytes each, little-endian), and the pickle. So a thousand calls that are given the same array name the same
segment.

Reading checks the format, not the digests: whoever fetched the bytes has compared their digest with one that came by
a channel that only DOK writes.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import base64
import hashlib
import itertools
import json
import pickle
import struct
import zlib
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from . import digests, protocol

MAGIC = b"\x89DOKRUN\n"
ALIGNMENT = 64
# Below this a buffer costs more as a segment than it saves by not being copied into the pickle.
SMALLEST_BUFFER = 64 << 10

# A segment's digest becomes the name of a file.
DIGEST_DIGITS = 64
HEXADECIMAL = frozenset("0123456789abcdef")

Buffer = Union[bytes, bytearray, memoryview]
# Some calls that follow one another: the first one's number, and the number after the last one's.
Span = Tuple[int, int]


class EnvelopeError(ValueError):
    """The bytes are not an envelope that this version can read."""


class FormatError(EnvelopeError):
    """An envelope of another version's format: nothing is wrong with it but that this version cannot read it."""


class Segment(NamedTuple):
    """Some bytes, by digest and size; without `data` they lie elsewhere, with it the digest may be empty.

    It may tell the SHA-256s of its pieces, which its digest is made of (`digests.whole`).
    """

    sha256: str
    size: int
    data: Optional[memoryview] = None
    digests: Tuple[str, ...] = ()


def segment_of(data: Buffer) -> Segment:
    """Make the segment of some bytes, which stay where they lie."""
    view = memoryview(data).cast("B")
    if view.nbytes <= protocol.PIECE_BYTES:  # nearly all are, and there are many
        sha256 = hashlib.sha256(view).hexdigest()
        return Segment(sha256, view.nbytes, view, (sha256,))
    known = tuple(digests.digests_of([view]))
    return Segment(digests.whole(known), view.nbytes, view, known)


def unnamed(data: Buffer) -> Segment:
    """Make the segment of some bytes that nobody goes by the digest of: what they lie in is vouched for as a whole."""
    view = memoryview(data).cast("B")
    return Segment("", view.nbytes, view)


def dump_value(
    value: Any, dumps: Callable[..., bytes], segment: Callable[[Buffer], Segment] = segment_of
) -> List[Segment]:
    """Pickle a value (with `dumps`, pickle's or cloudpickle's) without copying its large buffers."""
    buffers: List[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SMALLEST_BUFFER:
            return True
        buffers.append(raw)
        return False

    data = dumps(value, protocol=5, buffer_callback=keep_in_band)
    return [segment(data), *map(segment, buffers)]


def load_value(buffers: Sequence[Buffer]) -> Any:
    """Unpickle a value. Its bytes must have been verified before."""
    return pickle.loads(buffers[0], buffers=buffers[1:])  # noqa: S301 - the caller has verified the digest


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def pack(header: Dict[str, Any], segments: Iterable[Segment]) -> bytes:
    """Write an envelope. Segments that have their bytes ride in its body; the others are named in it."""
    return b"".join(pieces(header, segments))


def pieces(header: Dict[str, Any], segments: Iterable[Segment]) -> List[Buffer]:
    """Tell what an envelope is made of, in order, without copying it together."""
    table: List[Dict[str, Any]] = []
    body: List[Buffer] = []
    end = 0
    for segment in segments:
        entry: Dict[str, Any] = {"size": segment.size}
        if segment.sha256:
            entry["sha256"] = segment.sha256
        if segment.data is not None:
            start = _aligned(end)
            body += [bytes(start - end), segment.data]
            entry["at"] = start
            end = start + segment.size
        table.append(entry)
    text = json.dumps({**header, "format": protocol.FORMAT, "segments": table}, separators=(",", ":")).encode()
    start = len(MAGIC) + 8 + len(text)
    padding, rest = bytes(_aligned(start) - start), bytes(_aligned(end) - end)
    return [MAGIC, len(text).to_bytes(8, "little"), text, padding, *body, rest]


def unpack(data: Buffer) -> Tuple[Dict[str, Any], List[Segment]]:
    """Read an envelope: its header, and its segments as views of `data`.

    Raises:
        FormatError: it has a format that this version does not know.
        EnvelopeError: it is not an envelope, or is cut short.
    """
    header, segments, _ = _unpacked(memoryview(data).cast("B"))
    return header, segments


def unpack_all(data: Buffer) -> Iterator[Tuple[int, Dict[str, Any], List[Segment]]]:
    """Yield the envelopes that follow one another: where each ends, its header and its segments.

    Raises:
        EnvelopeError: one is cut short; those before it have been yielded.
    """
    view, start = memoryview(data).cast("B"), 0
    while start < view.nbytes:
        header, segments, size = _unpacked(view[start:])
        start += size
        yield start, header, segments


class Record(NamedTuple):
    """What a call is called with: a pickle, the numbers of the segments that hold its buffers, and of what it finds."""

    pickled: memoryview
    buffers: Tuple[int, ...]
    given: Tuple[int, ...]


def write_record(pickled: Buffer, buffers: Sequence[int], given: Sequence[int] = ()) -> bytes:
    """Write what a call is called with; see `Record`."""
    numbers = (*buffers, *given)
    return struct.pack(f"<2I{len(numbers)}I", len(buffers), len(given), *numbers) + pickled


def read_record(record: memoryview) -> Record:
    """Read what a call is called with."""
    buffers, given = struct.unpack_from("<2I", record)
    numbers = struct.unpack_from(f"<{buffers + given}I", record, 8)
    return Record(record[8 + 4 * len(numbers) :], numbers[:buffers], numbers[buffers:])


def write_chosen(numbers: Iterable[int], count: int) -> str:
    """Say which of `count` calls are meant, as text: a bit for each, compressed, in base 64."""
    bits = bytearray(-(-count // 8))
    for number in numbers:
        bits[number >> 3] |= 1 << (number & 7)
    return base64.b64encode(zlib.compress(bits)).decode()


def read_chosen(text: str, count: int) -> List[Span]:
    """Read which of `count` calls are meant; all of them where nothing is said. Raises EnvelopeError."""
    if not text:
        return [(0, count)]
    try:
        bits = zlib.decompress(base64.b64decode(text))
    except (ValueError, zlib.error) as error:
        raise EnvelopeError("it cannot be read which calls are meant") from error
    chosen = [bool(bits[number >> 3] >> (number & 7) & 1) for number in range(min(count, 8 * len(bits)))]
    return list(_spans(chosen))


def _spans(chosen: List[bool]) -> Iterator[Span]:
    start = 0
    for one, group in itertools.groupby(chosen):
        end = start + len(list(group))
        if one:
            yield start, end
        start = end


def _unpacked(view: memoryview) -> Tuple[Dict[str, Any], List[Segment], int]:
    """Read the first envelope of a view: its header, its segments, and its size with the padding behind it."""
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise EnvelopeError("not a dokrun envelope")
    start = len(MAGIC) + 8
    end = start + int.from_bytes(view[len(MAGIC) : start], "little")
    try:
        header = json.loads(bytes(view[start:end]))
        found = header["format"]
        table = header["segments"]
    except (ValueError, KeyError, TypeError) as error:
        raise EnvelopeError("the envelope's header is cut or broken") from error
    if found != protocol.FORMAT:
        raise FormatError(
            f"it was written in format {found}, and this side reads format {protocol.FORMAT}; "
            "use the same version of dokrun on both sides"
        )
    body = view[_aligned(end) :]
    segments = [_segment(entry, body) for entry in table]
    inside = [entry["at"] + entry["size"] for entry in table if entry.get("at") is not None]
    return header, segments, _aligned(end) + _aligned(max(inside, default=0))


def _segment(entry: Dict[str, Any], body: memoryview) -> Segment:
    try:
        sha256, size, at = entry.get("sha256"), entry["size"], entry.get("at")
    except (KeyError, TypeError, AttributeError) as error:
        raise EnvelopeError("the envelope's header is cut or broken") from error
    if sha256 is None and at is not None:
        sha256 = ""
    elif not (isinstance(sha256, str) and len(sha256) == DIGEST_DIGITS and HEXADECIMAL.issuperset(sha256)):
        raise EnvelopeError("the envelope names a segment by something that is no digest")
    if not isinstance(size, int) or size < 0:
        raise EnvelopeError("the envelope's header is cut or broken")
    if at is None:
        return Segment(sha256, size)
    if not (isinstance(at, int) and at >= 0 and at + size <= body.nbytes):
        raise EnvelopeError("the envelope is cut short")
    return Segment(sha256, size, body[at : at + size])
