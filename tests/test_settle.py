"""The function runs once, whatever ends it; and once there is an outcome, nothing that goes wrong takes it away."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterator
from pathlib import Path

import account as accounts
import chores
import pytest
from account import Account, account
from clocks import ManualClock
from conftest import BUCKET
from disks import small_disk
from places import Place, failure, kill, line, place, wait_for
from proxied import faulty
from storefaults import FaultyStore, StoreFault, expired

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket
from dokrun.emulator import Behaviour, Fault
from dokrun.emulator.objects import ObjectStore

__all__ = ["account", "faulty", "place"]

PATIENCE_S = 60
# More than rides in a command, so that there is something to remove.
LARGE = 200_000
STAYS = "stays in the bucket"
# What is there is asked for before it is removed.
LISTED = f"/{BUCKET}"


@pytest.fixture
def beyond(faulty: FaultyStore, tmp_path: Path) -> Iterator[Account]:
    """An account whose store goes wrong."""
    with accounts.opened(faulty.url, faulty.bucket, tmp_path) as account:
        yield account


def payload_of(handle: str) -> str:
    return keys.payload(handle.rpartition("-")[2].partition(".")[0])


# --- clean up


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param((StoreFault("reset", "DELETE"), StoreFault("refuse")), id="cell_settle_rf"),
        pytest.param((StoreFault("hang", "DELETE"),), id="cell_settle_t0"),
        pytest.param((StoreFault("hang", "DELETE", phase="after"),), id="cell_settle_t1"),
        pytest.param((StoreFault("status", "DELETE", status=503),), id="cell_settle_5x"),
        pytest.param((StoreFault("status", "DELETE", status=429),), id="cell_settle_5x-429"),
        pytest.param((StoreFault("garbage", "DELETE"),), id="cell_settle_mb"),
        pytest.param((StoreFault("hang", "DELETE"), StoreFault("hang", "DELETE")), id="cell_settle_sb"),
        pytest.param((StoreFault("twice", "DELETE"),), id="cell_settle_du"),
        pytest.param((StoreFault("reset", "GET", LISTED), StoreFault("status", "GET", LISTED)), id="list"),
        pytest.param((StoreFault("hang", "GET", LISTED),), id="list that hangs"),
    ],
)
def test_the_outcome_does_not_wait_for_the_clean_up_which_is_tried_again(
    beyond: Account, faulty: FaultyStore, store: ObjectStore, faults: tuple[StoreFault, ...]
) -> None:
    # A secret makes even a small payload go into the bucket, so that there is something to remove.
    future = chores.stay.options(name="answer", secrets={"S": "1"})(beyond.starts, beyond.folder / "gate")
    wait_for(lambda: chores.started(beyond.starts))
    for fault in faults:
        faulty.add(fault)
    (beyond.folder / "gate").touch()
    assert future.result(timeout=PATIENCE_S) == 42
    for fault in faults:
        faulty.wait_for(fault.what)
    faulty.closing.set()  # what hangs is let go
    wait_for(lambda: {200, 204} & {one.status for one in faulty.asked("DELETE", f"*/{payload_of(future.handle)}")})
    assert len(faulty.injected) == len(faults)
    assert chores.started(beyond.starts) == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(expired(method="DELETE", occurrence=None), "ExpiredToken", id="cell_settle_ce"),
        pytest.param(
            StoreFault("status", "DELETE", "*", None, status=403, code="RequestTimeTooSkewed"),
            "RequestTimeTooSkewed",
            id="cell_settle_sk",
        ),
        pytest.param(StoreFault("status", "DELETE", "*", None, status=507), "InsufficientStorage", id="cell_settle_df"),
        pytest.param(expired(LISTED, method="GET", occurrence=None), "ExpiredToken", id="list"),
    ],
)
def test_what_cannot_be_cleaned_up_is_told_and_the_outcome_stands(
    beyond: Account, faulty: FaultyStore, fault: StoreFault, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    faulty.add(fault)
    future = chores.answer(beyond.starts, os.urandom(LARGE))
    assert len(future.result(timeout=PATIENCE_S)) == LARGE
    wait_for(lambda: STAYS in caplog.text)
    assert said in caplog.text
    assert faulty.injected
    assert Bucket(faulty.settings).read(payload_of(future.handle), 1 << 20) is not None
    assert chores.started(beyond.starts) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that is full after a mebibyte."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        yield disk


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):  # noqa: PT012 - a loop
        while True:
            filler.write(bytes(512))


def test_cell_settle_df_an_outcome_that_cannot_be_written_down_here_is_given_with_a_warning(
    account: Account, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    account.here("disk/state")
    future = chores.stay(account.starts, account.folder / "gate")
    wait_for(lambda: chores.started(account.starts))
    fill(disk / "filler")
    (account.folder / "gate").touch()
    assert future.result(timeout=PATIENCE_S) == 42
    assert "goes on, but the journal" in caplog.text
    (disk / "filler").unlink()
    assert dok.attach(future.handle).result(timeout=PATIENCE_S) == 42
    assert chores.started(account.starts) == 1


CALL = """
    import os, sys
    from pathlib import Path
    import chores
    future = chores.answer(Path(sys.argv[1]), os.urandom(200_000))
    print(future.handle, flush=True)
    print(len(future.result()), flush=True)
    sys.stdin.read()
"""


def test_cell_settle_k9_a_client_that_is_killed_while_it_cleans_up_leaves_the_outcome(
    place: Place, faulty: FaultyStore
) -> None:
    faulty.add(StoreFault("hang", "DELETE"))
    child = place.start(CALL, DOKRUN_S3_ENDPOINT_URL=faulty.url, PYTHONPATH=str(Path(__file__).parent))
    handle = line(child)
    faulty.wait_for("hang")
    kill(child)
    assert place.steps(handle)[-1] == "settled"
    place.here(DOKRUN_S3_ENDPOINT_URL=faulty.url)
    assert len(dok.attach(handle).result(timeout=PATIENCE_S)) == LARGE
    assert (place.started(), len(place.tasks())) == (1, 1)


def test_cell_settle_cx_cancelling_what_has_its_outcome_changes_nothing(beyond: Account, faulty: FaultyStore) -> None:
    faulty.add(StoreFault("hang", "DELETE"))
    future = chores.answer(beyond.starts, os.urandom(LARGE))
    assert len(future.result(timeout=PATIENCE_S)) == LARGE
    faulty.wait_for("hang")
    assert not future.cancel()
    assert not future.cancelled()
    assert len(future.result()) == LARGE
    faulty.closing.set()
    assert beyond.task(future).status == "done"
    assert beyond.task(future).canceled_at is None


def test_cell_settle_du_an_outcome_that_comes_twice_is_the_first_one(account: Account) -> None:
    future = chores.answer(account.starts)
    first = dok.attach(future.handle)
    assert (future.result(timeout=PATIENCE_S), first.result(timeout=PATIENCE_S)) == (42, 42)
    future.cancel()
    assert dok.attach(future.handle).result(timeout=PATIENCE_S) == 42
    assert chores.started(account.starts) == 1


# --- while it runs


def test_cell_run_df_a_result_that_the_containers_disk_does_not_take_has_run(account: Account) -> None:
    error = failure(chores.overfill(account.starts))
    assert isinstance(error, dok.ResultNotWritten)
    assert error.ran == "yes"
    assert "File too large" in str(error), "which is what a full disk is for this process"
    assert chores.started(account.starts) == 1


STAY = """
    import sys
    from pathlib import Path
    import chores
    future = chores.stay(Path(sys.argv[1]), Path(sys.argv[2]))
    print(future.handle, flush=True)
    future.result()
"""


def test_cell_run_k9_a_function_outlives_its_client(place: Place) -> None:
    child = place.start(STAY, PYTHONPATH=str(Path(__file__).parent))
    handle = line(child)
    wait_for(place.started)
    kill(child)
    place.gate.touch()
    place.here()
    assert dok.attach(handle).result(timeout=PATIENCE_S) == 42
    assert (place.started(), len(place.tasks())) == (1, 1)


def test_cell_run_oo_a_function_whose_container_is_killed_has_run_and_does_not_run_again(account: Account) -> None:
    future = chores.vanish(account.starts)
    error = failure(future)
    assert account.task(future).containers[0].exit_code == 137
    assert isinstance(error, dok.TaskFailed)
    assert error.ran == "yes"
    assert chores.started(account.starts) == 1
    assert len(list(account.client.tasks.iterate())) == 1


def test_cell_run_oo_a_function_that_the_kernel_lets_have_no_more_memory_raises(account: Account) -> None:
    with pytest.raises(MemoryError):
        chores.hoard(account.starts).result(timeout=PATIENCE_S)
    assert chores.started(account.starts) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_cell_run_tl_a_function_that_runs_into_the_tasks_limit_has_run(
    store: ObjectStore, tmp_path: Path, *, kept: bool
) -> None:
    clock = ManualClock()
    behaviour = Behaviour(keep_failed_artifacts=kept)
    with accounts.opened(store.url, store.bucket, tmp_path, clock=clock, behaviour=behaviour) as own:
        future = chores.stay(own.starts, tmp_path / "gate")
        wait_for(lambda: chores.started(own.starts))
        clock.pass_time(own.task(future).execution_time_limit_sec or 0)
        error = failure(future)
        assert own.task(future).status == "aborted"
        assert error.ran == "yes"
        assert ("the container was stopped" in str(error)) == kept
        assert chores.started(own.starts) == 1


def test_cell_run_tl_a_function_that_takes_longer_than_its_timeout_has_run(account: Account) -> None:
    error = failure(chores.stay.options(timeout=4)(account.starts, account.folder / "gate"))
    assert isinstance(error, dok.CallTimeout)
    assert error.ran == "yes"
    assert "4 s" in str(error)
    assert chores.started(account.starts) == 1


def test_cell_run_cx_a_function_that_is_cancelled_while_it_runs_ends_and_has_run(account: Account) -> None:
    future = chores.stay(account.starts, account.folder / "gate")
    wait_for(lambda: chores.started(account.starts))
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(timeout=PATIENCE_S)
    wait_for(lambda: account.task(future).ended)
    assert account.task(future).status == "canceled"
    error = failure(dok.attach(future.handle))
    assert error.ran == "yes"
    assert chores.started(account.starts) == 1


def test_cell_run_du_of_two_tasks_of_one_call_only_one_runs_it(store: ObjectStore, tmp_path: Path) -> None:
    with accounts.opened(store.url, store.bucket, tmp_path, behaviour=Behaviour(slots=2)) as own:
        own.faults(Fault("duplicate", "POST", "/tasks/", phase="after"))
        future = chores.answer(own.starts)
        assert future.result(timeout=PATIENCE_S) == 42
        assert own.injected() == 1
        wait_for(lambda: all(task.ended for task in own.client.tasks.iterate()))
        assert len(list(own.client.tasks.iterate())) == 2
        assert chores.started(own.starts) == 1


def test_cell_run_vm_a_python_that_could_not_open_the_call_does_not_try(store: ObjectStore, tmp_path: Path) -> None:
    python = accounts.old_python(tmp_path)
    with accounts.opened(store.url, store.bucket, tmp_path, behaviour=Behaviour(python=python)) as own:
        error = failure(chores.answer(own.starts))
        assert isinstance(error, dok.VersionMismatch)
        assert error.ran == "no"
        assert "the image has Python 3.8.1" in str(error)
        assert chores.started(own.starts) == 0
