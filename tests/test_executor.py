"""`dok.Executor`: calls that are submitted together are one task, and what takes an executor takes this one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import chores
import pytest
from account import Account
from maps import account, ran, tasks, told_by, values
from places import PATIENCE_S, failure, wait_for
from proxied import faulty
from storefaults import FaultyStore, StoreFault

import dokrun as dok
from dokrun import engine
from dokrun.engine.engine import Engine
from dokrun.engine.gatherer import Gatherer
from dokrun.engine.target import Target
from dokrun.function import RemoteFunction
from dokrun.options import Options

__all__ = ["account", "faulty"]

PLAN = "v100-32gb"
# A moment that no test waits for.
NEVER_S = 1e6


def double(number: int) -> int:
    return 2 * number


def who() -> str:
    return dok.current().call_id


def refuse(number: int) -> None:
    raise ValueError(number)


@pytest.fixture
def executor(account: Account) -> Iterator[dok.Executor]:
    del account  # it is there, and calls go through it
    with dok.Executor(plan=PLAN) as executor:
        yield executor


class Gathered:
    """What an executor does with calls, without the clock: a moment is over at once, or never."""

    def __init__(self, moment_s: float) -> None:
        self.gatherer = Gatherer(engine.get, None, moment_s=moment_s)

    def __call__(self, function: Any, *args: Any, **options: Any) -> dok.Future[Any]:
        remote = function if isinstance(function, RemoteFunction) else RemoteFunction(function, Options(plan=PLAN))
        target, own = remote.options(**options).__dokrun_call__(args, {})
        assert isinstance(target, Target)
        return self.gatherer.take(target, args, {}, own)

    def holds_back(self) -> bool:
        """Tell whether calls are there that are not sent as things are, though a moment has passed."""
        with self.gatherer._changed:
            return bool(self.gatherer._open) and self.gatherer._pause_s() is None


def task_ids(futures: list[dok.Future[Any]]) -> list[int]:
    """Tell which of them share a task: by numbers, counted from 0 in their order."""
    known: dict[str | None, int] = {}
    return [known.setdefault(future.task_id, len(known)) for future in futures]


# How calls become tasks.


def test_calls_that_are_submitted_together_are_one_task_whatever_they_call(
    account: Account, executor: dok.Executor
) -> None:
    futures: list[dok.Future[Any]] = [
        executor.submit(double, 21),
        executor.submit(chores.answer, account.starts, "remote"),
        executor.submit(pow, 2, 8),
        executor.submit(double, number=4),
        executor.submit(who),
    ]
    assert values(futures) == [42, "remote", 256, 8, futures[4].call_id]
    assert [future.name for future in futures] == ["double", "answer", "pow", "double", "who"]
    assert ran(account.starts) == Counter([futures[1].call_id])
    assert tasks(account) == 1


def test_what_is_not_waited_for_by_its_own_result_is_sent_after_a_moment(executor: dok.Executor) -> None:
    futures = [executor.submit(double, number) for number in range(3)]
    assert concurrent.futures.wait(futures, PATIENCE_S).not_done == set()
    assert task_ids(futures) == [0, 0, 0]


@pytest.mark.parametrize("wait", [dok.Future.result, dok.Future.exception, lambda future: future.handle])
def test_whoever_waits_for_a_call_has_it_sent_at_once(account: Account, wait: Any) -> None:
    submit = Gathered(NEVER_S)
    futures = [submit(double, number) for number in range(2)]
    wait(futures[1])
    assert values(futures) == [0, 2]
    assert tasks(account) == 1


def test_whoever_awaits_a_call_has_it_sent_at_once(account: Account) -> None:
    async def wait() -> Any:
        return await Gathered(NEVER_S)(double, 1)

    assert asyncio.run(asyncio.wait_for(wait(), PATIENCE_S)) == 2
    assert tasks(account) == 1


def test_what_comes_while_a_task_is_under_way_goes_together_when_that_has_its_results(account: Account) -> None:
    submit, gate = Gathered(0.0), account.folder / "gate"
    first = submit(chores.stay, account.starts, gate)
    wait_for(lambda: chores.started(account.starts) == 1)
    later = []
    for number in range(3):
        later.append(submit(double, number))
        assert submit.holds_back()
    gate.touch()
    assert values([first, *later]) == [42, 0, 2, 4]
    assert task_ids([first, *later]) == [0, 1, 1, 1]


def test_each_call_keeps_its_own_timeout_in_a_shared_task(executor: dok.Executor) -> None:
    short = dok.remote(timeout=0.5)(time.sleep)
    long, late, plain = executor.submit(short, 60), executor.submit(double, 1), executor.submit(time.sleep, 0)
    assert isinstance(failure(long), dok.CallTimeout)
    assert values([late, plain]) == [2, None]
    assert task_ids([long, late, plain]) == [0, 0, 0]


def test_calls_whose_tasks_would_differ_do_not_share_one(account: Account, executor: dok.Executor) -> None:
    set_apart = chores.answer.options(env={"APART": "1"})
    futures = [executor.submit(each, account.starts) for each in (chores.answer, set_apart, chores.answer)]
    assert values(futures) == [42] * 3
    assert task_ids(futures) == [0, 1, 0]


def test_without_a_bucket_as_many_share_a_task_as_its_command_can_hold(account: Account) -> None:
    account.here(DOKRUN_BUCKET="")
    submit = Gathered(NEVER_S)
    futures = [submit(len, os.urandom(20_000)) for _ in range(4)]
    assert values(futures) == [20_000] * 4, "a task that is full is sent though nobody waits"
    assert task_ids(futures) == [0, 0, 1, 1]


# What ends before its time.


def test_a_call_that_is_cancelled_before_it_was_sent_is_never_run(account: Account) -> None:
    submit = Gathered(NEVER_S)
    futures = [submit(chores.answer, account.starts, number) for number in range(3)]
    assert futures[1].cancel()
    assert values([futures[0], futures[2]]) == [0, 2]
    with pytest.raises(CancelledError):
        futures[1].result()
    assert ran(account.starts) == Counter([futures[0].call_id, futures[2].call_id])
    (task,) = account.client.tasks.iterate()
    wait_for(lambda: account.client.tasks.get(task.id).ended)
    assert account.client.tasks.get(task.id).status == "done", "the others go on to their end"


def test_where_all_were_cancelled_nothing_is_sent(account: Account) -> None:
    with dok.Executor(plan=PLAN) as executor:
        futures = [executor.submit(double, number) for number in range(3)]
        assert all(future.cancel() for future in futures)
    assert tasks(account) == 0


def test_whoever_attaches_hears_that_a_call_was_cancelled_before_it_was_sent(account: Account) -> None:
    submit = Gathered(NEVER_S)
    futures = [submit(chores.answer, account.starts, number) for number in range(3)]
    futures[1].cancel()
    handle = futures[0].handle
    assert values([futures[0], futures[2]]) == [0, 2]
    account.here("another machine")
    told = told_by(dok.attach(handle))
    assert [told[0], told[2]] == [0, 2]
    assert isinstance(told[1], CancelledError)


def test_shutdown_sends_what_was_gathered_waits_for_it_and_takes_no_more(account: Account) -> None:
    executor = dok.Executor(plan=PLAN)
    futures = [executor.submit(double, number) for number in range(3)]
    executor.shutdown()
    assert [future.done() for future in futures] == [True] * 3
    assert tasks(account) == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(double, 1)
    executor.shutdown()


def test_a_call_that_shutdown_overtakes_is_sent_all_the_same(account: Account) -> None:
    del account
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> Engine:
        begun.set()
        go_on.wait(PATIENCE_S)
        return engine.get()

    submit = Gathered(NEVER_S)
    submit.gatherer = Gatherer(slow, None)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(submit, double, 21)
        begun.wait(PATIENCE_S)
        submit.gatherer.close()
        go_on.set()
        assert future.result().result(PATIENCE_S) == 42


def test_shutdown_with_cancel_futures_lets_the_task_that_runs_come_to_its_end(account: Account) -> None:
    executor, gate = dok.Executor(plan=PLAN), account.folder / "gate"
    running = executor.submit(chores.stay, account.starts, gate)
    wait_for(running.running)
    gathered = executor.submit(double, 1)
    executor.shutdown(wait=False, cancel_futures=True)
    assert gathered.cancelled()
    assert not running.done()
    gate.touch()
    executor.shutdown()
    assert running.result() == 42
    assert tasks(account) == 1


def test_an_interrupt_in_a_with_block_waits_for_nothing_and_says_what_goes_on(
    account: Account, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)  # as where somebody types
    futures: list[dok.Future[Any]] = []

    def interrupted() -> None:
        with dok.Executor(plan=PLAN) as executor:
            futures.append(executor.submit(chores.stay, account.starts, account.folder / "never"))
            wait_for(futures[0].running)
            futures.append(executor.submit(double, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert futures[1].cancelled()
    assert "dokrun: 1 call of an executor goes on" in capsys.readouterr().err
    futures[0].cancel()


def test_an_executor_that_nobody_has_any_more_sends_what_it_was_given(account: Account) -> None:
    gathering = {thread for thread in threading.enumerate() if thread.name == "dokrun-gather"}
    executor = dok.Executor(plan=PLAN)
    future, gone = executor.submit(double, 21), weakref.ref(executor)
    (mine,) = {thread for thread in threading.enumerate() if thread.name == "dokrun-gather"} - gathering
    del executor
    gc.collect()
    assert gone() is None
    assert concurrent.futures.wait([future], PATIENCE_S).done == {future}
    mine.join(PATIENCE_S)
    assert not mine.is_alive()
    assert tasks(account) == 1


def test_an_object_is_let_go_when_its_call_was_sent(executor: dok.Executor) -> None:
    class Owner:
        def method(self) -> int:
            return 42

    owner = Owner()
    gone = weakref.ref(owner)
    future = executor.submit(owner.method)
    del owner
    assert future.result(PATIENCE_S) == 42
    gc.collect()
    assert gone() is None


LEAVE = """
import dokrun as dok

def double(number):
    return 2 * number

executor = dok.Executor(plan="v100-32gb")
for number in range(3):
    executor.submit(double, number)
"""


FORK = """
import os
import dokrun as dok

def double(number):
    return 2 * number

with dok.Executor(plan="v100-32gb") as executor:
    mine = executor.submit(double, 1)
    child = os.fork()
    if child == 0:
        with executor:
            print("child", executor.submit(double, 21).result(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("parent", mine.result())
"""


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script on the built-in profile."""
    (folder / "script.py").write_text(script)
    environ = {"PATH": "", "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "DOKRUN_PROFILE": "local"}
    command = [sys.executable, "-W", "ignore", str(folder / "script.py")]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_script_that_ends_without_shutdown_says_what_it_has_not_sent(tmp_path: Path) -> None:
    done = run(tmp_path, LEAVE)
    assert (done.returncode, done.stderr) == (0, "dokrun: cancelled what had not finished: double\n")


def test_a_fork_has_calls_of_its_own_and_leaves_the_others_to_its_parent(tmp_path: Path) -> None:
    done = run(tmp_path, FORK)
    assert (done.returncode, done.stdout) == (0, "child 42\nparent 2\n"), done.stderr


# What goes wrong.


def test_a_call_raises_its_own_exception_and_no_other_ones(executor: dok.Executor) -> None:
    good, bad = executor.submit(double, 1), executor.submit(refuse, 7)
    with pytest.raises(ValueError, match="7"):
        bad.result(PATIENCE_S)
    assert good.result() == 2


@pytest.mark.parametrize(
    ("option", "wants", "has"),
    [
        ("plan", "h100-80gb", PLAN),
        ("image", "mine:1", "theirs:1"),
        ("profile", "mine", "local"),
        ("profile", "m", None),
    ],
)
def test_a_function_that_wants_another_place_is_refused(option: str, wants: str, has: str | None) -> None:
    given: Any = {"plan": PLAN, option: has}
    own: Any = {option: wants}
    with dok.Executor(**given) as executor, pytest.raises(dok.OptionError) as refused:
        executor.submit(dok.remote(**own)(double), 1)
    assert str(refused.value).startswith(f"double has {option}={wants!r}, and the executor has ")
    assert f"submit double.options({option}=None)" in str(refused.value)


def test_what_is_wrong_is_refused_where_it_is_written(executor: dok.Executor) -> None:
    for number in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            dok.Executor(number)
    with pytest.raises(dok.OptionError, match="no option 'pln'; did you mean 'plan'"):
        dok.Executor(pln=PLAN)  # type: ignore[call-arg]
    with pytest.raises(dok.OptionError, match="number"):
        executor.submit(double)  # type: ignore[call-overload]
    with pytest.raises(dok.NotSerializable, match="argument number"):
        executor.submit(double, threading.Lock())  # type: ignore[call-overload]
    with dok.Executor() as other, pytest.raises(dok.OptionError, match="no plan"):
        other.submit(double, 1)


def test_calls_that_share_what_the_bucket_did_not_take_fail_alike(account: Account, faulty: FaultyStore) -> None:
    submit = Gathered(NEVER_S)
    first = submit(double, 1)
    faulty.add(StoreFault("status", method="PUT", path="*/blobs/*", status=403, occurrence=None))
    lost = [submit(len, bytes(20 << 20)), first]
    assert faulty.injected
    faulty.clear()
    assert [failure(future).ran for future in lost] == ["no", "no"]
    assert all(isinstance(failure(future), dok.SubmitFailed) for future in lost)
    assert [failure(future).call_id for future in lost] == [future.call_id for future in lost]
    assert submit(double, 2).result(PATIENCE_S) == 4, "the next ones go in a task of their own"
    assert tasks(account) == 1


def test_what_cannot_be_made_a_job_is_told_by_the_futures(account: Account) -> None:
    futures = [Gathered(NEVER_S)(double, 1, secrets=["NOT_SET_ANYWHERE"])]
    assert "NOT_SET_ANYWHERE" in str(failure(futures[0]))
    assert failure(futures[0]).ran == "no"
    assert tasks(account) == 0


# What takes an executor.


def test_map_yields_in_order_submits_at_once_and_takes_several_iterables(
    account: Account, executor: dok.Executor
) -> None:
    pairs = executor.map(divmod, [7, 8, 9], [2, 3, 4, 5], chunksize=2)
    answers = executor.map(chores.answer, [account.starts] * 2, [1, 2])
    assert list(pairs) == [(3, 1), (2, 2), (2, 1)]
    assert list(answers) == [1, 2]
    assert tasks(account) == 1


def test_a_result_of_map_that_is_not_there_in_time_cancels_the_others(account: Account) -> None:
    executor = dok.Executor(plan=PLAN)
    never = account.folder / "never"
    results = executor.map(chores.stay, [account.starts] * 3, [never] * 3, timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    executor.shutdown()
    assert list(results) == []


def test_an_exception_in_map_comes_in_its_turn_and_ends_it(executor: dok.Executor) -> None:
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert [next(results), next(results)] == [(0, 1), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_where_an_item_of_map_cannot_be_sent_none_is(account: Account) -> None:
    with dok.Executor(plan=PLAN) as executor, pytest.raises(dok.NotSerializable):
        executor.map(id, [1, 2, threading.Lock()])
    assert tasks(account) == 0


def test_an_event_loop_runs_functions_in_it(executor: dok.Executor) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        several = [loop.run_in_executor(executor, double, number) for number in range(3)]
        return await asyncio.gather(*several, asyncio.wrap_future(executor.submit(who)))

    *doubled, _ = asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert doubled == [0, 2, 4]


def test_as_completed_tells_each_when_it_is_done(account: Account) -> None:
    gate = account.folder / "gate"
    with dok.Executor(2, plan=PLAN) as executor:
        slow, quick = executor.submit(chores.stay, account.starts, gate), executor.submit(double, 1)
        coming = concurrent.futures.as_completed([slow, quick], PATIENCE_S)
        assert next(coming) is quick
        gate.touch()
        assert next(coming) is slow


def test_what_is_waited_for_at_the_end_of_the_block_is_shown(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    with dok.Executor(plan=PLAN) as executor:
        futures = [executor.submit(time.sleep, 1.2), executor.submit(refuse, 1)]
    assert tasks(account) == 1
    assert repr(executor) == "<dokrun.Executor plan=v100-32gb unfinished=0>"
    assert [future.done() for future in futures] == [True] * 2
    assert "dokrun: executor: done in" in capsys.readouterr().err
