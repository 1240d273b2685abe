"""The file format that both sides share."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable

import cloudpickle
import numpy as np
import pytest

from dokrun.shim import envelope
from dokrun.shim.envelope import EnvelopeError, Segment, Span

# Its pickle ends where an envelope's body does.
WITHOUT_PADDING = "x" * 113


def packed(value: object = "x", **header: object) -> bytes:
    segments = envelope.dump_value(value, cloudpickle.dumps)
    return envelope.pack({"value": list(range(len(segments))), **header}, segments)


def test_what_is_packed_comes_back() -> None:
    array = np.arange(10000.0)
    header, segments = envelope.unpack(packed([array, "text"], job="j"))
    assert header["job"] == "j"
    value = envelope.load_value([segments[number].data or b"" for number in header["value"]])
    np.testing.assert_array_equal(value[0], array)
    assert value[1] == "text"


def test_large_buffers_are_segments_of_their_own_at_aligned_places() -> None:
    _, segments = envelope.unpack(packed([np.arange(10000.0), np.arange(33333, dtype=np.uint16)]))
    assert [segment.size for segment in segments[1:]] == [80000, 66666]
    data = packed([np.arange(10000.0)])
    _, (_, buffer) = envelope.unpack(data)
    assert buffer.data is not None
    start = data.index(bytes(buffer.data))
    assert start % envelope.ALIGNMENT == 0


def test_small_buffers_ride_in_the_pickle() -> None:
    assert len(envelope.dump_value(np.arange(10), cloudpickle.dumps)) == 1


def test_dumping_copies_no_large_buffer() -> None:
    array = np.zeros(100_000)
    _, buffer = envelope.dump_value(array, cloudpickle.dumps)
    array[0] = 7.0
    assert buffer.data is not None
    assert bytes(buffer.data[:8]) == array[:1].tobytes()


def test_a_segment_elsewhere_is_named_by_its_digest() -> None:
    _, segments = envelope.unpack(envelope.pack({}, [Segment("0" * 64, 5)]))
    assert segments == [Segment("0" * 64, 5)]


def test_what_lies_in_the_body_may_have_no_name() -> None:
    segments = envelope.dump_value([np.arange(10000.0)], cloudpickle.dumps, envelope.unnamed)
    assert [segment.sha256 for segment in segments] == ["", ""]
    data = envelope.pack({}, [*segments, Segment("0" * 64, 5)])
    assert b"sha256" in data.partition(b"segments")[2]
    _, found = envelope.unpack(data)
    assert found == [*segments, Segment("0" * 64, 5)]
    np.testing.assert_array_equal(envelope.load_value([one.data or b"" for one in found[:2]])[0], np.arange(10000.0))
    with pytest.raises(envelope.EnvelopeError):
        envelope.unpack(envelope.pack({}, [Segment("", 5)]))


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "0" * 63, "Z" * 64, 5, None])
def test_a_segment_is_named_by_nothing_but_a_digest(name: object) -> None:
    packed_so = envelope.pack({}, [Segment("0" * 64, 5)])
    with pytest.raises(envelope.EnvelopeError):
        envelope.unpack(packed_so.replace(b'"' + b"0" * 64 + b'"', json.dumps(name).encode().ljust(66)))


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"PK\x03\x04" + bytes(100),
        packed()[:12],
        packed()[:40],
        packed(np.arange(10000.0))[:-1],
        packed().replace(b'"format":1', b'"format":9'),
        packed().replace(b'"segments":[', b'"segments":[1,'),
        packed(WITHOUT_PADDING).replace(b'"at":0', b'"at":9'),
        packed().replace(b'"at":0', b'"at":-1').replace(b'"size":', b'"siz":'),
        envelope.MAGIC + (2**40).to_bytes(8, "little") + b"{}",
    ],
    ids=["empty", "zip", "no header", "half header", "cut body", "format", "table", "beyond", "no size", "huge"],
)
def test_what_is_no_whole_envelope_is_refused(broken: bytes) -> None:
    with pytest.raises(EnvelopeError):
        envelope.unpack(broken)


def test_an_unknown_format_names_both_sides_formats() -> None:
    with pytest.raises(EnvelopeError, match="written in format 9, and this side reads format 1; use the same version"):
        envelope.unpack(packed().replace(b'"format":1', b'"format":9'))


def test_a_value_is_loaded_by_the_standard_pickle() -> None:
    segments = envelope.dump_value({"a": 1}, pickle.dumps)
    assert envelope.load_value([segment.data or b"" for segment in segments]) == {"a": 1}


def test_envelopes_that_follow_one_another_are_told_with_where_each_ends() -> None:
    parts = [packed(number, call=number) for number in range(3)] + [envelope.pack({"call": 3}, [])]
    data = b"".join(parts)
    told = [(end, header["call"]) for end, header, _ in envelope.unpack_all(data)]
    assert told == [(len(b"".join(parts[: number + 1])), number) for number in range(4)]
    assert list(envelope.unpack_all(b"")) == []


@pytest.mark.parametrize("cut", [1, 64, 65, 200])
def test_of_envelopes_that_are_cut_short_the_whole_ones_are_told(cut: int) -> None:
    whole = packed(WITHOUT_PADDING, call=0)
    assert len(whole) > 200
    envelopes = envelope.unpack_all(whole + whole[:-cut])
    assert next(envelopes)[0] == len(whole)
    with pytest.raises(EnvelopeError):
        next(envelopes)


@pytest.mark.parametrize("given", [[], [3, 4]])
@pytest.mark.parametrize("buffers", [[], [7], [1, 2**32 - 1, 0]])
def test_a_record_is_a_pickle_and_the_numbers_of_its_buffers_and_of_what_it_finds(
    buffers: list[int], given: list[int]
) -> None:
    record = envelope.read_record(memoryview(envelope.write_record(b"pickle", buffers, given)))
    assert (bytes(record.pickled), list(record.buffers), list(record.given)) == (b"pickle", buffers, given)


@pytest.mark.parametrize(
    ("numbers", "spans"),
    [
        ([], []),
        ([0], [(0, 1)]),
        ([7, 8, 9], [(7, 10)]),
        ([0, 2, 3, 18], [(0, 1), (2, 4), (18, 19)]),
        (range(19), [(0, 19)]),
    ],
)
def test_some_of_many_calls_are_told_by_a_bit_each(numbers: Iterable[int], spans: list[Span]) -> None:
    assert envelope.read_chosen(envelope.write_chosen(numbers, 19), 19) == spans


def test_where_nothing_is_said_all_calls_are_meant() -> None:
    assert envelope.read_chosen("", 19) == [(0, 19)]


def test_which_calls_are_meant_is_short_even_of_many() -> None:
    assert len(envelope.write_chosen(range(0, 100_000, 2), 100_000)) < 200


@pytest.mark.parametrize("text", ["no base 64!", "AAAA", "QUJD"])
def test_what_cannot_be_read_means_no_calls(text: str) -> None:
    with pytest.raises(EnvelopeError, match="which calls are meant"):
        envelope.read_chosen(text, 19)
