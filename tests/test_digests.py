"""The digest that bytes are known by is the same however they come, and of what is large each piece's is known."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from dokrun.shim.digests import Digest, digest_of, digests_of, of_file, whole
from dokrun.shim.envelope import segment_of
from dokrun.shim.protocol import PIECE_BYTES
from dokrun.shim.threads import begun

DATA = os.urandom(1 << 20) * (PIECE_BYTES >> 19) + b"and more"
SIZES = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, len(DATA)]


def streamed(data: bytes, steps: int) -> str:
    digest = Digest()
    for at in range(0, len(data), steps):
        digest.update(data[at : at + steps])
    return digest.hexdigest()


@pytest.fixture(params=[1, 3])
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many there are for this process, whatever the machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(request.param)))


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_same_however_the_bytes_come(tmp_path: Path, size: int) -> None:
    data = DATA[:size]
    (tmp_path / "file").write_bytes(data)
    assert streamed(data, 1 << 20) == streamed(data, 20 << 20) == digest_of(data)
    assert of_file(str(tmp_path / "file")) == (digest_of(data), size)
    assert whole(digests_of([data[:1000], data[1000:]])) == digest_of(data)
    segment = segment_of(data)
    assert (segment.sha256, whole(segment.digests)) == (digest_of(data), digest_of(data))


def test_what_is_no_larger_than_a_piece_has_the_usual_one() -> None:
    assert digest_of(DATA[:PIECE_BYTES]) == hashlib.sha256(DATA[:PIECE_BYTES]).hexdigest()


@pytest.mark.parametrize("place", [0, PIECE_BYTES - 1, PIECE_BYTES, len(DATA) - 1])
def test_it_tells_every_byte(place: int) -> None:
    changed = bytearray(DATA)
    changed[place] ^= 1
    assert digest_of(changed) != digest_of(DATA)
    differ = [
        number for number, (a, b) in enumerate(zip(digests_of([changed]), digests_of([DATA]), strict=True)) if a != b
    ]
    assert differ == [place // PIECE_BYTES]


def test_neither_the_order_of_pieces_nor_what_they_are_told_as_is_taken_for_the_whole() -> None:
    first, second = DATA[:PIECE_BYTES], b"second"
    known = digests_of([first, second])
    assert digest_of(first + second) != digest_of("".join(known).encode())
    assert digest_of(first + second) != whole(known[::-1])


def test_a_file_that_becomes_shorter_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA[: 2 * PIECE_BYTES])
    monkeypatch.setattr(os, "fstat", lambda _file: SimpleNamespace(st_size=len(DATA)))
    with pytest.raises(OSError, match="shorter"):
        of_file(str(path))


@pytest.mark.usefixtures("processors")
def test_where_no_thread_can_be_had_it_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    known = digest_of(DATA)
    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert digest_of(DATA) == known
    assert begun(lambda: None, 2) == []
