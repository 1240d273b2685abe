"""What passes on a container's http port, byte by byte: bodies and no bodies, kept connections, limits, cuts."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from clocks import ManualClock
from ported import OK, Inside, Outside, all_of, inside, said
from waiting import PATIENCE_S

from dokrun.emulator import Behaviour, Emulator

__all__ = ["inside"]

CUT_S = 30
LARGEST = 1000
UPGRADE = b"GET /talk HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def outside(clock: ManualClock, inside: Inside) -> Iterator[Outside]:
    with Emulator(behaviour=Behaviour(cut_s=CUT_S, largest_body_bytes=LARGEST), clock=clock) as dok:
        outside = Outside(dok, inside)
        yield outside
        outside.close()


def test_a_connection_is_kept_from_request_to_request_on_both_sides(outside: Outside, inside: Inside) -> None:
    client = outside.connect()
    for path in ("/one", "/two", "/three"):
        client.request("POST", path, b"body of " + path.encode())
        assert said(client) == (200, b"ok")
        assert inside.heard.get(timeout=PATIENCE_S).endswith(b"body of " + path.encode())
    assert inside.connections == 1


@pytest.mark.parametrize("told", [b"", b"Connection: close\r\n"])
def test_a_container_that_closes_its_connection_is_reached_anew(outside: Outside, inside: Inside, told: bytes) -> None:
    inside.answers["/last"] = OK.replace(b"Content", told + b"Content")
    inside.last.add("/last")
    client = outside.connect()
    for _ in range(3):
        client.request("GET", "/last")
        response = client.getresponse()
        assert (response.status, response.read(), response.headers["Connection"]) == (200, b"ok", None)
        inside.ended.get(timeout=PATIENCE_S)
    assert inside.connections == 3


def test_a_client_that_wants_no_more_is_told_so_and_left(outside: Outside) -> None:
    answer = all_of(outside.raw(b"GET /one HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize(
    ("method", "answer", "status"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", 304),
        ("POST", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 103),
    ],
)
def test_answers_without_a_body_end_where_they_do(
    outside: Outside, inside: Inside, method: str, answer: bytes, status: int
) -> None:
    inside.answers["/bare"] = answer
    line = outside.raw(f"{method} /bare HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n".encode())
    line.sendall(b"Connection: close\r\n\r\n")
    came = all_of(line)
    assert came.startswith(f"HTTP/1.1 {status} ".encode())
    assert came.count(b"HTTP/1.1 200 OK") == (2 if method == "HEAD" else 1)
    assert came.count(b"ok") == 1


def test_chunks_pass_in_both_directions_with_what_follows_them(outside: Outside, inside: Inside) -> None:
    chunked = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nSum: 5\r\n\r\n"
    inside.answers["/chunks"] = b"HTTP/1.1 200 OK\r\nTrailer: Sum\r\n" + chunked
    line = outside.raw(
        b"POST /chunks HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + chunked.replace(b"Sum: 5\r\n", b"")
    )
    came = all_of(line)
    assert came.endswith(b"0\r\nSum: 5\r\n\r\n")
    assert b"abc" in came
    assert inside.heard.get(timeout=PATIENCE_S).endswith(b"abcde\r\n0\r\n\r\n")


def test_an_answer_that_ends_with_its_connection_ends_on_the_kept_one_too(outside: Outside, inside: Inside) -> None:
    inside.answers["/open"] = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
    inside.last.add("/open")
    client = outside.connect()
    for _ in range(2):
        client.request("GET", "/open")
        assert said(client) == (200, b"until the end")


def test_an_old_client_gets_the_bytes_and_an_end(outside: Outside, inside: Inside) -> None:
    inside.answers["/"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    came = all_of(outside.raw(b"GET / HTTP/1.0\r\n\r\n"))
    assert came.endswith(b"\r\n\r\nhi")
    assert b"chunked" not in came


def test_what_is_for_the_next_neighbour_only_does_not_pass_and_the_rest_keeps_its_letters(
    outside: Outside, inside: Inside
) -> None:
    line = outside.raw(
        b"GET /a?b=c HTTP/1.1\r\nHost: here\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nX-Hop: 2\r\n"
        b"Connection: close, x-hop\r\n\r\n"
    )
    all_of(line)
    assert inside.heard.get(timeout=PATIENCE_S) == b"GET /a?b=c HTTP/1.1\r\nHost: here\r\nX-Mine: 1\r\n\r\n"


def test_a_client_that_waits_to_be_told_to_go_on_is_told_so(outside: Outside, inside: Inside) -> None:
    line = outside.raw(
        b"PUT /big HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    )
    assert line.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    line.sendall(b"body")
    assert all_of(line).startswith(b"HTTP/1.1 200 OK")
    assert inside.heard.get(timeout=PATIENCE_S).endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (b"Content-Length: 1001", b"x" * 1001),
        (b"Content-Length: 1001\r\nExpect: 100-continue", b""),
        (b"Transfer-Encoding: chunked", b"3e9\r\n" + b"x" * 1001 + b"\r\n"),
        (b"Content-Length: 30000000", b"x" * 20_000_000),
    ],
    ids=["announced", "expected", "chunked", "megabytes"],
)
def test_a_body_that_is_too_large_is_refused_and_never_passed_on(
    outside: Outside, inside: Inside, fields: bytes, body: bytes
) -> None:
    line = outside.raw(b"POST /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + fields + b"\r\n\r\n" + body)
    answer = all_of(line)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert inside.connections == 0


def test_a_body_that_is_just_small_enough_passes(outside: Outside, inside: Inside) -> None:
    client = outside.connect()
    client.request("POST", "/", b"x" * LARGEST)
    assert said(client) == (200, b"ok")
    assert inside.heard.get(timeout=PATIENCE_S).endswith(b"x" * LARGEST)


@pytest.mark.parametrize("size", [(64 << 10) + 1, 200_000])
def test_a_head_that_is_too_large_is_refused(outside: Outside, inside: Inside, size: int) -> None:
    line = outside.raw(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: " + b"x" * size + b"\r\n\r\n")
    assert all_of(line).startswith(b"HTTP/1.1 431 ")
    assert inside.connections == 0


@pytest.mark.parametrize(
    "said", [b"no http at all\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"]
)
def test_what_is_no_request_is_refused(outside: Outside, inside: Inside, said: bytes) -> None:
    line = outside.raw(said)
    assert all_of(line).startswith(b"HTTP/1.1 400 ")
    assert inside.connections == 0


@pytest.mark.parametrize(
    ("answer", "comes"),
    [
        (b"", b"HTTP/1.1 502 "),
        (b"no http at all\r\n\r\n", b"HTTP/1.1 502 "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
    ],
    ids=["nothing", "nonsense", "half"],
)
def test_an_answer_that_breaks_is_told_as_long_as_that_can_be(
    outside: Outside, inside: Inside, answer: bytes, comes: bytes
) -> None:
    inside.answers["/broken"] = answer
    inside.last.add("/broken")
    line = outside.raw(b"GET /broken HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    came = all_of(line).replace(b"Connection: close\r\n", b"")
    assert came.startswith(comes)
    assert comes.endswith(b"half") is came.endswith(b"half")


def test_a_connection_goes_on_after_a_broken_answer_that_was_told(outside: Outside, inside: Inside) -> None:
    inside.answers["/broken"] = b"no http at all\r\n\r\n"
    client = outside.connect()
    client.request("GET", "/broken")
    assert said(client)[0] == 502
    assert inside.ended.get(timeout=PATIENCE_S) == "ended"
    client.request("GET", "/whole")
    assert said(client) == (200, b"ok")


def test_when_the_client_goes_the_container_is_told(outside: Outside, inside: Inside) -> None:
    inside.answers["/silent"] = b""
    line = outside.raw(b"GET /silent HTTP/1.1\r\nHost: a\r\n\r\n")
    inside.heard.get(timeout=PATIENCE_S)
    line.close()
    assert inside.ended.get(timeout=PATIENCE_S) == "ended"


@pytest.mark.parametrize("asked", [b"GET /slow HTT", b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhal"])
def test_a_request_that_trickles_in_is_cut(outside: Outside, inside: Inside, clock: ManualClock, asked: bytes) -> None:
    line = outside.raw(asked)
    clock.wait_for_sleeper(CUT_S)
    clock.pass_time(CUT_S - 1)
    line.sendall(b"P" if asked.endswith(b"T") else b"f")
    clock.pass_time(1)
    assert all_of(line).startswith(b"HTTP/1.1 504 ")
    assert inside.connections == 0


def test_an_answer_that_trickles_is_cut_all_the_same(outside: Outside, inside: Inside, clock: ManualClock) -> None:
    inside.answers["/slow"] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1"
    line = outside.raw(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    clock.wait_for_sleeper(CUT_S)
    clock.pass_time(CUT_S - 1)
    came = b""
    while not came.endswith(b"1"):
        came += line.recv(100)
    clock.pass_time(1)
    assert all_of(line) == b""
    assert inside.ended.get(timeout=PATIENCE_S) == "ended"


def test_the_time_between_requests_is_nobodys(outside: Outside, clock: ManualClock) -> None:
    client = outside.connect()
    for _ in range(3):
        client.request("GET", "/one")
        assert said(client) == (200, b"ok")
        clock.pass_time(CUT_S)


def talk(outside: Outside, inside: Inside) -> socket.socket:
    """Switch a connection to another protocol, whose other side says each time what it says first."""
    inside.answers["/talk"] = SWITCH + b"hello"
    line = outside.raw(UPGRADE)
    came = b""
    while not came.endswith(b"hello"):
        came += line.recv(100)
    assert came == SWITCH + b"hello"
    asked = inside.heard.get(timeout=PATIENCE_S).lower()
    assert b"\r\nconnection: upgrade\r\n" in asked
    assert b"\r\nupgrade: websocket\r\n" in asked
    return line


def test_what_has_switched_to_another_protocol_is_cut_when_it_is_silent(
    outside: Outside, inside: Inside, clock: ManualClock
) -> None:
    inside.answers["/more"] = b"more"
    line = talk(outside, inside)
    for _ in range(3):
        clock.pass_time(CUT_S - 1)
        line.sendall(b"GET /more \r\n\r\n")
        assert line.recv(100) == b"more"
    clock.pass_time(CUT_S)
    assert all_of(line) == b""
    assert inside.ended.get(timeout=PATIENCE_S) == "ended"


def test_an_upgrade_that_is_declined_is_an_ordinary_answer(outside: Outside) -> None:
    line = outside.raw(UPGRADE.replace(b"/talk", b"/plain") + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert all_of(line).count(b"HTTP/1.1 200 OK") == 2


def test_nobody_is_led_elsewhere(outside: Outside, inside: Inside) -> None:
    line = outside.raw(b"CONNECT other:443 HTTP/1.1\r\nHost: other\r\n\r\n")
    assert line.recv(100).startswith(b"HTTP/1.1 405 ")
    assert inside.connections == 0
