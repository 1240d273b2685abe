"""Kept connections to one address: one that was closed meanwhile costs nothing, and no answer may be endless."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from ported import OK, Inside, inside
from waiting import PATIENCE_S, wait_for

from dokrun.api import pool
from dokrun.api.pool import Broken, NotConnected, Pool
from dokrun.errors import ConfigError

__all__ = ["inside"]

BRIEFLY_S = 0.3


@pytest.fixture
def to_inside(inside: Inside) -> Iterator[Pool]:
    with closing(Pool(f"http://127.0.0.1:{inside.port}/base/")) as made:
        yield made


def post(sender: Pool, path: str = "/x", timeout_s: float = PATIENCE_S) -> tuple[int, bytes]:
    answer = sender.post(path, b"body", {"Name": "value"}, timeout_s)
    return answer.status, bytes(answer.body)


def test_a_connection_is_kept_from_request_to_request(inside: Inside, to_inside: Pool) -> None:
    assert [post(to_inside) for _ in range(3)] == [(200, b"ok")] * 3
    assert inside.connections == 1
    heard = inside.heard.get(timeout=PATIENCE_S)
    assert heard.startswith(b"POST /base/x HTTP/1.1\r\n")
    assert b"\r\nName: value\r\n" in heard
    assert heard.endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize("told", [b"", b"Connection: close\r\n"])
def test_one_that_was_closed_meanwhile_is_made_anew(inside: Inside, to_inside: Pool, told: bytes) -> None:
    inside.answers["/base/last"] = OK.replace(b"Content", told + b"Content")
    inside.last.add("/base/last")
    for _ in range(3):
        assert post(to_inside, "/last") == (200, b"ok")
        inside.ended.get(timeout=PATIENCE_S)
    assert inside.connections == 3


def test_though_all_of_them_were_closed_the_next_request_is_answered(inside: Inside, to_inside: Pool) -> None:
    inside.last.add("/base/last")
    together = threading.Barrier(4)

    def one() -> None:
        together.wait(PATIENCE_S)
        post(to_inside, "/last")

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(inside.connections):
        inside.ended.get(timeout=PATIENCE_S)
    assert post(to_inside) == (200, b"ok")


def test_once_it_is_closed_no_connection_is_kept_that_was_in_use(inside: Inside, to_inside: Pool) -> None:
    to_inside.close()  # an answer that comes after this finds it as one does that was asked for before
    assert post(to_inside) == (200, b"ok")
    inside.ended.get(timeout=PATIENCE_S)


def test_where_nobody_listens_nothing_was_sent(inside: Inside, to_inside: Pool) -> None:
    assert post(to_inside) == (200, b"ok")
    inside.close()
    with closing(Pool(f"http://127.0.0.1:{inside.port}")) as sender, pytest.raises(NotConnected, match="refused"):
        post(sender)


def test_no_redirect_is_followed(inside: Inside, to_inside: Pool) -> None:
    moved = f"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:{inside.port}/there\r\nContent-Length: 0\r\n\r\n"
    inside.answers["/base/x"] = moved.encode()
    assert post(to_inside) == (307, b"")
    assert inside.heard.qsize() == 1


CUT = {
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    "absurd": b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\nabc",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
    "nothing": b"",
    "no HTTP": b"hello\r\n\r\n",
    "no status": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "another HTTP": b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "no field": b"HTTP/1.1 200 OK\r\nContent-Length\r\n\r\nok",
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks without ends": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "large chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (b"2000000\r\n" + bytes(0x2000000) + b"\r\n") * 3,
    "a long line": b"HTTP/1.1 200 OK\r\nX: " + bytes(1 << 17) + b"\r\n\r\n",
    "many lines": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    "too large": b"HTTP/1.1 200 OK\r\nContent-Length: 70000000\r\n\r\n" + bytes(70_000_000),
    "too large without end": b"HTTP/1.1 200 OK\r\n\r\n" + bytes(70_000_000),
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
def test_an_answer_that_does_not_come_whole_is_none(inside: Inside, to_inside: Pool, answer: bytes) -> None:
    inside.answers["/base/x"] = answer
    inside.last.add("/base/x")
    with pytest.raises(Broken):
        post(to_inside)
    assert inside.connections == 1
    assert post(to_inside, "/other") == (200, b"ok")


WHOLE = {
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
        True,
    ),
    "after others": (
        b"HTTP/1.1 103 Early\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nab0123456789",
        True,
    ),
    "of an old kind": (b"HTTP/1.0 200 OK\r\nContent-Length: 12\r\n\r\nab0123456789", False),
    "of an old kind, kept": (
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 012\r\n\r\nab0123456789",
        True,
    ),
    "until its end": (b"HTTP/1.1 200 OK\r\n\r\nab0123456789", False),
    "and more": (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nab0123456789HTTP/1.1 200 OK\r\n", False),
    "without a reason": (b"HTTP/1.1 200\r\ncontent-LENGTH:12\r\n\r\nab0123456789", True),
}


@pytest.mark.parametrize(("answer", "kept"), WHOLE.values(), ids=WHOLE)
def test_a_whole_answer_is_read_however_it_is_framed(
    inside: Inside, to_inside: Pool, answer: bytes, *, kept: bool
) -> None:
    inside.answers["/base/x"] = answer
    if answer == WHOLE["until its end"][0]:
        inside.last.add("/base/x")
    assert post(to_inside) == (200, b"ab0123456789")
    assert post(to_inside, "/other") == (200, b"ok")
    assert inside.connections == (1 if kept else 2)


def test_an_answer_without_a_body_is_not_waited_for(inside: Inside, to_inside: Pool) -> None:
    inside.answers["/base/x"] = b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"
    assert [post(to_inside), post(to_inside)] == [(204, b"")] * 2
    assert inside.connections == 1


class Dripping:
    """Says one thing and then another one again and again, until nobody listens any more."""

    def __init__(self, first: bytes, again: bytes) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.connections = 0
        self.left = threading.Event()
        threading.Thread(target=self._serve, args=(first, again), daemon=True).start()

    def _serve(self, first: bytes, again: bytes) -> None:
        line, _ = self._server.accept()
        with line:
            self.connections += 1
            line.sendall(first)
            pause = threading.Event()
            try:
                while not pause.wait(BRIEFLY_S / 10):
                    line.sendall(again)
            except OSError:
                self.left.set()

    def close(self) -> None:
        self._server.close()


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"", b""),
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"HTTP/1.1 100 Continue\r\n", b"x: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["silence", "status", "head", "continue", "body", "body without end", "chunks"],
)
def test_an_answer_that_drips_is_given_up_in_time(first: bytes, again: bytes) -> None:
    with closing(Dripping(first, again)) as server, closing(Pool(f"http://127.0.0.1:{server.port}")) as sender:
        with pytest.raises(Broken, match=r"slowly|timed out"):
            post(sender, timeout_s=BRIEFLY_S)
        if again:
            assert server.left.wait(PATIENCE_S)
        assert server.connections == 1


class Proxy:
    """Takes one CONNECT, says what it is told to, and hears what follows."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.asked = self.heard = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        line, _ = self._server.accept()
        with line:
            while b"\r\n\r\n" not in self.asked:
                self.asked += line.recv(65536)
            line.sendall(self._answer)
            self.heard = line.recv(65536)

    def close(self) -> None:
        self._server.close()


def through(
    told: pytest.MonkeyPatch, proxy: str, url: str = "https://session.example", variable: str = "https_proxy"
) -> Callable[[], object]:
    for name in ("https", "all", "no", "http"):
        told.delenv(f"{name}_proxy", raising=False)
        told.delenv(f"{name}_proxy".upper(), raising=False)
    told.setenv(variable, proxy)
    return lambda: Pool(url).post("/x", b"body", {}, PATIENCE_S)


@pytest.mark.parametrize(("scheme", "variable"), [("", "https_proxy"), ("http://", "HTTPS_PROXY"), ("", "ALL_PROXY")])
def test_a_proxy_that_the_environment_names_leads_to_the_session(
    monkeypatch: pytest.MonkeyPatch, scheme: str, variable: str
) -> None:
    with closing(Proxy(b"HTTP/1.1 200 Connected\r\n\r\n")) as proxy:
        send = through(monkeypatch, f"{scheme}ann:p%40ss@{proxy.address}", variable=variable)
        with pytest.raises(NotConnected):
            send()
        wait_for(lambda: proxy.heard)
    first, *lines = proxy.asked.decode().split("\r\n")
    assert first.startswith("CONNECT session.example:443 HTTP/1.")
    assert "Proxy-Authorization: Basic " + base64.b64encode(b"ann:p@ss").decode() in lines
    # TLS begins, with the session and not with the proxy.
    assert proxy.heard.startswith(b"\x16\x03")
    assert b"session.example" in proxy.heard


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 Bad Gateway", b"307 Moved"])
def test_a_proxy_that_refuses_has_sent_nothing_and_its_password_is_not_told(
    monkeypatch: pytest.MonkeyPatch, status: bytes
) -> None:
    with closing(Proxy(b"HTTP/1.1 " + status + b"\r\nLocation: http://127.0.0.1:1/\r\n\r\n")) as proxy:
        send = through(monkeypatch, f"http://ann:secret-word@{proxy.address}")
        with pytest.raises(NotConnected, match=status[:3].decode()) as caught:
            send()
    assert "secret-word" not in str(caught.value)
    assert proxy.heard == b""


@pytest.mark.parametrize("variable", ["https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["https", "socks5", "socks5h", "socks4"])
def test_a_proxy_that_cannot_be_spoken_to_is_told_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, inside: Inside, scheme: str, variable: str
) -> None:
    proxy, url = f"{scheme}://ann:secret-word@127.0.0.1:{inside.port}", "https://session.example"
    send = through(monkeypatch, proxy, url, variable)
    for refuses in (send, pool.check_proxy):
        with pytest.raises(ConfigError, match=rf"^{variable.upper()} names a proxy of {scheme}://") as caught:
            refuses()
        assert "set HTTPS_PROXY to such a one" in str(caught.value)
        assert "secret-word" not in str(caught.value)
    monkeypatch.setenv("NO_PROXY", "session.example")
    pool.check_proxy()
    Pool(url).close()
    assert inside.connections == 0


def test_a_proxy_that_is_not_there_has_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotConnected, match="refused"):
        through(monkeypatch, "http://127.0.0.1:1")()


def test_no_proxy_leads_to_this_machine_or_to_where_none_shall(monkeypatch: pytest.MonkeyPatch, inside: Inside) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with closing(Pool(f"http://127.0.0.1:{inside.port}")) as sender:
        assert post(sender) == (200, b"ok")
    with closing(Proxy(b"")) as proxy:
        send = through(monkeypatch, f"http://{proxy.address}", "https://session.invalid")
        monkeypatch.setenv("no_proxy", "invalid")
        with pytest.raises(NotConnected):
            send()
        assert proxy.asked == b""


def test_what_is_too_large_is_not_held(inside: Inside, to_inside: Pool) -> None:
    size = pool.LARGEST_BODY_BYTES
    inside.answers["/base/x"] = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    assert post(to_inside) == (200, bytes(size)), "so much may be"


INTO = {
    "as much as there is room for": (b"Content-Length: 4\r\n\r\n0123", b"0123"),
    "less": (b"Content-Length: 2\r\n\r\n01", b"01--"),
    "nothing": (b"Content-Length: 0\r\n\r\n", b"----"),
    "more": (b"Content-Length: 6\r\n\r\n012345", b"----"),
    "nobody knows how much": (b"Transfer-Encoding: chunked\r\n\r\n2\r\n01\r\n0\r\n\r\n", b"----"),
}


@pytest.mark.parametrize(("said", "there"), INTO.values(), ids=INTO)
def test_a_body_goes_where_it_shall_if_it_has_room_there(
    inside: Inside, to_inside: Pool, said: bytes, there: bytes
) -> None:
    inside.answers["/base/x"] = b"HTTP/1.1 200 OK\r\n" + said
    room = bytearray(b"----")
    answer = to_inside.post("/x", b"", {}, PATIENCE_S, memoryview(room))
    assert bytes(answer.body) == said.partition(b"\r\n\r\n")[2].replace(b"2\r\n01\r\n0\r\n\r\n", b"01")
    assert room == there
