"""Faults on purpose: each kind happens as its rule says, to the request it names, and is recorded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from clocks import ManualClock
from emulated import request, send
from waiting import wait_for

from dokrun import errors
from dokrun.api import Client
from dokrun.api.transport import Backoff
from dokrun.emulator import Emulator, Fault


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def dok(clock: ManualClock) -> Iterator[Emulator]:
    with Emulator(clock=clock) as emulator:
        yield emulator


@pytest.fixture
def client(dok: Emulator) -> Iterator[Client]:
    """A client that never tries twice, so that each fault is seen."""
    with Client(dok.token, dok.secret, base_url=dok.api_url, backoff=Backoff(attempts=1)) as client:
        yield client


def happened(dok: Emulator) -> list[tuple[str, str, str, str]]:
    return [(done.method, done.path, done.phase, done.what) for done in dok.faults.injected]


def count(dok: Emulator) -> int:
    return int(send(dok, "GET", "/tasks/").json()["meta"]["count"])


@pytest.mark.parametrize(("phase", "tasks"), [("before", 0), ("after", 1)])
@pytest.mark.parametrize("what", ["reset", "garbage", "status"])
def test_a_fault_replaces_the_answer_before_or_after_the_effect(
    dok: Emulator, client: Client, what: Any, phase: Any, tasks: int
) -> None:
    dok.faults.add(Fault(what, method="POST", path="/tasks/", phase=phase, status=500))
    expected = {"reset": errors.NoAnswer, "garbage": errors.InvalidAnswer, "status": errors.ServerError}[what]
    with pytest.raises(expected):
        client.tasks.create(request())
    assert happened(dok) == [("POST", "/tasks/", phase, what)]
    assert count(dok) == tasks


def test_a_reset_is_one_and_no_ordinary_end(dok: Emulator) -> None:
    dok.faults.add(Fault("reset"))
    url = httpx.URL(dok.api_url)
    with socket.create_connection((url.host, url.port or 80)) as raw:
        raw.sendall(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            raw.recv(1)


def test_only_the_occurrence_that_was_asked_for_goes_wrong(dok: Emulator) -> None:
    dok.faults.add(Fault("status", path="/plans/", occurrence=2, status=429, retry_after_s=7))
    answers = [send(dok, "GET", "/plans/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 429, 200]
    assert answers[1].headers["Retry-After"] == "7"
    assert len(dok.faults.injected) == 1


def test_every_occurrence_goes_wrong_until_the_rule_is_taken_back(dok: Emulator) -> None:
    rule = dok.faults.add(Fault("status", path="/plans/*", occurrence=None))
    assert [send(dok, "GET", "/plans/").status_code for _ in range(2)] == [503, 503]
    dok.faults.remove(rule)
    assert send(dok, "GET", "/plans/").status_code == 200


def test_an_effect_that_is_committed_late_is_seen_late(dok: Emulator, client: Client, clock: ManualClock) -> None:
    dok.faults.add(Fault("reset", method="POST", path="/tasks/", phase="during", late_s=20))
    with pytest.raises(errors.NoAnswer):
        client.tasks.create(request())
    clock.wait_for_sleeper(20)
    assert count(dok) == 0
    clock.pass_time(20)
    wait_for(lambda: count(dok) == 1)
    assert happened(dok) == [("POST", "/tasks/", "during", "reset")]


def test_an_effect_can_happen_twice(dok: Emulator, client: Client) -> None:
    dok.faults.add(Fault("duplicate", method="POST", path="/tasks/", phase="after"))
    created = client.tasks.create(request())
    assert count(dok) == 2
    assert client.tasks.get(created.id).id == created.id


def test_a_hanging_request_hangs_until_the_client_goes(dok: Emulator) -> None:
    dok.faults.add(Fault("hang", path="/plans/"))
    with pytest.raises(httpx.ReadTimeout):
        send(dok, "GET", "/plans/", timeout=0.3)
    assert send(dok, "GET", "/plans/").status_code == 200


@pytest.mark.parametrize("what", ["cut", "reset"])
def test_an_answer_breaks_at_the_byte_that_was_asked_for(dok: Emulator, what: Any) -> None:
    whole = send(dok, "GET", "/plans/").content
    dok.faults.add(Fault(what, path="/plans/", phase="body", at_byte=10))
    came: list[bytes] = []
    with httpx.stream("GET", f"{dok.api_url}/plans/", auth=(dok.token, dok.secret)) as answer:
        assert int(answer.headers["Content-Length"]) == len(whole)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            came.extend(answer.iter_raw())
    assert b"".join(came) in (b"", whole[:10])
    assert happened(dok) == [("GET", "/plans/", "body", what)]


def test_a_fault_beyond_the_answers_end_is_not_said_to_have_happened(dok: Emulator) -> None:
    dok.faults.add(Fault("cut", path="/plans/", phase="body", at_byte=1_000_000))
    assert send(dok, "GET", "/plans/").status_code == 200
    assert happened(dok) == []


def test_an_answer_drips_by_the_emulators_clock(dok: Emulator, clock: ManualClock) -> None:
    whole = send(dok, "GET", "/plans/").content
    dok.faults.add(Fault("drip", path="/plans/", phase="body", at_byte=len(whole) - 2, every_s=5))
    came: list[bytes] = []
    asking = threading.Thread(target=lambda: came.append(send(dok, "GET", "/plans/", timeout=60).content))
    asking.start()
    for _ in range(2):
        clock.wait_for_sleeper(5)
        assert not came
        clock.pass_time(5)
    asking.join(timeout=30)
    assert came == [whole]


@pytest.mark.parametrize(("what", "phase"), [("cut", "before"), ("drip", "after"), ("duplicate", "before")])
def test_what_cannot_happen_then_is_refused_with_what_can(what: Any, phase: Any) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        Fault(what, phase=phase)


def test_rules_are_set_and_seen_over_http_by_those_who_have_the_key(dok: Emulator) -> None:
    url = dok.api_url.partition("/cloud")[0] + "/faults/"
    key = (dok.token, dok.secret)
    assert httpx.get(url).status_code == 401
    rule = httpx.post(url, json={"what": "status", "path": "/plans/"}, auth=key).json()["id"]
    assert send(dok, "GET", "/plans/").status_code == 503
    told = httpx.get(url, auth=key).json()
    assert told["rules"][str(rule)]["what"] == "status"
    assert told["injected"][0]["rule"] == rule
    assert httpx.delete(f"{url}{rule}/", auth=key).status_code == 204
    assert httpx.delete(f"{url}{rule}/", auth=key).status_code == 404
    wrong = httpx.post(url, json={"what": "cut", "phase": "before"}, auth=key)
    assert wrong.status_code == 400
    assert "allowed are" in wrong.json()["error_msg"]
    assert httpx.delete(url, auth=key).status_code == 204
    assert httpx.get(url, auth=key).json() == {"rules": {}, "injected": []}
