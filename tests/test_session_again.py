"""Calls of a session that are tried again: what they are given is there, and what is told of them is true."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from account import Account, account
from places import briefly, failure, wait_for

import dokrun as dok
from dokrun import keys
from dokrun.engine.carrying import Carrying
from dokrun.engine.copies import Copies
from dokrun.shim.envelope import segment_of

__all__ = ["account"]

PLAN = "v100-32gb"
PATIENCE_S = 60
BACKOFF_S = 30.0
# Some go with the call, others before it.
SIZES = [4 << 20, 20 << 20]


def stay(starts: Path, gate: Path, *arrays: np.ndarray[Any, Any]) -> list[int]:
    with starts.open("a") as file:
        file.write("1\n")
    while not gate.exists():
        time.sleep(0.01)
    return [int(array[0]) + len(array) for array in arrays]


def first_of(array: np.ndarray[Any, Any]) -> int:
    return int(array[0])


def fail_once(starts: Path, gate: Path) -> str:
    with starts.open("a") as file:
        file.write("1\n")
    while not gate.exists():
        time.sleep(0.01)
    if started(starts) == 1:
        raise OSError("once")
    return "tried again"


def started(starts: Path) -> int:
    return len(starts.read_text().split()) if starts.exists() else 0


@pytest.mark.parametrize("bucket", [True, False], ids=["bucket", "no bucket"])
def test_another_container_is_sent_all_that_a_call_is_given(account: Account, tmp_path: Path, *, bucket: bool) -> None:
    account.here(DOKRUN_BUCKET=account.environ["DOKRUN_BUCKET"] if bucket else "")
    session = dok.session(plan=PLAN, reconnect=True)
    session.submit(pow, 1, 1).result(PATIENCE_S)
    lost = str(session.task_id)
    arrays = [np.zeros(size, dtype=np.uint8) for size in SIZES]
    future = dok.remote(timeout=60, retries=1, session=session)(stay)(tmp_path / "starts", tmp_path / "gate", *arrays)
    for array in arrays:
        array.fill(1)  # what the caller does afterwards changes nothing
    wait_for(lambda: started(tmp_path / "starts"))
    account.client.tasks.cancel(lost)
    (tmp_path / "gate").touch()
    assert future.result(PATIENCE_S) == SIZES
    assert started(tmp_path / "starts") == 2
    assert future.task_id != lost
    wait_for(lambda: session._live._copies.size_bytes == 0)
    session.close(cancel=True)


def test_what_there_is_no_room_for_goes_to_the_bucket_where_it_may_be_needed_again(account: Account) -> None:
    here = account.here()
    with dok.session(plan=PLAN) as session:
        session.submit(pow, 1, 1).result(PATIENCE_S)
        bucket, kept = here.bucket, []
        assert bucket is not None
        for again in (True, False):
            segment = segment_of(bytes([again]) * SIZES[1])
            carrying = Carrying(keys.new_id(), session._live.link, bucket, Copies(SIZES[0]), again)
            assert carrying(segment).data is None
            kept.append((bucket.keys(keys.blob(segment.sha256)) != [], segment.sha256 in carrying.straight))
        assert kept == [(True, False), (False, True)]


@dok.remote(timeout=60)
def end_container(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(PATIENCE_S)


def log_of(account: Account, session: dok.Session) -> str:
    """Tell what the container that the session has now has written so far."""
    path = account.folder / "data" / "logs" / str(session.task_id)
    return path.read_text() if path.exists() else ""


def test_a_container_that_is_lost_is_no_reason_to_make_another_that_nobody_speaks_to(
    account: Account, tmp_path: Path
) -> None:
    (account.folder / "config.toml").write_text("[defaults]\nretries = 1\n")
    account.here()
    session = dok.session(plan=PLAN)
    future = end_container.options(session=session)(tmp_path / "gate")
    wait_for(lambda: "started calls 1 to 1" in log_of(account, session))
    (tmp_path / "gate").touch()
    error = failure(future)
    assert isinstance(error, dok.SessionLost)
    assert error.ran == "yes"
    assert [task.status for task in account.client.tasks.iterate()] == ["error"]


def test_the_log_tells_that_a_later_attempt_of_a_call_ran(account: Account, tmp_path: Path) -> None:
    account.here()
    session = dok.session(plan=PLAN, reconnect=True)
    busy = dok.remote(timeout=60, session=session)(stay)(tmp_path / "starts", tmp_path / "never")
    wait_for(lambda: started(tmp_path / "starts"))
    future = end_container.options(session=session, retries=1)(tmp_path / "gate")
    wait_for(lambda: future._progress.task_id)
    account.client.tasks.cancel(str(session.task_id))  # it had not begun by then
    wait_for(lambda: "in attempt 2" in log_of(account, session))
    (tmp_path / "gate").touch()
    error = failure(future)
    assert isinstance(error, dok.SessionLost)
    assert (error.ran, error.attempt) == ("yes", 2)
    assert failure(busy).ran == "yes"


def raise_once(starts: Path, gate: Path) -> None:
    stay(starts, gate)
    raise FileNotFoundError("the function's own")


def exit_once(starts: Path, gate: Path) -> None:
    print("to be read", flush=True)
    stay(starts, gate)
    os._exit(3)


@pytest.mark.parametrize("function", [raise_once, exit_once])
def test_what_a_call_failed_with_is_told_where_its_next_attempt_finds_no_session(
    account: Account, tmp_path: Path, function: Callable[[Path, Path], None]
) -> None:
    ended = threading.Event()
    account.here(sleep=lambda seconds: ended.wait(PATIENCE_S) if seconds == BACKOFF_S else briefly(seconds))
    session = dok.session(plan=PLAN)
    remote = dok.remote(timeout=60, retries=dok.Retry(1, on=OSError, backoff=BACKOFF_S))(function)
    future = remote.options(session=session)(tmp_path / "starts", tmp_path / "gate")
    (tmp_path / "gate").touch()
    wait_for(lambda: started(tmp_path / "starts") and not session._live.link._flights.all)
    account.client.tasks.cancel(str(session.task_id))
    wait_for(session._future.done)
    ended.set()
    error = future.exception(PATIENCE_S)
    told = f"it was not tried again: {function.__name__} was not sent: its session"
    if function is exit_once:
        assert isinstance(error, dok.WorkerDied)
        assert told in str(error)
        assert (error.attempt, error.ran, error.log) == (1, "yes", ("to be read",))
    else:
        assert isinstance(error, FileNotFoundError)
        assert sys.version_info < (3, 11) or told in error.__notes__[0]
    assert started(tmp_path / "starts") == 1


@pytest.mark.parametrize("reconnect", [True, False], ids=["reconnect", "no reconnect"])
def test_what_waited_in_a_container_whose_time_was_over_may_run_in_another(
    account: Account, tmp_path: Path, *, reconnect: bool
) -> None:
    account.here(DOKRUN_BUCKET="")
    session = dok.session(plan=PLAN, reconnect=reconnect, timeout=8, workers=1)
    session.submit(pow, 1, 1).result(PATIENCE_S)
    arrays = [np.full(4 << 20, number, np.uint8) for number in range(3)]
    running = session.submit(stay, tmp_path / "starts", tmp_path / "never")
    wait_for(lambda: started(tmp_path / "starts"))
    waiting = [session.submit(first_of, array) for array in arrays]
    mapped = dok.remote(timeout=60, session=session)(first_of).map(arrays)
    assert "timeout of 8 s" in str(failure(running))
    if reconnect:
        assert [future.result(PATIENCE_S) for future in waiting] == [0, 1, 2]
        assert list(mapped) == [0, 1, 2]
        assert {future.attempt for future in waiting} == {1}
        session.close()
        return
    for error in map(failure, waiting):
        assert isinstance(error, dok.SessionLost)
        assert error.ran == "no"


def test_a_call_that_fails_when_its_session_is_closed_already_is_tried_again(account: Account, tmp_path: Path) -> None:
    account.here()
    session = dok.session(plan=PLAN)
    retries = dok.Retry(1, on=OSError, backoff=1)
    future = dok.remote(timeout=60, retries=retries, session=session)(fail_once)(tmp_path / "starts", tmp_path / "gate")
    wait_for(lambda: started(tmp_path / "starts"))
    session.close()
    (tmp_path / "gate").touch()
    assert future.result(PATIENCE_S) == "tried again"
    assert session._future.result(PATIENCE_S) is None
    with pytest.raises(dok.SessionLost, match="closed"):
        session.submit(pow, 1, 1)
