"""Each way that a call can fail once it was sent, and what the user is told."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from conftest import point_at
from waiting import wait_for

import dokrun as dok
from dokrun.api import Client
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.objects import ObjectStore
from dokrun.shim import envelope

pytestmark = pytest.mark.usefixtures("account")

remote = dok.remote(plan="v100-32gb")


class Refusal(Exception):
    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason, code)
        self.code = code


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Fragile:
    """Can be pickled anywhere, and unpickled only in the container."""

    def __reduce__(self) -> Any:
        return _rebuild, (os.environ.get("SAKURA_TASK_ID"),)


def _rebuild(task_id: str | None) -> Fragile:
    if "SAKURA_TASK_ID" not in os.environ:
        raise RuntimeError("only the container can open this")
    return Fragile()


@remote
def raise_it(error: BaseException) -> None:
    raise error


@remote
def raise_unpicklable() -> None:
    raise Unpicklable


@remote
def raise_with_cause() -> None:
    try:
        {}["missing"]  # type: ignore[index]
    except KeyError as error:
        raise Refusal("no such key", 7) from error


@remote
def exit_with(status: Any) -> None:
    sys.exit(status)


@remote
def exit_at_once(status: int) -> None:
    os._exit(status)


@remote
def kill_myself(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


@remote
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@remote
def touch_and_sleep(path: Path) -> None:
    path.touch()
    time.sleep(600)


@remote
def return_lock() -> Any:
    return {"model": threading.Lock()}


@remote
def return_fragile() -> Fragile:
    return Fragile()


def failure(future: dok.Future[Any]) -> BaseException:
    error = future.exception(timeout=60)
    assert error is not None
    return error


def test_an_exception_comes_back_as_itself_with_the_remote_traceback_as_its_cause() -> None:
    error = failure(raise_with_cause())
    assert type(error) is Refusal
    assert error.code == 7
    shown = "".join(traceback.format_exception(error))
    assert "in raise_with_cause" in shown
    assert "KeyError: 'missing'" in shown
    assert "worker.py" not in shown, "the shim's own frames are no concern of the user's"


def test_a_remote_traceback_names_the_file_and_the_line_of_a_function_that_went_by_value() -> None:
    @remote
    def divide(number: float) -> float:
        return 1 / number

    shown = "".join(traceback.format_exception(failure(divide(0))))
    line = divide.__dokrun_function__.__code__.co_firstlineno + 2
    assert f'File "{__file__}", line {line}, in divide' in shown


def test_an_exception_that_cannot_be_pickled_comes_back_as_text() -> None:
    error = failure(raise_unpicklable())
    assert isinstance(error, dok.RemoteError)
    assert error.ran == "yes"
    assert error.type_name == "test_failures.Unpicklable"
    assert "in raise_unpicklable" in error.remote_traceback
    assert "holds a lock" in str(error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()], ids=lambda error: type(error).__name__)
def test_an_exception_that_would_end_this_process_comes_back_as_text(error: BaseException) -> None:
    assert isinstance(failure(raise_it(error)), dok.RemoteError)


@pytest.mark.parametrize(("given", "status"), [(3, 3), (None, 0), ("because", 1)])
def test_sys_exit_is_told_as_an_exit(given: Any, status: int) -> None:
    error = failure(exit_with(given))
    assert isinstance(error, dok.WorkerDied)
    assert (error.ran, error.exit_code, error.signal) == ("yes", status, None)
    assert f"sys.exit({given!r})" in str(error)


@pytest.mark.parametrize("status", [0, 5])
def test_a_worker_that_exits_at_once_is_told_with_its_status(status: int) -> None:
    error = failure(exit_at_once(status))
    assert isinstance(error, dok.WorkerDied)
    assert (error.ran, error.exit_code, error.signal) == ("yes", status, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_a_signal_kills_is_told_with_its_name(number: signal.Signals) -> None:
    error = failure(kill_myself(int(number)))
    assert isinstance(error, dok.WorkerDied)
    assert (error.ran, error.exit_code, error.signal) == ("yes", None, number)
    assert number.name in str(error)


def test_a_call_that_takes_too_long_is_killed() -> None:
    error = failure(sleep.options(timeout=8)(600))  # long enough for this module's imports, which come before
    assert isinstance(error, dok.CallTimeout)
    assert error.ran == "yes"
    assert "8 s" in str(error)


def test_a_result_that_cannot_be_pickled_is_told_with_its_type() -> None:
    error = failure(return_lock())
    assert isinstance(error, dok.ResultNotSerializable)
    assert error.ran == "yes"
    assert "returned dict" in str(error)
    assert "cannot pickle '_thread.lock' object" in str(error)


def test_a_result_that_cannot_be_opened_is_kept_and_named(tmp_path: Path) -> None:
    error = failure(return_fragile())
    assert isinstance(error, dok.ResultUnreadable)
    assert error.ran == "yes"
    kept = tmp_path / "state" / "results" / error.call_id
    assert str(kept) in str(error)
    header, segments = envelope.unpack(kept.read_bytes())
    assert (header["kind"], header["call"]) == ("value", 0)
    assert b"_rebuild" in bytes(segments[header["value"][0]].data or b""), "the value is whole"


def test_a_failed_call_is_an_error_that_survives_pickling() -> None:
    error = failure(exit_at_once(4))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_wrong_credentials_fail_the_call_with_advice(account: pytest.MonkeyPatch) -> None:
    account.setenv("DOKRUN_ACCESS_TOKEN_SECRET", "wrong")
    error = failure(sleep(0))
    assert isinstance(error, dok.SubmitFailed)
    assert isinstance(error.__cause__, dok.Unauthorized)
    assert "check the API key" in str(error)


def test_a_bucket_that_is_not_there_fails_the_call_before_anything_is_submitted(account: pytest.MonkeyPatch) -> None:
    account.setenv("DOKRUN_BUCKET", "no-such-bucket")
    error = failure(sleep(0))
    assert isinstance(error, dok.SubmitFailed)
    assert error.ran == "no"
    assert "NoSuchBucket" in str(error)


def test_cancelling_a_running_call_ends_its_task(client: Client) -> None:
    future = sleep(600)
    task_id = wait_until_running(future)
    assert future.running()
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert wait_until_ended(task_id, client) == "canceled"


def test_cancelling_a_call_that_waits_in_line_means_it_never_runs(client: Client) -> None:
    first, second = sleep(600), sleep(600)
    wait_until_running(first)
    second.cancel()
    done, _ = concurrent.futures.wait([second], timeout=60)
    assert done == {second}, "a cancelled future reaches its waiters"
    first.cancel()
    tasks = client.tasks.list(page_size=2).results
    assert not [task for task in tasks if task.id == second.task_id and task.containers[0].start_at]


def test_a_cancelled_future_stays_so_and_a_finished_one_cannot_be_cancelled() -> None:
    done = sleep(0)
    done.result(timeout=60)
    assert not done.cancel()
    future = sleep(600)
    assert future.cancel()
    assert future.cancel()


def test_a_task_that_somebody_cancels_fails_the_call(client: Client, tmp_path: Path) -> None:
    started = tmp_path / "started"
    future = touch_and_sleep(started)
    wait_for(started.exists)
    client.tasks.cancel(str(future.task_id))
    error = failure(future)
    assert isinstance(error, dok.TaskFailed)
    assert (error.status, error.ran) == ("canceled", "yes"), "its log shows that it was started"


def test_a_task_that_is_cancelled_in_line_has_not_run(client: Client) -> None:
    first, second = sleep(600), sleep(600)
    wait_until_running(first)
    wait_for(lambda: second.task_id is not None)
    client.tasks.cancel(str(second.task_id))
    error = failure(second)
    first.cancel()
    assert isinstance(error, dok.TaskFailed)
    assert (error.status, error.ran) == ("canceled", "no")


def test_a_task_that_somebody_deletes_fails_the_call(
    account: pytest.MonkeyPatch, store: ObjectStore, tmp_path: Path
) -> None:
    with Emulator(behaviour=Behaviour(slots=2)) as own:
        point_at(account, own, store, tmp_path)
        with Client(own.token, own.secret, base_url=own.api_url) as client:
            future = sleep(600)
            task_id = wait_until_running(future)
            client.tasks.cancel(task_id)
            try:
                client.tasks.delete(task_id)
            except dok.Forbidden:
                wait_until_ended(task_id, client)
                client.tasks.delete(task_id)
        assert isinstance(failure(future), dok.TaskFailed)


def wait_until_running(future: dok.Future[Any]) -> str:
    wait_for(lambda: future.status == "running")
    return str(future.task_id)


def wait_until_ended(task_id: str, client: Client) -> str:
    wait_for(lambda: client.tasks.get(task_id).ended)
    return client.tasks.get(task_id).status


class Frozen(Exception):
    """Refuses every attribute, a cause too."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


@pytest.mark.parametrize(
    "error", [StopIteration(3), StopAsyncIteration(), Frozen("no")], ids=lambda e: type(e).__name__
)
def test_an_exception_that_cannot_be_raised_here_comes_back_as_text(error: Exception) -> None:
    failed = failure(raise_it(error))
    assert isinstance(failed, dok.RemoteError)
    assert type(error).__name__ in failed.type_name


def test_awaiting_a_function_that_raised_a_stop_iteration_ends() -> None:
    async def wait() -> None:
        with pytest.raises(dok.RemoteError):
            await raise_it(StopIteration(3))

    asyncio.run(wait())


class DiesOnArrival:
    def __reduce__(self) -> Any:
        return os._exit, (6,)


class SleepsOnArrival:
    def __reduce__(self) -> Any:
        return time.sleep, (600,)


def test_a_process_that_dies_before_the_function_starts_has_not_run_it() -> None:
    error = failure(raise_it(DiesOnArrival()))  # type: ignore[arg-type]
    assert isinstance(error, dok.WorkerDied)
    assert (error.ran, error.exit_code) == ("no", 6)


def test_a_call_whose_arguments_take_too_long_to_unpickle_has_not_run() -> None:
    error = failure(raise_it.options(timeout=0.5)(SleepsOnArrival()))  # type: ignore[arg-type]
    assert isinstance(error, dok.CallTimeout)
    assert error.ran == "no"
