"""What forgers need: a bucket and an account of one test's own, and pickles that show whether somebody opened them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import account as accounts
import pytest
from account import Account

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket
from dokrun.config import BucketSettings
from dokrun.emulator.objects import ObjectStore
from dokrun.secret import Secret
from dokrun.shim import envelope


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """A bucket of this test's own: what is forged in it is nobody else's. All stores of a process share theirs."""
    store = ObjectStore(f"forged-{keys.new_id()[:8]}")
    yield Bucket(BucketSettings(store.bucket, store.url, None, "anybody", Secret("canary-of-the-bucket")))
    store.close()


@pytest.fixture
def account(bucket: Bucket, tmp_path: Path) -> Iterator[Account]:
    url = bucket.address("any").partition(f"/{bucket.name}/")[0]
    with accounts.opened(url, bucket.name, tmp_path) as account:
        yield account


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Path]:
    """What is there when a forgery has been opened."""
    path = tmp_path / "evil"
    yield path
    assert not path.exists(), "a forgery was opened"


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def job_of(future: dok.Future[Any]) -> str:
    return future.handle.rpartition("-")[2].partition(".")[0]


def sized(data: bytes, size: int) -> bytes:
    """Make something of a size that the pickle machine stops reading at once."""
    assert len(data) <= size
    return data.ljust(size, b"\0")


def evil_results(evil: Path) -> bytes:
    """Make what would be the report of a job's first call."""
    segments = envelope.dump_value(Evil(evil), pickle.dumps)
    return envelope.pack({"call": 0, "kind": "value", "value": [0], "seconds": 1.0}, segments)
