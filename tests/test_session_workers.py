"""Sessions with several workers: calls run at the same time, and what ends one worker is nothing to the others."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from account import Account, account
from places import failure

import dokrun as dok
from dokrun.shim import protocol

__all__ = ["account"]

PLAN = "v100-32gb"
PATIENCE_S = 60


def meet(folder: Path, own: str, *others: str) -> str:
    """Wait until the others are there too."""
    print(own, flush=True)
    (folder / own).touch()
    while not all((folder / other).exists() for other in others):
        time.sleep(0.01)
    return own


def stay(started: Path, gate: Path) -> int:
    started.touch()
    print("here", flush=True)
    while not gate.exists():
        time.sleep(0.01)
    return os.getpid()


def gpu(folder: Path, own: str, other: str) -> str | None:
    meet(folder, own, other)
    return os.environ.get(protocol.VISIBLE_GPUS)


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, number: int) -> tuple[int, int]:
        self.count += number
        return self.count, os.getpid()

    def die(self, status: int) -> None:
        os._exit(status)


@pytest.fixture
def session(account: Account) -> Iterator[dok.Session]:
    account.here()
    with dok.session(plan=PLAN, workers=2) as session:
        yield session


def test_as_many_calls_run_at_the_same_time_each_with_a_gpu_and_words_of_its_own(
    session: dok.Session, tmp_path: Path
) -> None:
    first = session.submit(meet, tmp_path, "a", "b", "gate")
    second = session.submit(meet, tmp_path, "b", "a", "gate")
    assert (next(first.logs()), next(second.logs())) == ("a\n", "b\n")
    (tmp_path / "gate").touch()
    assert (first.result(PATIENCE_S), second.result(PATIENCE_S)) == ("a", "b")
    seen = [session.submit(gpu, tmp_path, "c", "d"), session.submit(gpu, tmp_path, "d", "c")]
    assert {future.result(PATIENCE_S) for future in seen} == {"0", "1"}


def test_a_worker_that_dies_and_one_that_is_cancelled_cost_the_other_nothing(
    session: dok.Session, tmp_path: Path
) -> None:
    staying = session.submit(stay, tmp_path / "staying", tmp_path / "gate")
    assert next(staying.logs()) == "here\n"
    error = failure(session.submit(os._exit, 3))
    assert isinstance(error, dok.WorkerDied)
    cancelled = session.submit(stay, tmp_path / "cancelled", tmp_path / "never")
    assert next(cancelled.logs()) == "here\n"
    assert cancelled.cancel()
    # One of the two is busy still, so this is the one that was replaced.
    pid = session.submit(os.getpid).result(PATIENCE_S)
    assert not staying.done()
    (tmp_path / "gate").touch()
    assert staying.result(PATIENCE_S) != pid


@pytest.mark.usefixtures("session")
def test_actors_live_in_different_workers_and_one_that_dies_takes_no_other_along() -> None:
    one, other = dok.Actor(Counter), dok.Actor(Counter)
    (_, first), (_, second) = one.add(1).result(PATIENCE_S), other.add(1).result(PATIENCE_S)
    assert first != second
    with pytest.raises(dok.WorkerDied):
        other.die(3).result(PATIENCE_S)
    assert one.add(1).result(PATIENCE_S) == (2, first)
    with pytest.raises(dok.ActorLost):
        other.add(1).result(PATIENCE_S)
    third = dok.Actor(Counter)
    assert third.add(1).result(PATIENCE_S)[0] == 1


def test_a_map_is_shared_by_all_workers(session: dok.Session, tmp_path: Path) -> None:
    calls = [(tmp_path, "a", "b"), (tmp_path, "b", "a")]
    assert list(dok.remote(meet).options(session=session).starmap(calls)) == ["a", "b"]
