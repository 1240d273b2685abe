"""What tests of maps in trouble need: an account whose store goes wrong, and what became of each call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import account as accounts
import pytest
from account import Account
from places import PATIENCE_S
from storefaults import FaultyStore

import dokrun as dok

# Where results lie that were sent ahead, and what says how far the calls have come.
SENT, BEGUN = "*/results/*", "*/begun"


@pytest.fixture
def account(faulty: FaultyStore, tmp_path: Path) -> Iterator[Account]:
    """An account whose store goes wrong."""
    with accounts.opened(faulty.url, faulty.bucket, tmp_path) as account:
        yield account


def values(futures: Sequence[dok.Future[Any]]) -> list[Any]:
    """Wait for what some calls have returned."""
    return [future.result(timeout=PATIENCE_S) for future in futures]


def ran(starts: Path) -> Counter[str]:
    """Tell how often each call was started, by its id."""
    return Counter(starts.read_text().split() if starts.exists() else ())


def once(futures: Sequence[dok.Future[Any]]) -> Counter[str]:
    """Tell what `ran` does where each call was started once."""
    return Counter(future.call_id for future in futures)


def tasks(account: Account) -> int:
    """Tell how many tasks there are, and were."""
    return len(list(account.client.tasks.iterate()))
