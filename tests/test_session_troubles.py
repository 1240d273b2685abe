"""A session's calls, and every trouble on their way: each runs once at most, and what it came to is told truly."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import account as accounts
import numpy as np
import pytest
from account import Account
from places import failure, wait_for
from storefaults import FaultyStore, StoreFault

import dokrun as dok
from dokrun import keys
from dokrun.api.container import Container
from dokrun.emulator import Behaviour, Fault
from dokrun.emulator.objects import ObjectStore
from dokrun.secret import Secret

PLAN = "v100-32gb"
PATIENCE_S = 60
# What a call with something large to give and to bring asks for.
WAYS = ["/need/*", "/put/*", "/calls/*", "/ask", "/get/*"]
LARGE = 1 << 18


@dok.remote(timeout=60)
def work(starts: Path, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with starts.open("a") as file:
        file.write("1\n")
    return numbers + 1


@dok.remote(timeout=60)
def stay(starts: Path, gate: Path) -> str:
    with starts.open("a") as file:
        file.write("1\n")
    while not gate.exists():
        print("here", flush=True)
        time.sleep(0.01)
    return "stayed"


def started(starts: Path) -> int:
    return len(starts.read_text().split()) if starts.exists() else 0


@pytest.fixture
def account(store: ObjectStore, tmp_path: Path) -> Iterator[Account]:
    """An account whose proxy cuts what takes longer than a second."""
    with accounts.opened(store.url, store.bucket, tmp_path, behaviour=Behaviour(cut_s=1.0)) as account:
        account.here()
        yield account


@pytest.fixture
def session(account: Account) -> Iterator[dok.Session]:
    session = dok.session(plan=PLAN)
    session.submit(pow, 1, 1).result(PATIENCE_S)
    yield session
    session.close(cancel=True)


def port(what: Any, path: str, **more: Any) -> Fault:
    return Fault(what, path=path, where="port", **more)


def everywhere(what: Any, **more: Any) -> list[Fault]:
    # A question that the proxy cuts before there is an answer counts as one, and nothing has happened to it.
    times = {path: range(1, 6) if path == "/ask" else [1] for path in WAYS}
    return [port(what, path, occurrence=number, **more) for path in WAYS for number in times[path]]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(everywhere("reset"), id="cell_session_t0"),
        pytest.param(everywhere("hang"), id="cell_session_t0-hang"),
        pytest.param(everywhere("reset", phase="after"), id="cell_session_t1"),
        pytest.param(everywhere("hang", phase="after"), id="cell_session_t1-hang"),
        pytest.param(everywhere("status", status=503), id="cell_session_5x-503"),
        pytest.param(everywhere("status", status=429, phase="after"), id="cell_session_5x-429"),
        pytest.param(everywhere("garbage", phase="after"), id="cell_session_mb"),
        pytest.param(everywhere("cut", phase="body", at_byte=5), id="cell_session_mb-cut"),
        pytest.param(everywhere("drip", phase="body", every_s=0.3), id="cell_session_sb"),
        pytest.param(everywhere("duplicate", phase="after"), id="cell_session_du"),
        pytest.param(
            [port("alter", way) for way in ("/need/*", "/put/*", "/calls/*", "/ask")], id="cell_session_to-asked"
        ),
        pytest.param(everywhere("alter", phase="body", at_byte=3), id="cell_session_to-answered"),
    ],
)
def test_a_call_runs_once_and_its_result_comes_though_each_request_meets(
    account: Account, session: dok.Session, tmp_path: Path, faults: list[Fault]
) -> None:
    rules = account.faults(*faults)
    numbers = np.arange(LARGE, dtype=np.float64)
    back = session.submit(work, tmp_path / "starts", numbers).result(PATIENCE_S)
    assert np.array_equal(back, numbers + 1)
    assert started(tmp_path / "starts") == 1
    met: set[str] = set()
    for _ in range(20):
        met = {fault.path for fault, rule in zip(faults, rules, strict=True) if account.injected(rule)}
        if len(met) < len(WAYS):  # nothing has been told yet since then
            assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32
    assert met == {fault.path for fault in faults}


def test_cell_session_rf_calls_wait_until_the_container_is_spoken_to(account: Account, tmp_path: Path) -> None:
    rules = account.faults(*[port("reset", "/hello")] * 3)  # each is counted by those after it when it has happened
    with dok.session(plan=PLAN) as session:
        assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32
    assert [account.injected(rule) for rule in rules] == [1, 1, 1]


def test_a_session_whose_first_task_could_not_begin_is_found_where_the_next_one_is(
    account: Account, store: ObjectStore
) -> None:
    with FaultyStore(store) as faulty:
        account.here(DOKRUN_S3_ENDPOINT_URL=faulty.url)
        faulty.add(StoreFault("slow-status", "GET", "*/payload", status=403))
        (asked,) = account.faults(port("status", "/hello"))
        with dok.session(plan=PLAN, secrets={"TOLD": "so that the payload is fetched"}) as session:
            future = session.submit(pow, 2, 5)
            wait_for(lambda: account.injected(asked))
            first = session.task_id
            faulty.let_go()
            assert future.result(PATIENCE_S) == 32
            assert future.task_id == session.task_id != first
        assert len(faulty.injected) == 1


def test_a_redirect_is_not_followed(account: Account, session: dok.Session) -> None:
    rule = account.faults(port("status", "/calls/*", status=307))
    assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32
    assert account.injected(*rule) == 1


def test_cell_session_to_what_never_comes_as_it_was_sent_is_not_believed(
    account: Account, session: dok.Session, tmp_path: Path
) -> None:
    account.faults(port("alter", "/ask", phase="body", at_byte=3, occurrence=None))
    error = failure(session.submit(stay, tmp_path / "starts", tmp_path / "gate"))
    assert isinstance(error, dok.SessionLost)
    assert "could not be spoken to, and its task was ended: Tampered: what answers" in str(error)
    assert (error.ran, error.still_runs) == ("yes", False)
    assert account.injected() >= 8
    assert account.client.tasks.get(str(session.task_id)).status == "canceled"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(port("status", "/hello", status=401, occurrence=None), id="who asks for a password"),
        pytest.param(port("garbage", "/hello", phase="after", occurrence=None), id="who has a page"),
        pytest.param(port("garbage", "/ask", phase="after", occurrence=None), id="who has a page later on"),
    ],
)
def test_a_stranger_who_answers_for_some_seconds_costs_no_session(account: Account, fault: Fault) -> None:
    account.faults(fault)
    with dok.session(plan=PLAN) as session:
        future = session.submit(pow, 2, 5)
        wait_for(lambda: account.injected() > 9)
        account.service.faults.clear()
        assert future.result(PATIENCE_S) == 32
        assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32


def test_a_session_that_never_knows_its_client_is_ended_and_says_so(account: Account) -> None:
    account.faults(port("status", "/hello", status=401, occurrence=None))
    session = dok.session(plan=PLAN, reconnect=True)
    error = failure(session.submit(pow, 2, 5))
    assert isinstance(error, dok.SessionLost)
    assert "its task was ended: Unauthorized: the session does not know this client" in str(error)
    assert (error.ran, error.still_runs) == ("no", False)
    (task,) = account.client.tasks.iterate()
    assert task.status == "canceled"
    assert account.injected() > 12


def test_whoever_attaches_and_cannot_speak_to_a_session_does_not_end_it(account: Account) -> None:
    session = dok.session(plan=PLAN, detach=True)
    session.submit(pow, 1, 1).result(PATIENCE_S)
    (rule,) = account.faults(port("status", "/hello", status=401, occurrence=None))
    account.here(state="other")
    error = failure(dok.attach(session.handle).submit(pow, 2, 5))
    assert error.ran == "no"
    assert "could not be spoken to, and its task may still run: Unauthorized" in str(error)
    assert account.injected(rule)
    assert account.client.tasks.get(str(session.task_id)).status == "running"


def test_a_call_that_is_being_sent_when_its_session_is_given_up_has_its_end_too(account: Account) -> None:
    session = dok.session(plan=PLAN, detach=True)
    session.submit(pow, 1, 1).result(PATIENCE_S)
    account.here(state="other")
    found = dok.attach(session.handle)
    assert found.submit(pow, 2, 5).result(PATIENCE_S) == 32
    asked, _ = account.faults(
        port("status", "/calls/*", occurrence=None), port("status", "/ask", status=401, occurrence=None)
    )
    error = failure(found.submit(pow, 2, 5))
    assert account.injected(asked)
    assert isinstance(error, dok.SessionLost)
    assert (error.ran, error.still_runs) == ("maybe", True)


def test_cell_session_ce_another_api_key_cannot_speak_to_it(account: Account, session: dok.Session) -> None:
    stranger = Container(str(account.client.tasks.get(str(session.task_id)).http_uri), Secret("guessed"))
    with pytest.raises(dok.Unauthorized):
        stranger.hello()
    stranger.close()


@dok.remote(timeout=60)
def overfill(starts: Path) -> bytes:
    with starts.open("a") as file:
        file.write("1\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    return bytes(1 << 20)


def test_cell_session_df_a_result_that_the_disk_cannot_take_is_told_as_such(
    session: dok.Session, tmp_path: Path
) -> None:
    error = failure(session.submit(overfill, tmp_path / "starts"))
    assert isinstance(error, dok.ResultNotWritten)
    assert error.ran == "yes"
    assert started(tmp_path / "starts") == 1


SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    import dokrun as dok

    def stay(gate):
        import time
        while not Path(gate).exists():
            time.sleep(0.01)
        return "stayed"

    session = dok.session(plan="v100-32gb")
    future = session.submit(stay, sys.argv[1])
    print(future.handle, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_cell_session_k9_whoever_has_the_handle_gets_the_result_of_a_killed_client(
    account: Account, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, **account.environ, "DOKRUN_STATE_DIR": str(tmp_path / "killed")}
    told = subprocess.run(
        [sys.executable, script, tmp_path / "gate"], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    assert told.returncode == -signal.SIGKILL
    found = dok.attach(told.stdout.strip())
    assert not found.done()
    (tmp_path / "gate").touch()
    assert found.result(PATIENCE_S) == "stayed"


@dok.remote(timeout=60)
def hoard(starts: Path) -> None:
    with starts.open("a") as file:
        file.write("1\n")
    os.kill(os.getpid(), signal.SIGKILL)


def test_cell_session_oo_a_worker_that_is_killed_costs_its_call_alone(session: dok.Session, tmp_path: Path) -> None:
    first, second = session.submit(hoard, tmp_path / "starts"), session.submit(pow, 2, 5)
    error = failure(first)
    assert isinstance(error, dok.WorkerDied)
    assert (error.ran, error.signal) == ("yes", signal.SIGKILL)
    assert second.result(PATIENCE_S) == 32


def test_cell_session_tl_what_runs_when_the_session_has_lasted_its_timeout_is_ended(
    account: Account, tmp_path: Path
) -> None:
    with pytest.raises(dok.CallFailed, match=r"as long as its timeout of 10 s") as caught:
        dok.session(plan=PLAN, timeout=10).submit(stay, tmp_path / "starts", tmp_path / "gate").result(PATIENCE_S)
    assert caught.value.ran == "yes"


def test_cell_session_cx_a_call_that_is_cancelled_while_it_is_sent_leaves_nothing_running(
    account: Account, session: dok.Session, tmp_path: Path
) -> None:
    (rule,) = account.faults(port("hang", "/calls/*"))
    future = session.submit(stay, tmp_path / "starts", tmp_path / "never")
    wait_for(lambda: account.injected(rule) == 1)
    assert future.cancel()
    # It is the only worker: were it busy, nothing would come back.
    assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32


def test_cell_session_cx_a_call_that_is_cancelled_while_its_worker_is_being_started_leaves_nothing_running(
    session: dok.Session, tmp_path: Path
) -> None:
    first = session.submit(hoard, tmp_path / "dies")
    following = session.submit(stay, tmp_path / "starts", tmp_path / "never")
    assert isinstance(failure(first), dok.WorkerDied)
    # The next worker takes far longer to be there than this takes to be heard.
    assert following.cancel()
    assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32


def test_cell_session_vm_another_python_is_told_before_anything_runs(store: ObjectStore, tmp_path: Path) -> None:
    behaviour = Behaviour(python=accounts.old_python(tmp_path))
    with accounts.opened(store.url, store.bucket, tmp_path, behaviour=behaviour) as account:
        account.here()
        error = failure(dok.session(plan=PLAN).submit(work, tmp_path / "starts", np.arange(3)))
        assert error.ran == "no"
        assert started(tmp_path / "starts") == 0


def test_where_the_straight_way_is_shut_arrays_go_through_the_bucket(
    account: Account, session: dok.Session, tmp_path: Path
) -> None:
    rules = account.faults(*(port("status", way, status=503, occurrence=None) for way in ("/put/*", "/get/*")))
    numbers = np.arange(LARGE, dtype=np.float64)
    back = session.submit(work, tmp_path / "starts", numbers).result(PATIENCE_S)
    assert np.array_equal(back, numbers + 1)
    assert all(account.injected(rule) for rule in rules)


def test_where_the_straight_way_is_shut_many_calls_go_through_the_bucket_too(
    account: Account, session: dok.Session
) -> None:
    (rule,) = account.faults(port("status", "/put/*", status=503, occurrence=None))
    told = list(dok.remote(len).options(session=session).map([bytes(40_000)] * 60))
    assert told == [40_000] * 60
    assert account.injected(rule)


def size_there(data: bytes) -> tuple[int, str | None]:
    return len(data), os.environ.get("TOLD")


def test_what_orders_calls_lies_in_the_bucket_as_the_sessions_own_until_it_is_taken(
    account: Account, store: ObjectStore
) -> None:
    with FaultyStore(store) as faulty:
        here = account.here(DOKRUN_S3_ENDPOINT_URL=faulty.url)
        (rule,) = account.faults(port("status", "/put/*", status=503, occurrence=None))
        function = dok.remote(timeout=60, secrets={"TOLD": "canary of an order"})(size_there)
        with dok.session(plan=PLAN) as session:
            job = keys.read_handle(session.handle)
            told = list(function.options(session=session).map([bytes(40_000)] * 60))
        assert told == [(40_000, "canary of an order")] * 60
        assert account.injected(rule)
        (path,) = {one.path for one in faulty.requests if b"canary of an order" in one.body}
        assert job is not None
        assert f"/jobs/{job.job_id}/orders/" in path
        assert faulty.asked("DELETE", path)
        assert here.bucket is not None
        assert not [key for key in here.bucket.keys("dokrun/1/") if path.endswith(key)]


def test_pieces_that_the_proxy_does_not_take_are_sent_smaller(store: ObjectStore, tmp_path: Path) -> None:
    behaviour = Behaviour(largest_body_bytes=1 << 20)
    with accounts.opened(store.url, store.bucket, tmp_path, behaviour=behaviour) as account:
        account.here()
        with dok.session(plan=PLAN) as session:
            session.submit(pow, 1, 1).result(PATIENCE_S)
            numbers = np.arange(1 << 20, dtype=np.float64)
            assert np.array_equal(session.submit(work, tmp_path / "starts", numbers).result(PATIENCE_S), numbers + 1)
