"""Many calls whose task ends before they do, or never begins them: each is told truly what became of it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import account as accounts
import chores
import numpy as np
import pytest
from account import Account
from clocks import ManualClock
from maps import account, once, ran, tasks, values
from places import PATIENCE_S, Place, failure, place, wait_for
from proxied import faulty
from storefaults import FaultyStore, StoreFault, expired

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket
from dokrun.emulator import Behaviour
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.attempts import LOSSES
from dokrun.shim.envelope import segment_of

__all__ = ["account", "faulty", "place"]

# So slow that each call is begun alone, and few are announced ahead of their turn.
PACE_S = 0.11
COUNT = 16


def under_way(account: Account) -> Sequence[dok.Future[Any]]:
    """Let a task have done two of its calls, and be at the third for as long as it lives."""
    never = account.folder / "never"
    futures = chores.lose.starmap([(account.starts, n, 2, PACE_S, never) for n in range(COUNT)]).futures
    assert values(futures[:2]) == [0, 1]
    wait_for(lambda: chores.started(account.starts) == 3)
    return futures


def told_by(futures: Sequence[dok.Future[Any]]) -> list[Any]:
    """Wait for each call's value; of one that failed, for whether its function ran."""
    return [
        future.result() if future.exception(timeout=PATIENCE_S) is None else failure(future).ran for future in futures
    ]


@pytest.mark.parametrize("kept", [True, False], ids=["artifact", "no artifact"])
def test_cell_map_tl_a_task_that_reaches_its_limit_keeps_what_is_done_and_another_runs_what_was_not_begun(
    store: ObjectStore, tmp_path: Path, *, kept: bool
) -> None:
    clock, behaviour = ManualClock(), Behaviour(keep_failed_artifacts=kept)
    with accounts.opened(store.url, store.bucket, tmp_path, clock=clock, behaviour=behaviour) as own:
        futures = under_way(own)
        first = own.task(futures[0])
        clock.pass_time(first.execution_time_limit_sec or 0)
        told = told_by(futures)
        assert own.client.tasks.get(first.id).status == "aborted"
        assert told[:3] == [0, 1, "yes"]
        unknown = told.count("maybe")
        assert told[3:] == ["maybe"] * unknown + list(range(3 + unknown, COUNT))
        assert unknown < (1 if kept else 10), "the container itself has told of every call"
        begun = [future for future, one in zip(futures, told, strict=True) if one != "maybe"]
        assert ran(own.starts) == once(begun)
        assert tasks(own) == 2


def test_cell_map_cx_a_task_that_somebody_cancels_keeps_what_is_done_and_nothing_more_is_begun(
    account: Account,
) -> None:
    futures = under_way(account)
    account.client.tasks.cancel(str(futures[0].task_id))
    told = told_by(futures)
    assert account.task(futures[0]).status == "canceled"
    assert told[:3] == [0, 1, "yes"]
    unknown = told.count("maybe")
    assert told[3:] == ["maybe"] * unknown + ["no"] * (COUNT - 3 - unknown)
    assert unknown < 10
    assert ran(account.starts) == once(futures[:3])
    assert tasks(account) == 1


def test_cell_map_df_a_result_that_the_containers_disk_does_not_take_is_missed_alone(account: Account) -> None:
    futures = chores.swell.starmap([(account.starts, number, 7) for number in range(COUNT)]).futures
    error = failure(futures[7])
    assert isinstance(error, dok.ResultNotWritten)
    assert error.ran == "yes"
    assert "File too large" in str(error), "which is what a full disk is for this process"
    others = [*range(7), *range(8, COUNT)]
    assert values([futures[number] for number in others]) == others
    assert ran(account.starts) == once(futures)
    assert tasks(account) == 1


@dok.remote(plan="v100-32gb")
def note(starts: Path, number: int, gate: Path | None) -> int:
    """Leave a file, when a gate is there if one is named."""
    chores.begin(starts)
    while gate is not None and not gate.exists():
        time.sleep(0.01)
    (dok.artifact_dir() / f"{number}.txt").write_text("noted")
    return number


@pytest.mark.parametrize("how", ["one of many", "what is left"])
def test_cancelling_some_calls_takes_neither_files_nor_receipt_from_the_others(account: Account, how: str) -> None:
    gate = account.folder / "gate"
    futures = note.starmap([(account.starts, number, gate if number == 1 else None) for number in range(3)]).futures
    assert futures[0].result(timeout=PATIENCE_S) == 0
    wait_for(lambda: chores.started(account.starts) == 2)
    if how == "one of many":
        assert futures[2].cancel()
        gate.touch()
        assert futures[1].result(timeout=PATIENCE_S) == 1
        assert {file.name for file in futures[0].files()} >= {"0.txt", "1.txt"}
        assert note.quote(account.starts, 1, None).past == 1
    else:
        assert [future.cancel() for future in futures[1:]] == [True, True]
        assert futures[0].files() == [], "a task that is cancelled leaves no artifact"
    assert futures[0].receipt is not None


# What another task has to run, since the first one could not.


def test_cell_map_ue_where_it_can_no_longer_be_told_what_is_begun_another_task_runs_what_was_not(
    account: Account, faulty: FaultyStore
) -> None:
    faulty.add(expired("*/1/begun", method="PUT", occurrence=None))
    futures = chores.pass_on.starmap([(account.starts, number) for number in range(COUNT)]).futures
    assert values(futures) == list(range(COUNT))
    assert len(faulty.injected) == 1
    assert ran(account.starts) == once(futures)
    assert tasks(account) == 2


def test_cell_map_ue_an_object_of_all_calls_whose_address_has_expired_is_staged_again(
    account: Account, faulty: FaultyStore
) -> None:
    array = np.frombuffer(os.urandom(2 << 20), np.uint8)
    faulty.add(expired(f"*/{keys.blob(segment_of(array.data).sha256)}", method="GET"))
    futures = chores.size_of.starmap([(account.starts, array) for _ in range(COUNT)]).futures
    assert values(futures) == [2 << 20] * COUNT
    assert len(faulty.injected) == 1
    assert ran(account.starts) == once(futures)
    assert tasks(account) == 2


# What is never begun.


def test_cell_map_sk_where_the_clock_is_far_off_nothing_is_sent(place: Place) -> None:
    place.relay.ahead_s = 1200.0
    place.here()
    for future in chores.pass_on.starmap([(place.starts, number) for number in range(3)]).futures:
        error = failure(future)
        assert isinstance(error, dok.SubmitFailed)
        assert error.ran == "no"
        assert "20 minutes behind DOK's" in str(error)
    assert (place.posts(), place.started()) == (0, 0)


def test_cell_map_sk_where_the_store_finds_the_clock_far_off_nothing_is_sent(
    account: Account, faulty: FaultyStore
) -> None:
    faulty.add(StoreFault("status", "PUT", "*/blobs/*", None, status=403, code="RequestTimeTooSkewed"))
    array = np.frombuffer(os.urandom(2 << 20), np.uint8)
    with pytest.raises(dok.SubmitFailed, match="RequestTimeTooSkewed") as caught:
        chores.size_of.starmap([(account.starts, array) for _ in range(3)])
    assert faulty.injected
    assert caught.value.ran == "no"
    assert (tasks(account), chores.started(account.starts)) == (0, 0)


def test_cell_map_vm_calls_that_another_version_has_pickled_are_not_opened_and_none_runs(
    faulty: FaultyStore, tmp_path: Path
) -> None:
    python = accounts.old_python(tmp_path)
    with accounts.opened(faulty.url, faulty.bucket, tmp_path, behaviour=Behaviour(python=python)) as own:
        futures = chores.pass_on.starmap([(own.starts, number) for number in range(3)]).futures
        errors = [failure(future) for future in futures]
        assert {type(error) for error in errors} == {dok.VersionMismatch}
        assert {error.ran for error in errors} == {"no"}
        job = keys.read_handle(futures[0].handle)
        assert job is not None
        assert Bucket(faulty.settings).read(keys.claim(job.job_id, 1)) is None
        assert (tasks(own), chores.started(own.starts)) == (1, 0)


def test_calls_that_each_take_their_container_along_do_not_go_on_for_ever(account: Account) -> None:
    futures = chores.vanish.map([account.starts] * 9).futures
    lost = [failure(future) for future in futures]
    assert {type(error) for error in lost} == {dok.TaskFailed}
    assert [error.ran == "no" for error in lost] == [False] * LOSSES + [True] * (9 - LOSSES)
    assert "5 containers in a row were lost before any call had ended" in str(lost[-1])
    assert chores.started(account.starts) == tasks(account) == LOSSES
