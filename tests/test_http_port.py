"""A server of the user's own in a task: where it is reached, how that is found out, and what is refused."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import httpx
import platformdirs
import pytest
import servers
from ported import Inside
from relay import Relay
from waiting import wait_for

import dokrun as dok
from dokrun import engine
from dokrun.api import Client, models
from dokrun.api.transport import Backoff
from dokrun.emulator import Emulator, Fault
from dokrun.errors import OptionError

PATIENCE_S = 60


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def faults(dok: Emulator) -> Any:
    return dok.faults


def knocking() -> bool:
    return any(thread.name == "dokrun-knock" for thread in threading.enumerate())


@pytest.mark.usefixtures("account")
def test_the_server_is_reached_at_its_address_until_the_function_ends(port: int) -> None:
    future = servers.serve.options(http=port)(port)
    assert httpx.get(future.http_uri).text == "attempt 1"
    assert future.http_uri == future.http_uri
    httpx.get(f"{future.http_uri}end")
    assert future.result(timeout=PATIENCE_S) == ["/", "/", "/end"]
    with pytest.raises(dok.CallFailed, match="has ended, and its http port with it") as ended:
        _ = future.http_uri
    assert ended.value.ran == "yes"


@pytest.mark.usefixtures("account")
def test_it_is_asked_until_it_answers_and_no_more(port: int, faults: Any) -> None:
    rules = [
        faults.add(Fault("status", where="port", occurrence=1, status=503)),
        faults.add(Fault("reset", where="port", occurrence=1)),
    ]
    future = servers.serve.options(http=port)(port, (504, 503, 302))
    address = future.http_uri
    assert [done.rule for done in faults.injected] == rules
    httpx.get(f"{address}end", headers={"Cookie": "a=b"})
    # Two of the server's own that are no answers, and the one that is; nobody was led elsewhere.
    assert future.result(timeout=PATIENCE_S) == ["/", "/", "/", "/end Cookie"]


@pytest.mark.usefixtures("account")
def test_a_path_of_ones_own_is_where_it_is_opened(port: int, client: Client) -> None:
    future = servers.serve.options(http=dok.Http(port, "/lab"))(port)
    assert future.http_uri.endswith("/lab")
    (container,) = client.tasks.get(str(future.task_id)).containers
    assert container.http == models.HttpPort(port, "/lab")
    httpx.get(future.http_uri.replace("/lab", "/end"))
    assert future.result(timeout=PATIENCE_S) == ["/lab", "/end"]


@pytest.mark.usefixtures("account")
def test_whoever_attaches_finds_the_same_address(port: int) -> None:
    future = servers.serve.options(http=port)(port)
    assert dok.attach(future.handle).http_uri == future.http_uri
    future.cancel()
    with pytest.raises(CancelledError):
        _ = future.http_uri


@pytest.mark.usefixtures("account")
def test_another_attempt_has_another_address(port: int) -> None:
    future = servers.serve.options(http=port, retries=1)(port)
    first = future.http_uri
    assert httpx.get(f"{first}die").status_code == 502
    wait_for(lambda: future.attempt == 2)
    assert httpx.get(future.http_uri).text == "attempt 2"
    assert future.http_uri != first
    future.cancel()


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("error", ["", "no model"])
def test_a_call_that_ends_before_its_server_answers_says_how(port: int, error: str) -> None:
    future = servers.end_at_once.options(http=port)(error)
    with pytest.raises(ValueError if error else dok.CallFailed, match=error or "has ended"):
        _ = future.http_uri


@pytest.mark.usefixtures("account")
def test_a_call_that_is_cancelled_says_so(port: int) -> None:
    future = servers.stay.options(http=port)()
    told: list[CancelledError] = []

    def ask() -> None:
        try:
            _ = future.http_uri
        except CancelledError as error:
            told.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(knocking)
    future.cancel()
    asking.join(PATIENCE_S)
    assert len(told) == 1


@pytest.mark.usefixtures("account")
def test_nobody_is_asked_before_somebody_wants_to_know_nor_when_the_engine_is_closed(port: int, client: Client) -> None:
    future = servers.stay.options(http=port, detach=True)()
    wait_for(lambda: future.status == "running")
    assert not knocking()
    threading.Thread(target=lambda: future.http_uri, daemon=True).start()
    wait_for(knocking)
    engine.reset()
    wait_for(lambda: not knocking())
    client.tasks.cancel(str(future.task_id))


@pytest.mark.usefixtures("account")
def test_a_call_without_a_port_has_no_address() -> None:
    future = servers.end_at_once()
    with pytest.raises(dok.OptionError, match=r"end_at_once has no http port; write @remote\(http=…\)"):
        _ = future.http_uri
    future.result(timeout=PATIENCE_S)
    with pytest.raises(dok.OptionError, match="has no http port"):
        _ = dok.attach(future.handle).http_uri


def test_that_there_is_no_port_is_told_before_there_is_a_task(dok: Emulator, account: pytest.MonkeyPatch) -> None:
    with Relay(dok) as relay:
        account.setenv("DOKRUN_API_URL", relay.api_url)
        held = relay.hold("POST", "*/tasks/", "before")
        future = servers.end_at_once()
        held.reached()
        with pytest.raises(OptionError, match="has no http port"):
            _ = future.http_uri
        held.release()
        future.result(timeout=PATIENCE_S)


@pytest.mark.usefixtures("account")
def test_a_map_is_refused_with_what_to_do_and_sends_nothing(client: Client) -> None:
    before = client.tasks.list().meta.count
    with pytest.raises(dok.OptionError, match=r"call the function itself, or take it back with \.options\(http=None\)"):
        servers.serve.options(http=8000).map([8000, 8001])
    assert client.tasks.list().meta.count == before


@pytest.mark.usefixtures("account")
def test_a_profile_may_say_it_for_all_functions(
    account: pytest.MonkeyPatch, port: int, tmp_path: Path, client: Client
) -> None:
    account.setenv("HOME", str(tmp_path))
    account.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = platformdirs.user_config_path("dokrun")
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f"[defaults]\nhttp = {port}\n")
    future = servers.end_at_once()
    future.result(timeout=PATIENCE_S)
    assert client.tasks.get(str(future.task_id)).containers[0].http == models.HttpPort(port)


@pytest.mark.parametrize("wrong", [0, 65536, -1, True, "8000", 80.5])
def test_what_is_no_port_is_refused_where_it_is_written(wrong: Any) -> None:
    with pytest.raises(dok.OptionError, match=r"http=|port="):
        dok.remote(http=wrong)
    with pytest.raises(dok.OptionError, match="port="):
        dok.Http(wrong)


@pytest.mark.parametrize("wrong", ["", "lab", "/a b", "/a?b=c", "/a#b", "http://other/", None, "/é"])
def test_what_is_no_path_is_refused_where_it_is_written(wrong: Any) -> None:
    with pytest.raises(dok.OptionError, match="path="):
        dok.Http(8000, wrong)


@pytest.mark.parametrize("status", [200, 204, 301, 401, 403, 404, 418, 500, 502, 503, 504])
def test_anything_is_an_answer_but_what_a_proxy_says_that_reaches_nobody(client: Client, status: int) -> None:
    inside = Inside()
    # Without an end: the body is never read.
    inside.answers["/here"] = f"HTTP/1.1 {status} Told\r\nLocation: /elsewhere\r\n\r\nand on".encode()
    try:
        assert client.tasks.answers(f"http://127.0.0.1:{inside.port}/here") is (status not in (502, 503, 504))
        (asked,) = [inside.heard.get(timeout=PATIENCE_S)]
        assert inside.heard.empty()
    finally:
        inside.close()
    assert b"authorization" not in asked.lower()


def test_who_is_not_there_does_not_answer_and_is_asked_once(dok: Emulator, port: int) -> None:
    pauses: list[float] = []
    with Client(dok.token, dok.secret, base_url=dok.api_url, backoff=Backoff(sleep=pauses.append)) as client:
        assert not client.tasks.answers(f"http://127.0.0.1:{port}/")
        assert not client.tasks.answers("http://[no address")
    assert pauses == []
