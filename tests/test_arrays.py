"""NumPy's arrays travel beside their pickle, however they lie in memory, and arrive as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optional import require

from dokrun.payload.serialize import Serializer
from dokrun.shim import report
from dokrun.shim.envelope import Segment, dump_value, load_value

N = 100_000
DOUBLES = np.arange(N, dtype="f8")
MAPPED = "mapped"


def to_the_container(value: Any) -> list[Segment]:
    return Serializer().value(value)


def to_the_client(value: Any) -> list[Segment]:
    return dump_value(value, report.dumps)


both_ways = pytest.mark.parametrize("pickled", [to_the_container, to_the_client])

LARGE = {
    "plain": DOUBLES,
    "by columns": np.asfortranarray(DOUBLES.reshape(100, 1000)),
    "every second": np.arange(2 * N)[::2],
    "backwards": DOUBLES[::-1],
    "some columns": np.arange(2 * N, dtype="f4").reshape(1000, 200)[:, 50:150],
    "other axes": DOUBLES.reshape(10, 100, 100).transpose(1, 0, 2),
    "other axes, cut": np.arange(2 * N).reshape(10, 200, 100)[:, ::2].transpose(2, 0, 1),
    "the same value": np.broadcast_to(np.float32(3), (400, 500)),
    "dates": DOUBLES.astype("M8[s]"),
    "every second date": np.arange(2 * N).astype("M8[D]")[::2],
    "times": DOUBLES.astype("m8[ms]"),
    "fields": np.zeros(N, dtype=[("a", "f4"), ("b", "i8")]),
    "other byte order": DOUBLES.astype(">f8"),
}


@both_ways
@pytest.mark.parametrize("array", LARGE.values(), ids=LARGE)
def test_an_array_arrives_as_it_was_and_is_no_part_of_its_pickle(
    pickled: Callable[[Any], list[Segment]], array: Any
) -> None:
    segments = pickled({"array": array})
    assert [segment.size for segment in segments[1:]] == [array.nbytes]
    assert segments[0].size < 1000
    got = load_value([bytearray(segment.data or b"") for segment in segments])["array"]
    assert (type(got), got.dtype, got.shape) == (type(array), array.dtype, array.shape)
    assert np.array_equal(got, array)
    assert got.flags.writeable


@both_ways
def test_what_is_of_one_piece_is_not_copied(pickled: Callable[[Any], list[Segment]]) -> None:
    for name in ("plain", "by columns", "other axes", "dates"):
        _, segment = pickled(LARGE[name])
        assert np.shares_memory(np.frombuffer(segment.data or b"", dtype="u1"), LARGE[name].view("i8"))


@both_ways
def test_a_mapped_file_arrives_as_an_array(pickled: Callable[[Any], list[Segment]], tmp_path: Path) -> None:
    DOUBLES.tofile(tmp_path / MAPPED)
    array = np.memmap(tmp_path / MAPPED, "f8", "r")[::2]
    segments = pickled(array)
    assert [segment.size for segment in segments[1:]] == [array.nbytes]
    (tmp_path / MAPPED).unlink()
    got = load_value([bytearray(segment.data or b"") for segment in segments])
    assert (type(got), got.sum()) == (np.memmap, DOUBLES[::2].sum())


@both_ways
@pytest.mark.parametrize("array", [DOUBLES[:10:2], np.array([{}] * N)[::2], np.float64(3), np.zeros((0, 5))[:, ::2]])
def test_what_is_small_or_holds_objects_is_in_the_pickle(pickled: Callable[[Any], list[Segment]], array: Any) -> None:
    (segment,) = pickled(array)
    assert np.array_equal(load_value([segment.data or b""]), array)


@both_ways
def test_tables_of_pandas_and_arrow_do_so_too(pickled: Callable[[Any], list[Segment]]) -> None:
    require("pandas")
    require("pyarrow")
    import pandas as pd
    import pyarrow as pa

    words = [f"word {number}" for number in range(N)]
    kinds = {"numbers": DOUBLES, "words": words, "days": pd.date_range("2026-01-01", periods=N, freq="s")}
    frame = pd.DataFrame({**kinds, "sorts": pd.Categorical(words), "whole": pd.array(range(N), dtype="Int64")})
    for value in (frame, frame[::2], frame["numbers"], pa.table({"numbers": DOUBLES, "words": words})):
        segments = pickled(value)
        assert segments[0].size < 100_000, "what is smaller than 64 KiB is in the pickle"
        assert load_value([bytearray(segment.data or b"") for segment in segments]).equals(value)
