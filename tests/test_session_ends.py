"""How sessions end: no container is made in vain, no call runs twice, and what was sent is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import account as accounts
import numpy as np
import pytest
from account import Account, account
from places import failure, wait_for

import dokrun as dok
from dokrun.emulator import Behaviour
from dokrun.emulator.objects import ObjectStore

__all__ = ["account"]

PLAN = "v100-32gb"
PATIENCE_S = 60


@dok.remote(timeout=60)
def count(starts: Path, gate: Path | None = None) -> int:
    with starts.open("a") as file:
        file.write("1\n")
    while gate is not None and not gate.exists():
        print("here", flush=True)
        time.sleep(0.01)
    return 42


@dok.remote(timeout=60)
def size(array: Any) -> int:
    return len(array)


@dok.remote(timeout=60)
def told(name: str) -> str | None:
    return os.environ.get(name)


@dok.remote(timeout=60)
def kill_the_container() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    threading.Event().wait()


def started(starts: Path) -> int:
    return len(starts.read_text().split()) if starts.exists() else 0


def tasks(account: Account) -> list[str]:
    return [task.status for task in account.client.tasks.iterate()]


def test_a_container_that_cannot_start_is_not_made_again_and_again(store: ObjectStore, tmp_path: Path) -> None:
    behaviour = Behaviour(python=accounts.old_python(tmp_path))
    with accounts.opened(store.url, store.bucket, tmp_path, behaviour=behaviour) as account:
        error = failure(dok.session(plan=PLAN, reconnect=True).submit(count, tmp_path / "starts"))
        assert isinstance(error, dok.SessionLost)
        assert error.ran == "no"
        assert "VersionMismatch" in str(error)
        assert len(tasks(account)) == 1


@pytest.mark.parametrize("bucket", [True, False], ids=["with a bucket", "with none"])
def test_a_container_that_is_killed_is_not_made_again_behind_its_calls_back(account: Account, *, bucket: bool) -> None:
    names = () if bucket else [name for name in account.environ if "BUCKET" in name or "S3" in name]
    for name in names:
        del account.environ[name]
    account.here()
    session = dok.session(plan=PLAN)
    error = failure(session.submit(kill_the_container))
    assert isinstance(error, dok.SessionLost)
    assert error.ran != "no"
    assert isinstance(session._future.exception(PATIENCE_S), dok.TaskFailed)
    assert tasks(account) == ["error"]


def test_the_end_of_a_process_makes_no_other_container(account: Account, tmp_path: Path) -> None:
    here = account.here()
    session = dok.session(plan=PLAN, reconnect=True)
    running = session.submit(count, tmp_path / "starts", tmp_path / "never")
    wait_for(lambda: started(tmp_path / "starts"))
    here.close()
    assert running.cancelled()
    wait_for(lambda: tasks(account) == ["canceled"])


def test_whoever_attaches_gets_an_outcome_too_and_the_call_runs_once(account: Account, tmp_path: Path) -> None:
    account.here()
    session = dok.session(plan=PLAN, reconnect=True)
    future = session.submit(count, tmp_path / "starts", tmp_path / "gate")
    wait_for(lambda: started(tmp_path / "starts"))
    other = dok.attach(future.handle)
    assert next(other.logs()).startswith("here"), "it is told what the call does, from then on"
    (tmp_path / "gate").touch()
    assert future.result(PATIENCE_S) == other.result(PATIENCE_S) == 42
    session.close()
    assert session._future.result(PATIENCE_S) is None
    assert started(tmp_path / "starts") == 1
    assert len(tasks(account)) == 1


def test_a_session_that_is_closed_before_it_is_there_does_what_was_sent(account: Account, tmp_path: Path) -> None:
    account.here()
    session = dok.session(plan=PLAN)
    future = session.submit(count, tmp_path / "starts")
    session.close()
    assert future.result(PATIENCE_S) == 42
    assert session._future.result(PATIENCE_S) is None


@pytest.mark.parametrize("there", [True, False], ids=["running", "waiting"])
def test_when_the_last_call_is_cancelled_its_progress_ends(account: Account, tmp_path: Path, *, there: bool) -> None:
    account.here()
    session = dok.session(plan=PLAN)
    if there:
        session.submit(pow, 1, 1).result(PATIENCE_S)
    future = session.submit(count, tmp_path / "starts", tmp_path / "never")
    if there:
        wait_for(lambda: started(tmp_path / "starts"))
    assert future.cancel()
    assert future.status == "canceled"
    assert future._progress.over
    session.close(cancel=True)


def test_the_files_of_one_call_are_told_when_the_others_were_cancelled(account: Account, tmp_path: Path) -> None:
    account.here()
    with dok.session(plan=PLAN):
        done, never = count.starmap([(tmp_path / "starts", None), (tmp_path / "other", tmp_path / "never")]).futures
        assert done.result(PATIENCE_S) == 42
        wait_for(lambda: started(tmp_path / "other"))
        assert never.cancel()
        assert done.files() == []
        assert done.status == "done"


@dok.remote(timeout=60, retries=dok.Retry(1, on=OSError))
def count_twice(starts: Path, gate: Path, attempts: int) -> None:
    with starts.open("a") as file:
        file.write("1\n")
    if started(starts) < attempts:
        raise OSError("once")
    while not gate.exists():
        print("here", flush=True)
        time.sleep(0.01)


def test_a_call_of_a_map_is_told_of_and_cancelled_while_another_one_is_tried_again(
    account: Account, tmp_path: Path
) -> None:
    account.here()
    with dok.session(plan=PLAN, workers=2) as session:
        items = [(tmp_path / "first", tmp_path / "gate", 2), (tmp_path / "other", tmp_path / "never", 1)]
        again, never = count_twice.starmap(items).futures
        wait_for(lambda: started(tmp_path / "first") == 2 and started(tmp_path / "other"))
        assert next(never.logs()).startswith("here")
        assert never.cancel()
        # Both workers were busy.
        assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32
        (tmp_path / "gate").touch()
        assert again.result(PATIENCE_S) is None


def test_the_command_line_ends_one_call_of_a_session_or_all_of_it(account: Account, tmp_path: Path) -> None:
    def cancel(handle: str) -> str:
        command = [str(Path(sys.executable).with_name("dokrun")), "cancel", handle]
        environment = {**os.environ, **account.environ, "DOKRUN_STATE_DIR": str(tmp_path / "other")}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return str(done.stdout)

    account.here()
    session = dok.session(plan=PLAN, workers=2)
    one = count.options(session=session)(tmp_path / "one", tmp_path / "never")
    goes_on = count.options(session=session)(tmp_path / "starts", tmp_path / "gate")
    wait_for(lambda: started(tmp_path / "one") and started(tmp_path / "starts"))
    assert f"its session (task {session.task_id}) goes on" in cancel(one.handle)
    assert "was cancelled" in str(failure(one))
    (tmp_path / "gate").touch()
    assert goes_on.result(PATIENCE_S) == 42
    several = count.options(session=session).starmap([(tmp_path / "several", tmp_path / "never")] * 4).futures
    wait_for(lambda: started(tmp_path / "several") == 2)
    assert len({future.handle for future in several}) == 1
    assert "count: cancelled" in cancel(several[0].handle)
    assert ["was cancelled" in str(failure(future)) for future in several] == [True] * 4
    assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32
    assert f"session (task {session.task_id}): cancelled" in cancel(session.handle)
    assert "it had ended before" in cancel(one.handle)


def test_many_middling_arguments_at_once_get_there(account: Account) -> None:
    account.here()
    with dok.session(plan=PLAN) as session:
        futures = [session.submit(size, np.full(100_000, number, dtype=np.float64)) for number in range(20)]
        assert [future.result(PATIENCE_S) for future in futures] == [100_000] * 20


def test_secrets_are_the_sessions_for_all_and_a_functions_for_its_own_calls(account: Account) -> None:
    account.here()
    with dok.session(plan=PLAN, secrets={"SHARED": "of the session"}):
        own = told.options(env={"OWN": "of the function"})
        assert own("OWN").result(PATIENCE_S) == "of the function"
        assert told("OWN").result(PATIENCE_S) is None
        assert told("SHARED").result(PATIENCE_S) == own("SHARED").result(PATIENCE_S) == "of the session"


def test_options_that_cannot_hold_in_a_session_are_refused(account: Account) -> None:
    account.here()
    with dok.session(plan=PLAN):
        for wrong in (count.options(plan="h100-80gb"), count.options(image="another"), count.options(max_yen=5)):
            with pytest.raises(dok.OptionError, match=r"count has|count wants"):
                wrong(Path("nowhere"))
        with pytest.raises(dok.OptionError, match="workers="):
            told.map(["A"], workers=2)
    with pytest.raises(dok.OptionError, match="linger= and max_yen="):
        count.options(plan="h100-80gb", linger=True, max_yen=100)(Path("nowhere"))


@dok.remote(timeout=60, retries=dok.Retry(1, on=OSError))
def go_on() -> str:
    saved = dok.checkpoint_dir() / "steps"
    steps = saved.read_text() if saved.exists() else ""
    saved.write_text(steps + "one ")
    if not steps:
        raise OSError("the first time")
    return saved.read_text()


def test_a_call_that_is_tried_again_finds_what_it_has_saved_and_nothing_of_others(account: Account) -> None:
    account.here()
    with dok.session(plan=PLAN):
        assert [go_on().result(PATIENCE_S) for _ in range(2)] == ["one one "] * 2


def test_looking_whether_a_container_lingers_long_enough_keeps_nothing_from_being_begun(account: Account) -> None:
    lives = account.here()._lives
    lingers = told.options(plan="h100-80gb", linger=True)
    lingers("OWN").result(PATIENCE_S)
    (live,) = lives._shared.values()
    with ThreadPoolExecutor(2) as pool:
        with live._lock:  # as while another container is made in place of its own
            looking = pool.submit(lingers, "OWN")
            wait_for(lambda: is_taken(lives._lock))
            begun = pool.submit(told.options(plan=PLAN), "OWN").result(PATIENCE_S)
        assert looking.result(PATIENCE_S).result(PATIENCE_S) is None
    assert begun.cancel()


def is_taken(lock: Any) -> bool:
    free = lock.acquire(blocking=False)
    if free:
        lock.release()
    return not free
