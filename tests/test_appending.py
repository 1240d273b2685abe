"""A file of reports grows by whole reports; of large ones it is known what was written, piece by piece."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from dokrun.shim.appending import Appending
from dokrun.shim.protocol import BLOB_SIZE, PIECE_BYTES

DATA = os.urandom(1 << 20) * (PIECE_BYTES >> 19) + b"and more"


def sha256(*places: int) -> list[str]:
    return [hashlib.sha256(DATA[at : at + PIECE_BYTES]).hexdigest() for at in places]


@pytest.mark.parametrize("cuts", [[], [3], [BLOB_SIZE, PIECE_BYTES, PIECE_BYTES + 1]])
def test_what_is_large_is_told_in_pieces_however_it_is_written(tmp_path: Path, cuts: list[int]) -> None:
    file = Appending(str(tmp_path / "reports"), hashed=True)
    parts = [DATA[first:end] for first, end in zip([0, *cuts], [*cuts, len(DATA)], strict=True)]
    for _ in range(2):
        assert file.write([*parts]) == sha256(0, PIECE_BYTES, 2 * PIECE_BYTES)
    assert file.write([DATA[:PIECE_BYTES]]) == sha256(0)
    file.close()
    assert (tmp_path / "reports").read_bytes() == DATA + DATA + DATA[:PIECE_BYTES]


@pytest.mark.parametrize(("hashed", "size"), [(True, BLOB_SIZE - 1), (True, 10), (False, len(DATA))])
def test_nothing_is_told_of_what_is_small_or_where_nobody_wants_to_know(
    tmp_path: Path, *, hashed: bool, size: int
) -> None:
    file = Appending(str(tmp_path / "reports"), hashed=hashed)
    assert file.write([DATA[:size]]) == []
    file.close()
    assert (tmp_path / "reports").read_bytes() == DATA[:size]


@pytest.fixture
def small() -> Iterator[None]:
    """Let files be no larger than two pieces."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PIECE_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small")
def test_what_has_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    file = Appending(str(tmp_path / "reports"), hashed=True)
    file.write([DATA[:1000]])
    with pytest.raises(OSError, match="large"):
        file.write([DATA])
    assert file.write([DATA[:PIECE_BYTES]]) == sha256(0)
    file.close()
    assert (tmp_path / "reports").read_bytes() == DATA[:1000] + DATA[:PIECE_BYTES]
