"""What a task writes: it comes whole and once, or is done without; whatever becomes of it, the outcome is given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import account as accounts
import chores
import httpx
import pytest
from account import Account, account
from clocks import ManualClock
from emulated import end_of, request
from places import failure, wait_for
from severed import Severed
from sites import Site, site
from test_shim import Container, payload

import dokrun as dok
from dokrun import keys
from dokrun.api import Client
from dokrun.api.transport import Backoff, NetworkTransport
from dokrun.emulator import Fault
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.reports import Expected
from dokrun.engine.tasklog import Log, read_log
from dokrun.shim import protocol

__all__ = ["account", "site"]

PATIENCE_S = 60
ADDRESS, BYTES = "/tasks/*/download/output/", "/downloads/output/*"
STREAM = "/tasks/*/containers/0/stream/"


class Detour(httpx.BaseTransport):
    """The network, on which the first request for a log's bytes meets a trouble."""

    def __init__(self, trouble: Callable[[httpx.Request], object]) -> None:
        self._network = NetworkTransport()
        self._trouble = trouble
        self.happened = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/downloads/output/") and not self.happened:
            self.happened += 1
            self._trouble(request)
        return self._network.handle_request(request)

    def close(self) -> None:
        self._network.close()


def read(account: Account, future: dok.Future[Any], transport: httpx.BaseTransport | None = None) -> Log:
    """Read a call's log as the engine does, by a client that is patient for a third of a second."""
    key = (account.service.token, account.service.secret)
    backoff = Backoff(attempts=2, sleep=lambda _: None)
    expected = Expected(future.handle.rpartition("-")[2].partition(".")[0], 1, future.name, range(1))
    with Client(*key, base_url=account.service.api_url, timeout_s=0.3, backoff=backoff, transport=transport) as client:
        return read_log(client, expected, account.task(future), lambda _: None)


def said(account: Account, text: str = "last words") -> dok.Future[Any]:
    future = chores.answer(account.starts, said=text)
    assert future.result(timeout=PATIENCE_S) == 42
    return future


# --- the log of a call that has failed


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("hang", "GET", BYTES), id="cell_log_t0"),
        pytest.param(Fault("hang", "GET", BYTES, phase="after"), id="cell_log_t1"),
        pytest.param(Fault("status", "GET", BYTES, status=503), id="cell_log_5x"),
        pytest.param(Fault("status", "GET", ADDRESS, status=429), id="cell_log_5x-429"),
        pytest.param(Fault("cut", "GET", BYTES, phase="body", at_byte=10), id="cell_log_mb"),
        pytest.param(Fault("garbage", "GET", ADDRESS), id="cell_log_mb-address"),
        pytest.param(Fault("hang", "GET", BYTES, phase="body", at_byte=10), id="cell_log_sb"),
        pytest.param(Fault("status", "GET", ADDRESS, status=401), id="cell_log_ce-once"),
    ],
)
def test_a_log_that_breaks_is_read_again_from_its_beginning(account: Account, fault: Fault) -> None:
    future = said(account)
    account.faults(fault)
    assert read(account, future) == Log(("last words",), begun=(range(1),))
    assert account.injected() == 1


def test_cell_log_rf_a_refused_connection_is_tried_again(account: Account) -> None:
    def refuse(request: httpx.Request) -> None:
        request.url = request.url.copy_with(port=9)  # where nobody listens

    future, detour = said(account), Detour(refuse)
    assert read(account, future, detour) == Log(("last words",), begun=(range(1),))
    assert detour.happened == 1


def test_cell_log_ue_an_address_that_has_expired_is_asked_for_again(store: ObjectStore, tmp_path: Path) -> None:
    clock = ManualClock()
    with accounts.opened(store.url, store.bucket, tmp_path, clock=clock) as own:
        future, detour = said(own), Detour(lambda _: clock.pass_time(16 * 60))  # good for fifteen minutes
        assert read(own, future, detour) == Log(("last words",), begun=(range(1),))
        assert detour.happened == 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("status", "GET", ADDRESS, None, status=401), id="cell_log_ce"),
        pytest.param(Fault("status", "GET", BYTES, None, status=403), id="cell_log_ue-for ever"),
        pytest.param(Fault("cut", "GET", BYTES, None, phase="body", at_byte=10), id="cell_log_mb-for ever"),
        pytest.param(Fault("status", "GET", ADDRESS, None, status=404), id="no log"),
    ],
)
def test_a_log_that_never_comes_costs_a_warning_and_no_outcome(
    account: Account, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    account.faults(fault)
    error = failure(chores.fail(account.starts, "last words"))
    assert account.injected() >= 4
    assert isinstance(error, dok.WorkerDied)
    assert (error.ran, error.exit_code, error.log) == ("yes", 3, ())
    assert f"the log of task {error.task_id} cannot be had" in caplog.text
    assert chores.started(account.starts) == 1


def test_a_log_that_never_comes_leaves_what_the_claim_says(account: Account) -> None:
    account.faults(Fault("status", "GET", ADDRESS, None, status=500))
    error = failure(chores.vanish(account.starts))
    assert account.injected() >= 4
    assert isinstance(error, dok.TaskFailed)
    assert error.ran == "maybe"
    assert chores.started(account.starts) == 1


def test_cell_log_df_a_log_that_takes_no_more_keeps_no_function_from_running(tmp_path: Path, site: Site) -> None:
    container = Container(tmp_path, site)
    container.give(payload(lambda: 42))
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, str(container.pyz), protocol.FETCHED, json.dumps(container.addresses)]
        done = subprocess.run(command, env=container.environment, stdout=full, stderr=full, timeout=60, check=False)
        with pytest.raises(OSError, match="No space left"):
            full.write(b"x" * 100_000)
    assert done.returncode == 0
    assert container.value() == 42


def test_cell_log_vm_what_another_version_says_is_not_taken_for_what_this_one_does(account: Account) -> None:
    job_id = keys.new_id()
    lines = [
        f"[dokrun] started {protocol.call_id(job_id, 0)} in attempt 1",
        "[dokrun] started calls 0 to 0",
        "[dokrun] started calls 0 to 0 in attempt 1 of 3",
        "[dokrun] began calls 0 to 0 in attempt 1",
        f"[dokrun] cccccccccccccccc saved checkpoint 0 md5:{'a' * 32} 10",
        f"[dokrun] cccccccccccccccc results 0 md5:{'a' * 32} 10",
        "its own words",
    ]
    task = account.client.tasks.create(request(f"print({chr(10).join(lines)!r})"))
    log = read_log(account.client, Expected(job_id, 1, "other", range(1)), end_of(account.client, task), lambda _: None)
    assert log == Log(("its own words",))


def test_cell_log_du_lines_that_come_twice_say_nothing_more(account: Account) -> None:
    job_id = keys.new_id()
    lines = [
        protocol.WORD.format("c" * 16),
        protocol.STARTED.format(0, 0, 1),
        protocol.RESULTS.format("c" * 16, 3, "b" * 64, 20),
        protocol.CHECKPOINT.format("c" * 16, 1, "a" * 64, 10),
        "its own words",
    ]
    task = account.client.tasks.create(request(f"print({chr(10).join([*lines, *lines])!r})"))
    log = read_log(account.client, Expected(job_id, 1, "other", range(1)), end_of(account.client, task), lambda _: None)
    assert log.last == ("its own words", "its own words")
    assert [log.ran(number) for number in range(2)] == ["yes", None]
    assert log.checkpoint == (1, 1, "a" * 64, 10)
    assert set(log.results) == {(3, "b" * 64, 20)}


def test_a_call_that_was_begun_alone_has_run_and_of_several_nobody_knows_which(account: Account) -> None:
    lines = [
        protocol.STARTED.format(*told) for told in ((8, 9, 2), (5, 3, 2), (0, 0, 2), (3, 6, 2), (4, 4, 2), (1, 1, 1))
    ]
    endless = protocol.STARTED.format(20, 10**15 - 1, 2)
    task = account.client.tasks.create(request(f"print({chr(10).join([*lines, endless])!r})"))
    expected = Expected(keys.new_id(), 2, "other", range(30))
    log = read_log(account.client, expected, end_of(account.client, task), lambda _: None)
    told = {number: log.ran(number) for number in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 19, 20, 10**14)}
    several = dict.fromkeys((3, 5, 6, 8, 9, 20, 10**14), "maybe")
    assert told == {**dict.fromkeys(told), **several, 0: "yes", 4: "yes"}


@pytest.mark.parametrize(
    "line",
    [
        "[dokrun] cccccccccccccccc saved checkpoint a b c",
        "[dokrun] cccccccccccccccc saved checkpoint 0 abc 10",
        f"[dokrun] cccccccccccccccc saved checkpoint 7 {'a' * 64} 10",
        f"[dokrun] cccccccccccccccc saved checkpoint 0 {'a' * 64} {'9' * 5000}",
        f"[dokrun] cccccccccccccccc saved checkpoint 0 {'a' * 64} ff",
        f"[dokrun] cccccccccccccccc saved checkpoint 0 {'a' * 64} \N{ARABIC-INDIC DIGIT ONE}",
        "[dokrun] started calls 0 to x in attempt 1",
        "[dokrun] started calls 0 to -1 in attempt 1",
        f"[dokrun] started calls 0 to {'9' * 5000} in attempt 1",
        "[dokrun] cccccccccccccccc results 0 abc 10",
        f"[dokrun] cccccccccccccccc results {'9' * 5000} {'a' * 64} 10",
        f"[dokrun] cccccccccccccccc results 0 {'a' * 64} {'9' * 5000}",
        "[dokrun] ",
    ],
)
def test_a_function_that_prints_what_is_nearly_our_own_changes_nothing(account: Account, line: str) -> None:
    word = protocol.WORD.format("c" * 16)
    error = failure(chores.vanish(account.starts, f"{word}\n{line}\nlast words"))
    assert isinstance(error, dok.TaskFailed)
    assert (error.ran, error.log) == ("yes", ("last words",))


# --- while it grows


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("reset", "POST", STREAM, None), id="cell_log_t0-live"),
        pytest.param(Fault("reset", "POST", STREAM, None, phase="after"), id="cell_log_t1-live"),
        pytest.param(Fault("status", "POST", STREAM, None, status=503), id="cell_log_5x-live"),
        pytest.param(Fault("garbage", "POST", STREAM, None), id="cell_log_mb-live"),
        pytest.param(Fault("drip", "POST", STREAM, None, phase="body", every_s=0.001), id="cell_log_sb-live"),
        pytest.param(Fault("status", "POST", STREAM, None, status=401), id="cell_log_ce-live"),
        pytest.param(Fault("status", "GET", "/tasks/*-*/", status=503), id="cell_log_5x-look"),
        pytest.param(Fault("status", "GET", BYTES, status=403), id="cell_log_ue-live"),
    ],
)
def test_a_log_comes_whole_and_once_though_its_stream_cannot_be_had(account: Account, fault: Fault) -> None:
    account.faults(fault)
    future = chores.talk(account.starts, account.folder / "gate")
    wait_for(lambda: chores.started(account.starts))
    gate = account.folder / "gate"
    if fault.path != STREAM:
        gate.touch()
        future.result(timeout=PATIENCE_S)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: "".join(future.logs()))
        wait_for(account.injected)
        gate.touch()
        told = reading.result(timeout=PATIENCE_S)
    assert told.splitlines() == ["one", "two"]
    assert future.result(timeout=PATIENCE_S) == 42


def test_cell_log_du_what_a_new_connection_brings_again_is_told_once(account: Account) -> None:
    with Severed(account.service.api_url, "/streams/") as severed:
        account.here(DOKRUN_API_URL=severed.api_url)
        future = chores.talk(account.starts, account.folder / "gate")
        pieces = future.logs()
        told = ""
        while "one\n" not in told:
            told += next(pieces)
        severed.cut()
        (account.folder / "gate").touch()
        told += "".join(pieces)
        assert severed.cuts >= 1
    assert told.splitlines() == ["one", "two"]
    assert chores.started(account.starts) == 1
