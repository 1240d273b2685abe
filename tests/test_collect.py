"""From a task's end to its value: what DOK collected is waited for, fetched, opened, and never lost."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import account as accounts
import chores
import httpx
import msgspec
import pytest
from account import Account, Files, account
from clocks import ManualClock
from places import Place, failure, kill, line, place, wait_for

import dokrun as dok
from dokrun.api import Client
from dokrun.api.transport import Backoff, NetworkTransport
from dokrun.emulator import Behaviour, Fault
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.collect import collect
from dokrun.engine.reports import Expected, Outcome
from dokrun.shim import envelope

__all__ = ["account", "place"]

PATIENCE_S = 60


class Collected:
    """Collects what a call has left, by a client that is patient for a third of a second and repeats at once."""

    def __init__(self, account: Account, transport: httpx.BaseTransport | None = None) -> None:
        self.future = chores.answer(account.starts, os.urandom(3 << 20))
        self.value = self.future.result(timeout=PATIENCE_S)
        self.account = account
        self.pauses = 0
        self.at_pause: Callable[[int], object] = lambda _: None
        key = (account.service.token, account.service.secret)
        backoff = Backoff(attempts=3, sleep=lambda _: None)
        self._client = Client(
            *key, base_url=account.service.api_url, timeout_s=0.3, backoff=backoff, transport=transport
        )

    def __call__(self, *, told: bool = True) -> Outcome:
        """Collect it; where it is not `told`, the task does not say that it has an artifact."""
        task = self.account.task(self.future)
        folder = self.account.folder / "collected"
        folder.mkdir()
        expected = Expected(self.future.handle.rpartition("-")[2].partition(".")[0], 1, "answer", range(1))
        with self._client as client:
            _, told_of = collect(
                client,
                expected,
                task if told else msgspec.structs.replace(task, artifact=None),
                folder,
                keep_in=self.account.folder / "kept",
                sleep=self._sleep,
            )
            ((_, outcome),) = told_of
        return outcome

    def _sleep(self, _seconds: float) -> None:
        self.pauses += 1
        self.at_pause(self.pauses)


# --- what DOK collects


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("hang", "GET", "/artifacts/", None), id="cell_collect_t0"),
        pytest.param(Fault("hang", "GET", "/artifacts/", None, phase="after"), id="cell_collect_t1"),
        pytest.param(Fault("status", "GET", "/artifacts/", None, status=503), id="cell_collect_5x"),
        pytest.param(Fault("status", "GET", "/artifacts/", None, status=429), id="cell_collect_5x-429"),
        pytest.param(Fault("hang", "GET", "/artifacts/", None, phase="body", at_byte=20), id="cell_collect_sb"),
        pytest.param(Fault("garbage", "GET", "/artifacts/", None), id="garbage"),
    ],
)
def test_a_list_that_cannot_be_had_is_waited_for_with_a_warning(
    account: Account, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    collected = Collected(account)
    (rule,) = account.faults(fault)
    collected.at_pause = lambda number: number == 3 and account.service.faults.remove(rule)
    assert collected(told=False).value == collected.value
    assert account.injected(rule) >= 2
    assert [record.getMessage() for record in caplog.records if "will ask again" in record.getMessage()]
    assert chores.started(account.starts) == 1


def test_a_list_that_can_never_be_had_leaves_the_result_where_it_is(account: Account) -> None:
    collected = Collected(account)
    account.faults(Fault("status", "GET", "/artifacts/", None, status=503))
    with pytest.raises(dok.ResultNotFetched, match=r"the result of answer was made, but GET /.*artifacts/: 503"):
        collected(told=False)
    assert account.injected() >= 10
    account.service.faults.clear()
    assert dok.attach(collected.future.handle).result(timeout=PATIENCE_S) == collected.value


def test_cell_collect_mb_what_was_collected_broken_is_never_opened_and_the_call_has_run(account: Account) -> None:
    future = chores.answer(account.starts)
    assert future.result(timeout=PATIENCE_S) == 42
    archive = account.archive(future.task_id)
    archive.write_bytes(archive.read_bytes()[:-20])
    account.here("another machine")
    error = failure(dok.attach(future.handle))
    assert isinstance(error, dok.TaskFailed)
    assert "its artifact cannot be read" in str(error)
    assert error.ran == "yes"
    assert chores.started(account.starts) == 1


def test_cell_collect_df_what_dok_cannot_collect_has_run(store: ObjectStore, tmp_path: Path) -> None:
    with accounts.opened(store.url, store.bucket, tmp_path, behaviour=Behaviour(largest_artifact_bytes=10_000)) as own:
        future = chores.leave(own.starts, 20_000)
        error = failure(future)
        assert "the artifact cannot be collected" in str(own.task(future).error_message)
        assert own.task(future).artifact is None
        assert isinstance(error, dok.TaskFailed)
        assert (error.ran, error.status) == ("yes", "error")
        assert "the artifact cannot be collected" in str(error)
        assert chores.started(own.starts) == 1


def test_cell_collect_oo_a_container_that_is_killed_with_all_in_it_has_run(account: Account) -> None:
    future = chores.vanish(account.starts, "last words")
    error = failure(future)
    assert account.task(future).containers[0].exit_code == 137
    assert isinstance(error, dok.TaskFailed)
    assert error.ran == "yes"
    assert "exit status 137" in str(error)
    assert "  | last words" in str(error)
    assert chores.started(account.starts) == 1


def test_cell_collect_tl_a_container_that_runs_into_its_limit_has_run(store: ObjectStore, tmp_path: Path) -> None:
    clock = ManualClock()
    with accounts.opened(store.url, store.bucket, tmp_path, clock=clock) as own:
        future = chores.stay(own.starts, tmp_path / "gate")
        wait_for(lambda: chores.started(own.starts))
        clock.pass_time(own.task(future).execution_time_limit_sec or 0)
        error = failure(future)
        assert own.task(future).status == "aborted"
        assert isinstance(error, dok.TaskFailed)
        assert (error.ran, error.status) == ("yes", "aborted")
        assert chores.started(own.starts) == 1


def test_cell_collect_cx_a_task_that_somebody_cancels_before_it_is_collected_has_run(account: Account) -> None:
    future = chores.stay(account.starts, account.folder / "gate")
    wait_for(lambda: chores.started(account.starts))
    account.client.tasks.cancel(str(future.task_id))
    error = failure(future)
    assert account.task(future).canceled_at is not None
    assert isinstance(error, dok.TaskFailed)
    assert (error.ran, error.status) == ("yes", "canceled")


# --- fetching it


class Detour(httpx.BaseTransport):
    """The network, on which the first requests for an artifact's bytes go through `trouble` first."""

    def __init__(self, trouble: Callable[[httpx.Request], object], times: int = 1) -> None:
        self._network = NetworkTransport()
        self._trouble, self._times = trouble, times
        self.happened = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/downloads/") and self.happened < self._times:
            self.happened += 1
            self._trouble(request)
        return self._network.handle_request(request)

    def close(self) -> None:
        self._network.close()


def refuse(request: httpx.Request) -> None:
    request.url = request.url.copy_with(port=9)  # where nobody listens


def test_cell_download_rf_a_refused_connection_is_tried_again(account: Account) -> None:
    detour = Detour(refuse, times=2)
    collected = Collected(account, detour)
    assert collected().value == collected.value
    assert detour.happened == 2


BYTES = "/downloads/artifacts/*"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("hang", "GET", BYTES), id="cell_download_t0"),
        pytest.param(Fault("hang", "GET", BYTES, phase="after"), id="cell_download_t1"),
        pytest.param(Fault("hang", "GET", "/artifacts/*/download/", phase="after"), id="cell_download_t1-address"),
        pytest.param(Fault("status", "GET", BYTES, status=503), id="cell_download_5x"),
        pytest.param(Fault("status", "GET", BYTES, status=429, retry_after_s=1), id="cell_download_5x-429"),
        pytest.param(Fault("cut", "GET", BYTES, phase="body", at_byte=1_000_000), id="cell_download_mb"),
        pytest.param(Fault("reset", "GET", BYTES, phase="body", at_byte=1_000_000), id="cell_download_mb-reset"),
        pytest.param(Fault("garbage", "GET", "/artifacts/*/download/"), id="cell_download_mb-address"),
        pytest.param(Fault("hang", "GET", BYTES, phase="body", at_byte=1_000_000), id="cell_download_sb"),
    ],
)
def test_a_download_that_breaks_goes_on(account: Account, fault: Fault) -> None:
    collected = Collected(account)
    account.faults(fault)
    assert collected().value == collected.value
    assert account.injected() == 1
    assert chores.started(account.starts) == 1


def test_cell_download_ue_an_address_that_has_expired_is_asked_for_again(store: ObjectStore, tmp_path: Path) -> None:
    clock = ManualClock()
    with accounts.opened(store.url, store.bucket, tmp_path, clock=clock) as own:
        detour = Detour(lambda _: clock.pass_time(16 * 60))  # an address is good for fifteen minutes
        collected = Collected(own, detour)
        assert collected().value == collected.value
        assert detour.happened == 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("status", "GET", "/artifacts/*/download/", None, status=401), id="cell_download_ce"),
        # Where the clocks of those who sign and those who check differ, each address has expired at once.
        pytest.param(Fault("status", "GET", BYTES, None, status=403), id="cell_download_sk"),
        pytest.param(Fault("status", "GET", BYTES, None, status=503), id="5x for long"),
        pytest.param(Fault("cut", "GET", BYTES, None, phase="body", at_byte=0), id="cut for long"),
    ],
)
def test_what_cannot_be_fetched_now_is_told_with_its_handle_and_attach_fetches_it(
    account: Account, fault: Fault
) -> None:
    account.faults(fault)
    error = failure(chores.answer(account.starts, b"paid for"))
    assert account.injected() >= 1
    assert isinstance(error, dok.ResultNotFetched)
    assert (error.phase, error.still_runs) == ("download", False)
    assert f"dok.attach({error.handle!r}) fetches it, for 72 hours" in str(error)
    account.service.faults.clear()
    assert dok.attach(error.handle).result(timeout=PATIENCE_S) == b"paid for"
    assert chores.started(account.starts) == 1


def test_cell_download_cx_a_call_that_is_cancelled_while_it_is_fetched_can_be_attached_to(place: Place) -> None:
    place.here()
    held = place.relay.hold("GET", "*/artifacts/*/download/", "after")
    future = chores.answer(place.starts)
    held.reached()
    assert future.cancel()
    held.release()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(timeout=PATIENCE_S)
    place.here()
    assert dok.attach(future.handle).result(timeout=PATIENCE_S) == 42
    assert [task.status for task in place.tasks()] == ["done"]
    assert chores.started(place.starts) == 1


HELD = {
    "cell_collect_k9": ("GET", "*/artifacts/*/download/", "before"),
    "cell_download_k9": ("GET", "*/artifacts/*/download/", "after"),
}
CALL = """
    import sys
    from pathlib import Path
    import chores
    future = chores.answer(Path(sys.argv[1]))
    print(future.handle, flush=True)
    print(future.result(), flush=True)
"""


@pytest.mark.parametrize("cell", HELD)
def test_a_client_that_is_killed_on_its_way_to_the_value_loses_nothing(place: Place, cell: str) -> None:
    held = place.relay.hold(*HELD[cell])  # type: ignore[arg-type] # the last is one of its words
    child = place.start(CALL, PYTHONPATH=str(Path(__file__).parent))
    handle = line(child)
    held.reached()
    kill(child)
    held.drop()
    place.here()
    assert dok.attach(handle).result(timeout=PATIENCE_S) == 42
    assert (place.started(), len(place.tasks())) == (1, 1)


@pytest.mark.parametrize("what", ["a byte of it", "a byte of its value"])
def test_cell_download_to_what_was_changed_on_its_way_is_never_opened(account: Account, what: str) -> None:
    marker = account.folder / "opened"
    future = chores.opened(account.starts, "touch", marker)
    assert future.result(timeout=PATIENCE_S) == 42
    marker.unlink()

    def tamper(files: Files) -> None:
        (name,) = [name for name in files if "/reports/" in name]
        files[name] = files[name].replace(b"touch", b"chmod")

    if what == "a byte of it":
        archive = account.archive(future.task_id)
        data = bytearray(archive.read_bytes())
        data[len(data) // 2] ^= 1
        archive.write_bytes(data)
    else:
        account.change(future.task_id, tamper)
    error = failure(dok.attach(future.handle))
    expected = (dok.TaskFailed, "yes") if what == "a byte of it" else (dok.Tampered, "yes")
    assert (type(error), error.ran) == expected
    assert not marker.exists()


# --- opening it

OPENS = """
    import resource, sys
    from pathlib import Path
    import chores
    import dokrun as dok
    room = 2 << 30
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    future = chores.opened(Path(sys.argv[1]), sys.argv[3], Path(sys.argv[2]))
    print(future.handle, flush=True)
    try:
        future.result()
    except dok.ResultUnreadable as error:
        print(error.ran, repr(error.__cause__), flush=True)
        print(error.args[0], flush=True)
"""


def test_cell_load_k9_a_client_that_dies_of_opening_a_value_loses_nothing(place: Place) -> None:
    child = place.start(OPENS, "die once", PYTHONPATH=str(Path(__file__).parent))
    handle = line(child)
    assert child.wait(PATIENCE_S) == -9
    assert place.gate.exists(), "it has died of it"
    place.here()
    assert dok.attach(handle).result(timeout=PATIENCE_S) == 42
    assert (place.started(), len(place.tasks())) == (1, 1)


def test_cell_load_oo_a_value_that_memory_here_does_not_hold_is_kept_as_a_file_and_named(place: Place) -> None:
    child = place.start(OPENS, "fill memory", PYTHONPATH=str(Path(__file__).parent))
    out, err = child.communicate(timeout=PATIENCE_S)
    assert "yes MemoryError()" in out, out + err
    assert "cannot be unpickled here: MemoryError; it is kept in" in out
    kept = Path(out.strip().rpartition("it is kept in ")[2])
    assert kept.is_relative_to(place.state / "results")
    header, segments = envelope.unpack(kept.read_bytes())
    assert header["kind"] == "value"
    assert b"fill memory" in bytes(segments[0].data or b"")
    assert (place.started(), len(place.tasks())) == (1, 1)


def test_cell_load_cx_a_call_that_is_cancelled_while_it_is_opened_can_be_attached_to(account: Account) -> None:
    gate = account.folder / "gate"
    future = chores.opened(account.starts, "wait", gate)
    wait_for(gate.with_suffix(".waits").exists)
    assert future.cancel()
    gate.touch()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(timeout=PATIENCE_S)
    account.here("another machine")
    assert dok.attach(future.handle).result(timeout=PATIENCE_S) == 42
    assert account.task(future).status == "done"
    assert chores.started(account.starts) == 1


def test_a_value_whose_error_cannot_be_told_is_kept_all_the_same(account: Account) -> None:
    error = failure(chores.mute(account.starts))
    assert isinstance(error, dok.ResultUnreadable)
    assert "cannot be unpickled here: Mute; it is kept in" in str(error)


def test_cell_load_vm_a_value_of_a_library_that_is_older_here_is_kept_and_attach_opens_it_with_the_newer_one(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = failure(chores.newer(account.starts))
    assert isinstance(error, dok.ResultUnreadable)
    assert isinstance(error.__cause__, ModuleNotFoundError)
    assert (error.ran, error.phase) == ("yes", "unpickle")
    kept = Path(error.args[0].rpartition("it is kept in ")[2])
    assert (kept.name, envelope.unpack(kept.read_bytes())[0]["call"]) == (error.call_id, 0)
    (account.folder / "libraries").mkdir()
    (account.folder / "libraries" / "newer_library.py").write_text("class Thing:\n    size = 43\n")
    monkeypatch.syspath_prepend(account.folder / "libraries")
    assert dok.attach(error.handle).result(timeout=PATIENCE_S).size == 43
    assert chores.started(account.starts) == 1


def test_cell_load_vm_a_result_in_another_format_is_kept_and_named(account: Account) -> None:
    future = chores.answer(account.starts)
    assert future.result(timeout=PATIENCE_S) == 42
    account.change(future.task_id, _newer_format)
    error = failure(dok.attach(future.handle))
    assert isinstance(error, dok.VersionMismatch)
    assert error.ran == "yes"
    assert "it was written in format 99, and this side reads format 1; use the same version of dokrun" in str(error)
    kept = Path(error.args[0].rpartition("it is kept in ")[2])
    assert b'"format":99' in kept.read_bytes()


def _newer_format(files: Files) -> None:
    (name,) = [name for name in files if "/reports/" in name]
    data = files[name]
    header = data.replace(b'"format":1,', b'"format":99,')
    length = int.from_bytes(data[8:16], "little") + 1
    files[name] = header[:8] + length.to_bytes(8, "little") + header[16:]
    told = json.loads(files[accounts.MANIFEST])
    told["reports"][0]["sha256"] = hashlib.sha256(files[name]).hexdigest()
    files[accounts.MANIFEST] = json.dumps(told).encode()
