"""Whoever has a handle hears what becomes of a session's calls, and nothing false; and speaks to a container once."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from account import Account, account
from places import failure, wait_for

import dokrun as dok

__all__ = ["account"]

PLAN = "v100-32gb"
PATIENCE_S = 60


def stay(gate: Path, number: int) -> int:
    while not gate.exists():
        threading.Event().wait(0.01)
    return number


def die_once(starts: Path, gate: Path) -> str:
    with starts.open("a") as file:
        file.write("1\n")
    if len(starts.read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while not gate.exists():
        print("again", flush=True)
        threading.Event().wait(0.01)
    return "tried again"


def started(starts: Path) -> int:
    return len(starts.read_text().split()) if starts.exists() else 0


@pytest.mark.parametrize("there", [True, False], ids=["the session is there", "it has ended"])
def test_of_a_result_that_was_taken_nobody_is_told_that_the_call_was_not_sent(account: Account, *, there: bool) -> None:
    here = account.here()
    session = dok.session(plan=PLAN, detach=True)
    future = session.submit(pow, 2, 5)
    assert future.result(PATIENCE_S) == 32
    handle = future.handle
    if not there:
        session.close()
        session._future.result(PATIENCE_S)
    assert dok.attach(handle).result(PATIENCE_S) == 32, "this process has it"
    here.close()
    account.here(state="other")
    error = failure(dok.attach(handle))
    assert isinstance(error, dok.SessionLost)
    assert error.ran == "maybe"
    assert "somebody else has taken" in str(error)


def test_many_calls_that_are_attached_to_share_what_speaks_to_their_session(account: Account, tmp_path: Path) -> None:
    here = account.here()
    session = dok.session(plan=PLAN, detach=True, workers=1)
    futures = [session.submit(stay, tmp_path / "gate", number) for number in range(8)]
    handles = [future.handle for future in futures]
    here.close()
    account.here(state="other")
    found = [dok.attach(handle) for handle in handles]
    found[7].cancel()
    assert dok.attach(handles[3]) is found[3]
    (tmp_path / "gate").touch()
    assert [future.result(PATIENCE_S) for future in found[:7]] == list(range(7))
    assert [thread.name for thread in threading.enumerate()].count("dokrun-session") == 1
    again = dok.attach(session.handle)
    assert again.submit(pow, 2, 5).result(PATIENCE_S) == 32
    again.close()
    again._future.result(PATIENCE_S)


def test_the_process_that_has_a_session_finds_it_and_its_calls_as_they_are(account: Account, tmp_path: Path) -> None:
    account.here()
    session = dok.session(plan=PLAN)
    future = session.submit(stay, tmp_path / "gate", 1)
    wait_for(future.running)
    assert dok.attach(future.handle) is future
    assert dok.attach(session.handle)._live is session._live
    (tmp_path / "gate").touch()
    assert future.result(PATIENCE_S) == 1


@pytest.mark.parametrize("there", [True, False], ids=["the session is there", "it has ended"])
def test_what_a_call_came_to_that_was_tried_again_is_found(account: Account, tmp_path: Path, *, there: bool) -> None:
    here = account.here()
    session = dok.session(plan=PLAN, detach=True, idle_timeout=1)
    future = dok.remote(timeout=60, retries=1, session=session)(die_once)(tmp_path / "starts", tmp_path / "gate")
    wait_for(lambda: started(tmp_path / "starts") == 2)
    handle, task = future.handle, str(session.task_id)
    here.close()
    if not there:
        (tmp_path / "gate").touch()
        wait_for(lambda: account.client.tasks.get(task).ended)
    account.here(state="other")
    found = dok.attach(handle)
    if there:
        assert next(found.logs()).startswith("again")
        (tmp_path / "gate").touch()
    assert found.result(PATIENCE_S) == "tried again"


def test_whoever_attaches_is_told_how_long_the_session_may_last_and_on_which_plan(account: Account) -> None:
    here = account.here()
    session = dok.session(plan=PLAN, detach=True, timeout="3h")
    session.submit(pow, 1, 1).result(PATIENCE_S)
    handle = session.handle
    here.close()
    account.here(state="other")
    found = dok.attach(handle)
    assert "  " not in repr(found)
    wait_for(lambda: found.meter.left_s is not None)
    assert 2 * 3600 < found.meter.left_s <= 3 * 3600
    wait_for(lambda: found.meter.yen_per_minute is not None)
    assert repr(found).startswith(f"<dokrun.Session {PLAN} running, ¥")
    found.close(cancel=True)
