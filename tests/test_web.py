"""HTTP as a container speaks it: whatever a server says, it is a whole answer or none, in time."""

from __future__ import annotations

import datetime as dt
import io
import ipaddress
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from waiting import PATIENCE_S

from dokrun.shim import web
from dokrun.shim.reply import Cut, TooLarge

BRIEFLY_S = 0.3
LIMIT = 1000


class Server:
    """Says to each connection the next of some answers, once it has heard the request to its end.

    An answer in pieces is said piece by piece, with a pause between them; a 403 before the request's body is heard.
    """

    def __init__(self, *answers: bytes | list[bytes], tls: ssl.SSLContext | None = None, pause_s: float = 0.0) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._answers = answers
        self._tls = tls
        self._pause_s = pause_s
        self.place = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.place}"
        self.heard: list[bytes] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            try:
                line, _ = self._listening.accept()
            except OSError:
                return  # it was closed: nobody wants the rest
            try:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    line = self._tls.wrap_socket(line, server_side=True)
                with line:
                    self._answer(line, answer)
            except OSError:
                pass  # who asked has gone

    def _answer(self, line: socket.socket, answer: bytes | list[bytes]) -> None:
        heard = b""
        while b"\r\n\r\n" not in heard:
            heard += line.recv(65536)
        end = heard.index(b"\r\n\r\n") + 4
        told = heard[:end].lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        early = isinstance(answer, bytes) and answer.startswith(b"HTTP/1.1 403")
        while not early and len(heard) < end + int(told or 0):
            heard += line.recv(65536)
        self.heard.append(heard)
        pause = threading.Event()
        for piece in [answer] if isinstance(answer, bytes) else answer:
            line.sendall(piece)
            pause.wait(self._pause_s)

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(servers: ExitStack, *answers: bytes | list[bytes], **more: Any) -> Server:
    server = Server(*answers, **more)
    servers.callback(server.close)
    return server


def whole(answer: web.Answer, most: int = 0) -> bytes:
    """Read all of it at once, or at most so many bytes at a time."""
    with answer:
        if not most:
            return bytes(answer.whole(LIMIT))
        data, some = b"", memoryview(bytearray(most))
        while count := answer.read_into(some):
            data += some[:count]
        assert answer.read_into(some) == 0
    return data


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = {
    "a length": OK,
    "more than its length": OK + b"more",
    "until its end": b"HTTP/1.0 200 OK\r\n\r\n0123456789",
    "chunks": CHUNKED + b"3;x=y\r\n012\r\n7\r\n3456789\r\n0\r\nTrailer: x\r\n\r\n",
    "after another": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
}


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("most", [0, 1, 4, 1000])
@pytest.mark.parametrize("byte_by_byte", [True, False])
def test_a_body_is_read_however_it_is_framed(
    servers: ExitStack, answer: bytes, most: int, *, byte_by_byte: bool
) -> None:
    server = serve(servers, [answer[at : at + 1] for at in range(len(answer))] if byte_by_byte else answer)
    assert whole(web.ask(f"{server.url}/a/b?c=d", PATIENCE_S), most) == b"0123456789"
    assert server.heard[0].startswith(b"GET /a/b?c=d HTTP/1.1\r\nHost: " + server.place.encode() + b"\r\n")


CUT = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no HTTP": b"hello there\r\n\r\n",
    "a short body": OK[:-1],
    "a short chunk": CHUNKED + b"9\r\n0123",
    "no last chunk": CHUNKED + b"9\r\n012345678\r\n",
    "a chunk without an end": CHUNKED + b"3\r\n0123456\r\n0\r\n\r\n",
    "a chunk of no size": CHUNKED + b"x\r\n012\r\n0\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    "no status": OK.replace(b"200", b"2000"),
    "another HTTP": OK.replace(b"HTTP/1.1", b"HTTP/2"),
    "no field": OK.replace(b": 10", b""),
    "no length": OK.replace(b" 10", b" +10"),
    "a length without end": OK.replace(b" 10", b" 1" + b"0" * 10_000),
    "an unknown coding": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
def test_what_is_cut_is_no_answer(servers: ExitStack, answer: bytes) -> None:
    with pytest.raises(OSError, match=r"cut|no HTTP|reset|too long|unknown|broken"):
        whole(web.ask(serve(servers, answer).url, PATIENCE_S))


LARGE = {
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + bytes(1001),
    "chunks": CHUNKED + (b"1ff\r\n" + bytes(0x1FF) + b"\r\n") * 2 + b"0\r\n\r\n",
    "until its end": b"HTTP/1.0 200 OK\r\n\r\n" + bytes(1001),
}


@pytest.mark.parametrize("answer", LARGE.values(), ids=LARGE)
def test_more_than_is_wanted_is_not_held(servers: ExitStack, answer: bytes) -> None:
    with pytest.raises(TooLarge, match="more than 1000 bytes"):
        whole(web.ask(serve(servers, answer).url, PATIENCE_S))


@pytest.mark.parametrize("before", [b"HTTP/1.1 20", OK.replace(b" 10", b" 1000")], ids=["head", "body"])
def test_what_comes_a_byte_at_a_time_is_given_up_in_time(servers: ExitStack, before: bytes) -> None:
    server = serve(servers, [before, *[b"0"] * 1000], pause_s=BRIEFLY_S / 10)
    with pytest.raises(TimeoutError):
        whole(web.ask(server.url, BRIEFLY_S))


def test_what_was_not_done_is_told_by_its_status(servers: ExitStack) -> None:
    with pytest.raises(web.HttpError, match="HTTP 404") as caught:
        web.ask(serve(servers, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").url, PATIENCE_S)
    assert caught.value.status == 404


def moved(where: str, status: int = 307) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_get_goes_to_where_it_is_sent_and_a_put_does_not(servers: ExitStack) -> None:
    there = serve(servers, OK)
    here = serve(servers, moved("/b", 302), moved(f"{there.url}/c"), moved(there.url))
    assert whole(web.ask(f"{here.url}/a", PATIENCE_S)) == b"0123456789"
    assert [heard.split(b" ")[1] for heard in (*here.heard, *there.heard)] == [b"/a", b"/b", b"/c"]
    with pytest.raises(web.HttpError, match="HTTP 307"):
        web.ask(here.url, PATIENCE_S, method="PUT", body=b"", fields=(("Content-Length", "0"),))


def test_a_circle_is_left(servers: ExitStack) -> None:
    server = serve(servers, *[moved("/a")] * 20)
    with pytest.raises(Cut):
        web.ask(f"{server.url}/a", PATIENCE_S)
    assert len(server.heard) == web.HOPS


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_nothing_but_the_web_is_asked(url: str) -> None:
    with pytest.raises(ValueError, match="no address of the web"):
        web.ask(url, PATIENCE_S)


@pytest.mark.parametrize("kind", ["bytes", "file"])
@pytest.mark.parametrize("size", [0, 10, 5_000_000])
def test_what_is_sent_arrives(servers: ExitStack, tmp_path: Path, kind: str, size: int) -> None:
    server, data = serve(servers, OK), bytes(range(250)) * (size // 250) + bytes(size % 250)
    (tmp_path / "file").write_bytes(data)
    with ExitStack() as stack:
        body: bytes | IO[bytes] = data if kind == "bytes" else stack.enter_context((tmp_path / "file").open("rb"))
        fields = ("Content-Length", str(size)), ("If-None-Match", "*")
        with web.ask(server.url, PATIENCE_S, method="PUT", fields=fields, body=body) as answer:
            assert (answer.status, answer.fields["content-length"]) == (200, "10")
    head, _, sent = server.heard[0].partition(b"\r\n\r\n")
    assert sent == data
    assert b"\r\nIf-None-Match: *" in head


def test_who_refuses_before_all_was_sent_is_heard_all_the_same(servers: ExitStack) -> None:
    server = serve(servers, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    body = io.BytesIO(bytes(50_000_000))
    with pytest.raises(web.HttpError, match="HTTP 403"):
        web.ask(server.url, PATIENCE_S, method="PUT", fields=(("Content-Length", "50000000"),), body=body)
    assert len(server.heard[0]) < len(body.getvalue())


def certified(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Make a server's certificate for this machine, and tell where whoever trusts it finds it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    there = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(there, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, path


ASK = """
import sys
from dokrun.shim import web
with web.ask(sys.argv[1], 60) as answer:
    print(answer.whole(100).decode())
"""


@pytest.mark.parametrize(("host", "trusts"), [("127.0.0.1", True), ("localhost", True), ("127.0.0.1", False)])
def test_over_tls_only_who_is_known_is_heard(servers: ExitStack, tmp_path: Path, host: str, *, trusts: bool) -> None:
    tls, certificate = certified(tmp_path)
    server = serve(servers, OK, tls=tls)
    # What is trusted is for a process's whole life.
    done = subprocess.run(
        [sys.executable, "-c", ASK, server.url.replace("127.0.0.1", host)],
        env={"SSL_CERT_FILE": str(certificate)} if trusts else {},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == (("0123456789", 0) if trusts else ("", 1))
    assert trusts or "CERTIFICATE_VERIFY_FAILED" in done.stderr
    assert bool(server.heard) == trusts
