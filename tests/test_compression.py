"""What gets small is sent compressed, where its line is slow; it arrives as it was, or not at all."""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from proxied import faulty
from storefaults import FaultyStore, StoreFault

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket, compression
from dokrun.errors import StorageError
from dokrun.shim import fetch, protocol
from dokrun.shim.digests import digest_of

__all__ = ["faulty"]

# So small, and so quickly, that it pays on a busy machine too.
SMALL_WHEN_PACKED = np.repeat(np.arange(20_000, dtype="u4"), 50).tobytes()
NO_SMALLER = os.urandom(4_000_000)


@pytest.fixture
def far(faulty: FaultyStore) -> Iterator[Bucket]:
    bucket = Bucket(faulty.settings, near=False)
    yield bucket
    bucket.close()


def put(bucket: Bucket, data: bytes) -> str:
    """Put bytes, once. Tells their key."""
    digest = digest_of(data)
    bucket.put_once(keys.blob(digest), data, digest)
    return keys.blob(digest)


def sizes(bucket: Bucket, key: str) -> list[int]:
    return [stored.size for stored in bucket.stored(key)]


def fetched(bucket: Bucket, key: str, path: Path, data: bytes, **more: float) -> bytes:
    fetch.fetch(bucket.address(key), str(path), digest_of(data), len(data), **more)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("data", "pays"),
    [
        (SMALL_WHEN_PACKED, True),
        (b"a b c " * 1_000_000, True),
        (NO_SMALLER, False),
        (bytes(compression.SMALLEST_BYTES - 1), False),
        (b"", False),
    ],
    ids=["numbers", "text", "noise", "little", "nothing"],
)
def test_a_sample_shows_whether_it_pays(data: bytes, *, pays: bool) -> None:
    assert compression.pays(memoryview(data)) is pays


def test_what_gets_small_lies_there_compressed_and_arrives_as_it_was(
    far: Bucket, faulty: FaultyStore, tmp_path: Path
) -> None:
    key = put(far, SMALL_WHEN_PACKED)
    assert sizes(far, key)[0] < 0.8 * len(SMALL_WHEN_PACKED)
    assert fetched(far, key, tmp_path / "file", SMALL_WHEN_PACKED) == SMALL_WHEN_PACKED
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    put(far, SMALL_WHEN_PACKED)
    put(Bucket(faulty.settings), SMALL_WHEN_PACKED)
    assert len(faulty.asked("PUT", f"*/{key}")) == 1, "it is there, once"


def test_what_does_not_or_goes_no_way_is_sent_as_it_is(far: Bucket, faulty: FaultyStore, tmp_path: Path) -> None:
    near = Bucket(faulty.settings)
    for bucket, data in ((far, NO_SMALLER), (near, SMALL_WHEN_PACKED + b"near")):
        key = put(bucket, data)
        assert sizes(bucket, key) == [len(data)]
        assert fetched(bucket, key, tmp_path / "file", data) == data
    near.close()


@pytest.mark.parametrize(
    "fault",
    [
        StoreFault("cut", method="GET", at_byte=10_000),
        StoreFault("drip", method="GET", at_byte=10_000, every_s=0.1),
        StoreFault("reset", method="GET"),
    ],
    ids=["cut", "drip", "reset"],
)
def test_a_transfer_that_breaks_goes_on(far: Bucket, faulty: FaultyStore, tmp_path: Path, fault: StoreFault) -> None:
    key = put(far, SMALL_WHEN_PACKED)
    faulty.add(fault)
    assert fetched(far, key, tmp_path / "file", SMALL_WHEN_PACKED, timeout_s=0.5) == SMALL_WHEN_PACKED
    assert [happened.rule for happened in faulty.injected] == [1]


def test_it_comes_in_several_parts_too(far: Bucket, faulty: FaultyStore, tmp_path: Path) -> None:
    data = base64.b64encode(os.urandom(24_000_000))
    key = keys.blob(digest_of(data))
    far.put(key, zlib.compress(data, 1), metadata={protocol.UNPACKED: str(len(data))})
    assert fetched(far, key, tmp_path / "file", data, alone_s=0.0) == data
    assert len(faulty.asked("GET", f"*/{key}")) > 1


def test_what_is_changed_while_it_is_sent_does_not_lie_there(far: Bucket) -> None:
    key = keys.blob("0" * 64)
    with pytest.raises(StorageError, match="changed while it was being sent"):
        far.put_once(key, SMALL_WHEN_PACKED, "0" * 64)
    assert sizes(far, key) == []


ANOTHER = {
    "more than it shall be": zlib.compress(bytes(50_000_000)),
    "less than it shall be": zlib.compress(bytes(10)),
    "something else": zlib.compress(NO_SMALLER[: len(NO_SMALLER) // 2]),
    "nothing packed": b"nothing that was packed",
    "half of it": zlib.compress(SMALL_WHEN_PACKED)[:-10_000],
    "larger than what it unpacks to": bytes(len(SMALL_WHEN_PACKED) + 1),
}


@pytest.mark.parametrize("stored", ANOTHER.values(), ids=ANOTHER)
def test_what_is_not_what_was_announced_never_lies_in_the_container(
    far: Bucket, faulty: FaultyStore, tmp_path: Path, stored: bytes
) -> None:
    key = put(far, SMALL_WHEN_PACKED)
    far.put(key, stored, metadata={protocol.UNPACKED: "1000"})
    with pytest.raises(fetch.DigestError):
        fetched(far, key, tmp_path / "file", SMALL_WHEN_PACKED)
    assert list(tmp_path.iterdir()) == []
    assert len(faulty.asked("GET", f"*/{key}")) == 1, "it is not asked for again"


@dok.remote(plan="v100-32gb")
def total(numbers: np.ndarray) -> int:
    return int(numbers.sum())


@pytest.mark.usefixtures("account")
def test_a_call_is_given_what_lies_there_compressed(far: Bucket) -> None:
    numbers = np.frombuffer(SMALL_WHEN_PACKED, dtype="u4")
    key = put(far, SMALL_WHEN_PACKED)
    before = sizes(far, key)
    assert total(numbers).result(timeout=60) == numbers.sum()
    assert sizes(far, key) == before, "it was not sent again"
