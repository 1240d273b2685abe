"""Warm sessions: calls go straight to a container that stays, and what they leave in memory stays with it."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import waiting
from account import Account, account

import dokrun as dok
from dokrun import engine, keys
from dokrun.api import Client

__all__ = ["account"]

PLAN = "v100-32gb"
PATIENCE_S = 60


@functools.cache
def model() -> dict[str, int]:
    return {"loaded by": os.getpid(), "uses": 0}


@dok.remote(timeout=60)
def use() -> tuple[int, int]:
    kept = model()
    kept["uses"] += 1
    return kept["loaded by"], kept["uses"]


@dok.remote(timeout=60)
def add(a: int, b: int) -> int:
    return a + b


@dok.remote(timeout=60)
def say(text: str, gate: Path | None = None) -> str:
    print(text, flush=True)
    wait_for(gate)
    print(f"{text} again")
    return text


@dok.remote(timeout=60)
def fail(text: str) -> None:
    raise KeyError(text)


@dok.remote(timeout=60)
def end(status: int) -> None:
    os._exit(status)


@dok.remote(timeout=60)
def double(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array *= 2
    return array


@dok.remote(timeout=0.5)
def too_long() -> None:
    threading.Event().wait()


def wait_for(gate: Path | None) -> None:
    while gate is not None and not gate.exists():
        time.sleep(0.01)


class Counter:
    def __init__(self, start: int) -> None:
        if start < 0:
            raise ValueError("it begins below zero")
        self.count = start

    def add(self, number: int) -> int:
        self.count += number
        return self.count


class Holder:
    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def size(self) -> int:
        return len(self.array)


@pytest.fixture
def session(account: Account) -> Iterator[dok.Session]:
    account.here()
    with dok.session(plan=PLAN, timeout="20m") as session:
        yield session


def test_calls_in_the_block_go_to_one_container_whose_worker_keeps_what_it_has(
    session: dok.Session, client: Client
) -> None:
    first, second = use().result(PATIENCE_S), use().result(PATIENCE_S)
    assert first[0] == second[0] != os.getpid()
    assert (first[1], second[1]) == (1, 2)
    assert session.status == "running"


@pytest.mark.usefixtures("session")
def test_what_a_function_raises_is_raised_with_its_traceback() -> None:
    with pytest.raises(KeyError, match="wrong") as caught:
        fail("wrong").result(PATIENCE_S)
    assert "in fail" in str(caught.value.__cause__)


def test_what_a_call_prints_is_its_own_and_comes_while_it_runs(session: dok.Session, tmp_path: Path) -> None:
    future = say("hello", tmp_path / "gate")
    logs = future.logs()
    assert next(logs) == "hello\n"
    assert not future.done()
    (tmp_path / "gate").touch()
    assert "".join(logs) == "hello again\n"
    assert list(say("other").logs()) in (["other\nother again\n"], ["other\n", "other again\n"])


@pytest.mark.usefixtures("session")
def test_arrays_arrive_writable_there_and_back_whatever_their_size() -> None:
    for size in (0, 10, 100_000, 4_000_000):
        given = np.arange(size, dtype=np.float64)
        future = double(given)
        given += 1  # what the caller does afterwards changes nothing
        back = future.result(PATIENCE_S)
        assert np.array_equal(back, 2 * np.arange(size, dtype=np.float64))
        back += 1


@pytest.mark.usefixtures("session")
def test_a_map_goes_to_the_session_too() -> None:
    assert list(add.map(range(500), range(500))) == [2 * number for number in range(500)]


def test_a_call_that_takes_too_long_costs_its_worker_and_no_other_call(session: dok.Session) -> None:
    before = use().result(PATIENCE_S)
    late = too_long()
    after = use()
    with pytest.raises(dok.CallTimeout) as caught:
        late.result(PATIENCE_S)
    assert caught.value.ran == "yes"
    assert after.result(PATIENCE_S)[0] != before[0]
    with pytest.raises(dok.WorkerDied, match="exit status 3"):
        end(3).result(PATIENCE_S)
    assert add(1, 2).result(PATIENCE_S) == 3
    assert session.task_id


def test_cancelling_a_call_that_runs_replaces_its_worker_and_one_that_waits_never_runs(
    session: dok.Session, tmp_path: Path
) -> None:
    running = say("running", tmp_path / "never")
    assert next(running.logs()) == "running\n"
    waiting = say("waiting")
    assert waiting.cancel()
    assert running.cancel()
    assert add(1, 2).result(PATIENCE_S) == 3
    with pytest.raises(CancelledError):
        running.result(PATIENCE_S)
    assert "waiting" not in "".join(waiting.logs())


def test_functions_without_a_decorator_and_from_outside_the_block_are_sent_by_name(account: Account) -> None:
    account.here()
    session = dok.session(plan=PLAN)
    assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32
    assert add.options(session=session)(1, 2).result(PATIENCE_S) == 3
    session.close()
    with pytest.raises(dok.SessionLost, match="its session is closed"):
        session.submit(pow, 2, 5)


@pytest.mark.usefixtures("session")
def test_an_actor_keeps_an_object_in_a_worker() -> None:
    counter = dok.Actor(Counter, 10)
    futures = [counter.add(1) for _ in range(5)]
    assert [future.result(PATIENCE_S) for future in futures] == [11, 12, 13, 14, 15]
    other = dok.Actor(Counter, 0)
    assert other.add(1).result(PATIENCE_S) == 1
    assert counter.add(1).result(PATIENCE_S) == 16
    counter.end()
    with pytest.raises(dok.ActorLost, match="was ended") as caught:
        counter.add(1).result(PATIENCE_S)
    assert caught.value.ran == "no"


@pytest.mark.usefixtures("session")
def test_an_actor_is_made_before_it_is_asked_though_it_is_made_with_much() -> None:
    # There is no container yet, so this goes through the bucket, and what is small does not.
    holder = dok.Actor(Holder, np.zeros(4_000_000))
    assert [holder.size().result(PATIENCE_S) for _ in range(3)] == [4_000_000] * 3


@pytest.mark.usefixtures("session")
def test_an_actor_that_cannot_be_made_says_why() -> None:
    counter = dok.Actor(Counter, -1)
    with pytest.raises(ValueError, match="below zero"):
        counter.made.result(PATIENCE_S)
    with pytest.raises(dok.ActorLost, match="below zero"):
        counter.add(1)


def test_when_the_block_ends_so_does_the_task_and_its_cost_is_known(account: Account) -> None:
    account.here()
    with dok.session(plan=PLAN) as session:
        future = add(1, 2)
    assert future.result(0) == 3, "the block waits for its calls"
    ended = session._future
    assert ended.result(PATIENCE_S) is None
    assert account.client.tasks.get(str(session.task_id)).status == "done"
    assert ended.receipt is not None


def test_when_the_block_fails_what_runs_is_ended(account: Account, tmp_path: Path) -> None:
    account.here()
    with pytest.raises(RuntimeError, match="enough"), dok.session(plan=PLAN) as session:  # noqa: PT012
        future = say("running", tmp_path / "never")
        assert next(future.logs()) == "running\n"
        raise RuntimeError("enough")
    with pytest.raises(dok.CallFailed):
        future.result(PATIENCE_S)
    assert session._future.exception(PATIENCE_S) is None


def test_a_container_ends_by_itself_when_nothing_is_called(account: Account) -> None:
    account.here()
    session = dok.session(plan=PLAN, idle_timeout=0.5)
    assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32
    assert session._future.result(PATIENCE_S) is None
    with pytest.raises(dok.SessionLost) as caught:
        session.submit(pow, 2, 5).result(PATIENCE_S)
    assert caught.value.ran == "no"


def test_with_reconnect_the_next_call_gets_another_container(account: Account) -> None:
    account.here()
    session = dok.session(plan=PLAN, idle_timeout=0.5, reconnect=True)
    first = session.submit(os.getpid).result(PATIENCE_S)
    assert session._future.result(PATIENCE_S) is None
    assert session.submit(os.getpid).result(PATIENCE_S) != first
    session.close()


def test_a_container_that_is_lost_says_of_each_call_whether_it_ran(account: Account, tmp_path: Path) -> None:
    account.here()
    session = dok.session(plan=PLAN)
    running = session.submit(say, "running", tmp_path / "never")
    assert next(running.logs()) == "running\n"
    waiting = session.submit(pow, 2, 5)
    account.client.tasks.cancel(str(session.task_id))
    with pytest.raises(dok.SessionLost) as caught:
        running.result(PATIENCE_S)
    assert caught.value.ran == "yes"
    with pytest.raises(dok.SessionLost) as caught:
        waiting.result(PATIENCE_S)
    assert caught.value.ran in ("maybe", "no")


def test_another_process_finds_the_session_and_its_calls_by_their_handles(account: Account, tmp_path: Path) -> None:
    here = account.here()
    session = dok.session(plan=PLAN, detach=True)
    future = session.submit(say, "hello", tmp_path / "gate")
    assert next(future.logs()) == "hello\n"
    handle, own = session.handle, future.handle
    assert (
        here.desk.find(keys.shortened(own)).task.id == here.desk.find(keys.shortened(handle)).task.id == session.task_id
    )
    here.close()
    account.here(state="other")
    found, again = dok.attach(own), dok.attach(handle)
    (tmp_path / "gate").touch()
    assert found.result(PATIENCE_S) == "hello"
    assert again.submit(pow, 2, 5).result(PATIENCE_S) == 32
    again.close()
    assert again._future.result(PATIENCE_S) is None


def test_what_a_call_came_to_is_in_the_artifact_when_nobody_has_taken_it(account: Account, tmp_path: Path) -> None:
    here = account.here()
    session = dok.session(plan=PLAN, idle_timeout=1, detach=True)
    future = session.submit(say, "hello", tmp_path / "gate")
    assert next(future.logs()) == "hello\n"
    handle, task = future.handle, str(session.task_id)
    here.close()
    (tmp_path / "gate").touch()
    waiting.wait_for(lambda: account.client.tasks.get(task).ended)
    account.here(state="other")
    assert dok.attach(handle).result(PATIENCE_S) == "hello"


def test_an_executor_may_be_on_a_session(session: dok.Session) -> None:
    with dok.Executor() as inside, dok.Executor(session=session) as named:
        assert list(inside.map(pow, range(5), [2] * 5)) == [0, 1, 4, 9, 16]
        future = named.submit(add, 1, 2)
        assert future.result(PATIENCE_S) == 3
        assert future.task_id == session.task_id
    assert add(1, 2).result(PATIENCE_S) == 3, "the session goes on"
    with pytest.raises(dok.OptionError, match="workers="):
        dok.Executor(max_workers=2, session=session)


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode() * 100_000)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def begin_server() -> int:
    import subprocess

    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return int(server.stdout.readline())


def test_a_tunnel_leads_to_a_server_in_the_container(session: dok.Session) -> None:
    port = session.submit(begin_server).result(PATIENCE_S)
    with session.tunnel(port) as tunnel:
        for _ in range(3):
            assert httpx.get(f"{tunnel.url}/hello", timeout=PATIENCE_S).text == "/hello" * 100_000
    with session.tunnel(1) as nowhere, pytest.raises(httpx.TransportError):
        httpx.get(nowhere.url, timeout=PATIENCE_S)


@pytest.mark.usefixtures("session")
def test_an_actor_ends_when_nothing_refers_to_it_any_more_and_its_calls_are_done(tmp_path: Path) -> None:
    actor = dok.Actor(Mortal, tmp_path / "ended")
    waits = actor.wait_for(tmp_path / "gate")
    del actor
    (tmp_path / "gate").touch()
    assert waits.result(PATIENCE_S) == "done"
    waiting.wait_for((tmp_path / "ended").exists)


class Mortal:
    def __init__(self, ended: Path) -> None:
        self._ended = ended

    def wait_for(self, gate: Path) -> str:
        wait_for(gate)
        return "done"

    def __del__(self) -> None:
        self._ended.touch()


def test_single_calls_find_a_container_that_lingers(account: Account) -> None:
    account.here()
    pid = dok.remote(plan="h100-80gb", linger=True)(getpid)
    first = pid()
    second = pid()
    assert first.result(PATIENCE_S) == second.result(PATIENCE_S)
    assert first.task_id == second.task_id
    # What the first one has said of itself is not what holds for another one.
    own = dok.remote(plan="h100-80gb", linger=True, secrets={"OWN": "a secret"}, timeout=60)(os.getenv)
    assert own("OWN").result(PATIENCE_S) == "a secret"
    other = dok.remote(plan="h100-80gb", linger=True)(os.getenv)("OWN")
    assert (other.result(PATIENCE_S), other.task_id) == (None, first.task_id)
    engine.reset()


def test_a_call_that_may_take_longer_than_a_lingering_container_lasts_gets_another_one(account: Account) -> None:
    account.here()
    pid = dok.remote(plan="h100-80gb", linger=True)(getpid)
    first = pid()
    first.result(PATIENCE_S)
    longer = pid.options(timeout="5h")()
    assert longer.result(PATIENCE_S) != first.result(PATIENCE_S)
    again = pid()
    assert (again.result(PATIENCE_S), again.task_id) == (longer.result(), longer.task_id)
    engine.reset()


def test_a_container_that_lingers_for_nothing_makes_place_for_one_that_is_wanted(account: Account) -> None:
    account.here()
    pid = dok.remote(plan="h100-80gb", linger=True)(getpid)
    first = pid()
    first.result(PATIENCE_S)
    # DOK runs one task of a project at a time, and the first one would wait for most of a minute yet.
    assert pid.options(env={"OTHER": "1"})().result(PATIENCE_S) != first.result(PATIENCE_S)
    assert account.task(first).status == "done"
    engine.reset()


def test_a_container_that_could_not_be_made_to_linger_is_made_again(account: Account) -> None:
    account.here(DOKRUN_BUDGET_YEN_PER_DAY="0.01")
    pid = dok.remote(plan="h100-80gb", linger=True)(getpid)
    for _ in range(2):
        refused = pid()
        with pytest.raises(dok.BudgetExceeded) as caught:
            refused.result(PATIENCE_S)
        assert (caught.value.ran, caught.value.call_id) == ("no", refused.call_id)
    engine.reset()


def test_a_profiles_defaults_hold_for_calls_that_linger(account: Account) -> None:
    defaults = '[defaults]\nplan = "h100-80gb"\nlinger = true\nretries = 1\n'
    (account.folder / "config.toml").write_text(defaults)
    account.here()
    assert dok.remote(fail_once)(account.folder / "failed").result(PATIENCE_S) == "again"
    engine.reset()


def fail_once(path: Path) -> str:
    if not path.exists():
        path.touch()
        os._exit(3)
    return "again"


def getpid() -> int:
    return os.getpid()


def test_whoever_waits_for_a_sessions_end_is_told_once(account: Account, capfd: pytest.CaptureFixture[str]) -> None:
    account.here()
    session = dok.session(plan=PLAN, name="warm")
    session.submit(pow, 1, 1).result(PATIENCE_S)
    assert "waits" not in capfd.readouterr().err
    futures = [dok.remote(plan=PLAN)(getpid)() for _ in range(2)]
    session.close()
    for future in futures:
        future.result(PATIENCE_S)
    told = [line for line in capfd.readouterr().err.splitlines() if "waits until" in line]
    assert len(told) == 1
    assert told[0].startswith("dokrun: getpid waits until your session 'warm' ends")


def test_a_coroutine_may_use_a_session(account: Account) -> None:
    account.here()

    async def main() -> int:
        async with dok.session(plan=PLAN):
            return sum(await asyncio.gather(*(add(number, 1) for number in range(10))))

    assert asyncio.run(main()) == 55


def test_no_public_name_is_a_modules_too() -> None:
    # Once it is imported, the module would stand in place of what bears its name.
    folder = Path(dok.__file__).parent
    assert [name for name in dok.__all__ if (folder / f"{name}.py").exists() or (folder / name).exists()] == []
