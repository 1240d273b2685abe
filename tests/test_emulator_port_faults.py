"""Faults on a container's http port: each kind happens where its rule says, before the container or after it."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from clocks import ManualClock
from ported import Inside, Outside, all_of, said
from waiting import PATIENCE_S, wait_for

from dokrun.emulator import Behaviour, Emulator, Fault

CUT_S = 30
GET = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
# Several letters in two chunks, for what happens in the middle.
LETTERS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def dok(clock: ManualClock) -> Iterator[Emulator]:
    with Emulator(behaviour=Behaviour(cut_s=CUT_S), clock=clock) as emulator:
        yield emulator


@pytest.fixture
def inside() -> Iterator[Inside]:
    inside = Inside()
    inside.answers["/letters"] = LETTERS
    yield inside
    inside.close()


@pytest.fixture
def outside(dok: Emulator, inside: Inside) -> Iterator[Outside]:
    outside = Outside(dok, inside)
    yield outside
    outside.close()


def happened(dok: Emulator) -> list[tuple[str, str, str, str]]:
    assert all(done.where == "port" for done in dok.faults.injected)
    return [(done.method, done.path, done.phase, done.what) for done in dok.faults.injected]


@pytest.mark.parametrize(("phase", "reached"), [("before", 0), ("after", 1)])
def test_a_status_is_told_before_or_after_the_container_has_the_request(
    dok: Emulator, outside: Outside, inside: Inside, phase: Any, reached: int
) -> None:
    dok.faults.add(Fault("status", method="POST", path="/x", phase=phase, status=503, retry_after_s=7, where="port"))
    client = outside.connect()
    client.request("POST", "/x?secret=1", b"body")
    response = client.getresponse()
    assert (response.status, response.headers["Retry-After"], response.read()[:7]) == (503, "7", b"a fault")
    assert inside.heard.qsize() == reached
    client.request("POST", "/x", b"body")
    assert said(client) == (200, b"ok")
    assert happened(dok) == [("POST", "/x", phase, "status")]


@pytest.mark.parametrize(("phase", "reached"), [("before", 0), ("after", 1)])
def test_a_reset_before_or_after_the_container_has_the_request(
    dok: Emulator, outside: Outside, inside: Inside, phase: Any, reached: int
) -> None:
    dok.faults.add(Fault("reset", phase=phase, where="port"))
    with pytest.raises(ConnectionResetError):
        outside.raw(GET).recv(1)
    assert inside.heard.qsize() == reached
    assert happened(dok) == [("GET", "/x", phase, "reset")]


@pytest.mark.parametrize("phase", ["before", "after"])
def test_what_hangs_is_cut_as_everything_else(
    dok: Emulator, outside: Outside, inside: Inside, clock: ManualClock, phase: Any
) -> None:
    dok.faults.add(Fault("hang", phase=phase, where="port"))
    line = outside.raw(GET)
    clock.wait_for_sleeper(CUT_S)
    wait_for(lambda: dok.faults.injected)
    clock.pass_time(CUT_S)
    assert all_of(line).startswith(b"HTTP/1.1 504 ")
    assert inside.connections == (phase == "after")
    assert happened(dok) == [("GET", "/x", phase, "hang")]


def test_an_answer_can_be_no_answer_of_the_containers(dok: Emulator, outside: Outside, inside: Inside) -> None:
    dok.faults.add(Fault("garbage", phase="after", where="port"))
    client = outside.connect()
    client.request("GET", "/x")
    assert said(client) == (200, b"<html>\xff{")
    assert inside.heard.qsize() == 1
    assert happened(dok) == [("GET", "/x", "after", "garbage")]


def test_a_request_can_reach_the_container_twice(dok: Emulator, outside: Outside, inside: Inside) -> None:
    dok.faults.add(Fault("duplicate", method="POST", phase="after", where="port"))
    client = outside.connect()
    client.request("POST", "/x", b"body")
    assert said(client) == (200, b"ok")
    assert inside.heard.get(timeout=PATIENCE_S) == inside.heard.get(timeout=PATIENCE_S)
    assert happened(dok) == [("POST", "/x", "after", "duplicate")]


def test_what_the_container_never_answers_is_no_fault_that_happened(
    dok: Emulator, outside: Outside, inside: Inside
) -> None:
    dok.faults.add(Fault("duplicate", phase="after", where="port"))
    inside.close()
    client = outside.connect()
    client.request("GET", "/x")
    assert said(client)[0] == 503
    assert happened(dok) == []


@pytest.mark.parametrize("at_byte", [0, 2, 4])
@pytest.mark.parametrize("what", ["cut", "reset"])
def test_an_answer_breaks_at_the_byte_that_was_asked_for(
    dok: Emulator, outside: Outside, what: Any, at_byte: int
) -> None:
    dok.faults.add(Fault(what, phase="body", at_byte=at_byte, where="port"))
    client = outside.connect()
    client.request("GET", "/letters")
    response = client.getresponse()
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)) as broken:
        response.read()
    if isinstance(broken.value, http.client.IncompleteRead):
        assert broken.value.partial == b"abcdef"[:at_byte]
    assert broken.type is http.client.IncompleteRead or what == "reset"
    assert happened(dok) == [("GET", "/letters", "body", what)]


def test_an_answer_can_stop_in_the_middle(dok: Emulator, outside: Outside, clock: ManualClock) -> None:
    dok.faults.add(Fault("hang", phase="body", at_byte=4, where="port"))
    client = outside.connect()
    client.request("GET", "/letters")
    response = client.getresponse()
    assert response.read(4) == b"abcd"
    clock.pass_time(CUT_S)
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    assert happened(dok) == [("GET", "/letters", "body", "hang")]


def test_an_answer_drips_by_the_emulators_clock(dok: Emulator, outside: Outside, clock: ManualClock) -> None:
    dok.faults.add(Fault("drip", phase="body", at_byte=4, every_s=5, where="port"))
    client = outside.connect()
    client.request("GET", "/letters")
    came: list[bytes] = []
    asking = threading.Thread(target=lambda: came.append(client.getresponse().read()))
    asking.start()
    for _ in range(2):
        clock.wait_for_sleeper(5)
        assert not came
        clock.pass_time(5)
    asking.join(PATIENCE_S)
    assert came == [b"abcdef"]
    assert happened(dok) == [("GET", "/letters", "body", "drip")]


def test_a_byte_of_an_answer_can_be_another(dok: Emulator, outside: Outside) -> None:
    dok.faults.add(Fault("alter", phase="body", at_byte=4, where="port"))
    client = outside.connect()
    client.request("GET", "/letters")
    assert said(client) == (200, b"abcddf")
    client.request("GET", "/letters")
    assert said(client) == (200, b"abcdef")
    assert happened(dok) == [("GET", "/letters", "body", "alter")]


def test_a_byte_of_a_request_can_be_another(dok: Emulator, outside: Outside, inside: Inside) -> None:
    dok.faults.add(Fault("alter", at_byte=1, where="port"))
    client = outside.connect()
    client.request("POST", "/x", b"abc")
    assert said(client) == (200, b"ok")
    assert inside.heard.get(timeout=PATIENCE_S).endswith(b"\r\n\r\nacc")
    assert happened(dok) == [("POST", "/x", "before", "alter")]


@pytest.mark.parametrize("phase", ["before", "body"])
def test_a_fault_beyond_the_bodys_end_is_not_said_to_have_happened(dok: Emulator, outside: Outside, phase: Any) -> None:
    dok.faults.add(Fault("alter", phase=phase, at_byte=6, where="port"))
    client = outside.connect()
    client.request("POST", "/letters", b"abcdef")
    assert said(client) == (200, b"abcdef")
    assert happened(dok) == []


def test_a_rule_is_about_the_api_or_about_ports(dok: Emulator, outside: Outside) -> None:
    dok.faults.add(Fault("status", path="*", occurrence=None))
    client = outside.connect()
    client.request("GET", "/plans/")
    assert said(client) == (200, b"ok")
    assert dok.faults.injected == []


@pytest.mark.parametrize(
    ("what", "phase", "where"),
    [
        ("alter", "body", "api"),
        ("alter", "before", "api"),
        ("garbage", "before", "port"),
        ("reset", "during", "port"),
        ("alter", "after", "port"),
    ],
)
def test_what_cannot_happen_there_is_refused_with_what_can(what: Any, phase: Any, where: Any) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        Fault(what, phase=phase, where=where)
