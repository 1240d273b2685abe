"""A proxy before the object store that makes requests go wrong on purpose, and keeps a record of each that did.

    with FaultyStore(store) as faulty:
        faulty.add(StoreFault("reset", method="PUT", path="*/claims/*", phase="after"))

Whoever is told `faulty.url` as the store's address, or an address that was presigned with it, comes through here.
"""

from __future__ import annotations

import fnmatch
import http.client
import http.server
import os
import socket
import struct
import threading
import urllib.parse
from dataclasses import dataclass
from typing import Any, Literal

from listening import Listening, QuietServer

from dokrun.config import BucketSettings
from dokrun.emulator.objects import ObjectStore
from dokrun.secret import Secret

What = Literal["refuse", "reset", "hang", "status", "garbage", "cut", "drip", "tamper", "twice", "hold", "slow-status"]

_PATIENCE_S = 60.0
_HOPS = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "expect", "date", "server"}
)
# What happens to the store's own answer.
_OF_THE_ANSWER = ("cut", "drip", "tamper", "twice", "hold")
_ERROR = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>on purpose</Message></Error>'
# What a store says with a status where the fault does not say it.
_CODES = {
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    429: "SlowDown",
    500: "InternalError",
    503: "SlowDown",
    507: "InsufficientStorage",
}


@dataclass(frozen=True)
class StoreFault:
    """One rule.

    Attributes:
        what: "refuse" (a connection is reset before anything is read; method and path are not known then), "reset" (the
            connection, without an answer), "hang" (until the client goes), "status" (an error of the store's),
            "garbage" (an answer that is none of the store's), "cut" (the answer's body ends at `at_byte`), "drip" (so
            does its speed: from there on a byte every `every_s`), "tamper" (the byte there is another), "twice" (the
            request reaches the store twice), "hold" (the request, until `let_go`), "slow-status" (both).
        method: which method; "*" is every one.
        path: which paths, bucket and key, as a pattern of `fnmatch`.
        occurrence: which of the requests that match, counted from 1; None is every one.
        phase: whether "reset", "hang", "status" and "garbage" happen "before" the store hears of the request, or
            "after" it has carried it out.
        status, code: for "status".
        at_byte: for "cut", "drip" and "tamper"; a negative one counts from the end.
        every_s: for "drip".
    """

    what: What
    method: str = "*"
    path: str = "*"
    occurrence: int | None = 1
    phase: Literal["before", "after"] = "before"
    status: int = 503
    code: str = ""
    at_byte: int = -1
    every_s: float = 0.05


def expired(path: str = "*", **more: Any) -> StoreFault:
    """Make the fault of an address, or of a credential, whose time is over."""
    return StoreFault("status", path=path, status=403, code="ExpiredToken", **more)


@dataclass(frozen=True)
class Happened:
    """A fault that happened: the number of its rule, counted from 1, what it was, and to which request."""

    rule: int
    what: str
    method: str
    path: str


@dataclass(frozen=True)
class Request:
    """A request as it came, and the status of the store's answer; None where there was none, or none was waited for."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int | None


class FaultyStore(Listening):
    """The proxy. `injected` and `requests` tell, in order, what it did and what it was asked. For any thread."""

    def __init__(self, store: ObjectStore) -> None:
        self.bucket = store.bucket
        upstream = urllib.parse.urlsplit(store.url)
        self._upstream = (upstream.hostname or "", upstream.port or 80)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._rules: list[StoreFault] = []
        self._seen: list[int] = []
        self._injected: list[Happened] = []
        self._requests: list[Request] = []
        self.closing = threading.Event()
        self._going_on = threading.Event()
        super().__init__(_Server(self))

    def __enter__(self) -> FaultyStore:  # noqa: PYI034 - nobody makes a class of this
        return self

    def __exit__(self, *_error: object) -> None:
        self.closing.set()
        self.stop()

    @property
    def settings(self) -> BucketSettings:
        """What `Bucket` is told to come through here."""
        return BucketSettings(self.bucket, self.url, None, "anybody", Secret("canary-of-the-bucket"))

    def add(self, fault: StoreFault) -> int:
        """Add a rule. Tells its number."""
        with self._lock:
            self._rules.append(fault)
            self._seen.append(0)
            return len(self._rules)

    def clear(self) -> None:
        """Take all rules back, and forget what there was."""
        with self._lock:
            for kept in (self._rules, self._seen, self._injected, self._requests):
                kept.clear()

    @property
    def injected(self) -> list[Happened]:
        """What happened, in order: for a test to see that its fault did."""
        with self._lock:
            return list(self._injected)

    @property
    def requests(self) -> list[Request]:
        """What was asked, in order of the answers."""
        with self._lock:
            return list(self._requests)

    def asked(self, method: str, path: str) -> list[Request]:
        """Tell the requests of a method to paths of a pattern."""
        return [one for one in self.requests if one.method == method and fnmatch.fnmatchcase(one.path, path)]

    def wait_for(self, what: What, times: int = 1) -> None:
        """Wait until a fault of this kind has happened so many times."""
        with self._changed:
            happened = self._changed.wait_for(
                lambda: sum(it.what == what for it in self._injected) >= times, _PATIENCE_S
            )
        assert happened, f"not so many have happened: {what}"

    def let_go(self) -> None:
        """Let what is held, and whatever would be, go on."""
        self._going_on.set()

    def held(self) -> None:
        """Wait until somebody lets go."""
        self._going_on.wait(_PATIENCE_S)

    def match(self, method: str, path: str) -> StoreFault | None:
        """Tell the fault that shall happen to a request, and write down that it does."""
        with self._changed:
            for number, fault in enumerate(self._rules):
                refusal = fault.what == "refuse"
                named = fault.method in ("*", method) and fnmatch.fnmatchcase(path, fault.path)
                if refusal == bool(method) or not (refusal or named):
                    continue
                self._seen[number] += 1
                if fault.occurrence in (None, self._seen[number]):
                    self._injected.append(Happened(number + 1, fault.what, method, path))
                    self._changed.notify_all()
                    return fault
        return None

    def take_down(self, request: Request) -> None:
        """Write down what was asked."""
        with self._lock:
            self._requests.append(request)

    def forward(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Ask the store itself."""
        connection = http.client.HTTPConnection(*self._upstream, timeout=_PATIENCE_S)
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _HOPS}
            told = response.headers.get("Content-Length", "0")
            return Answer(response.status, kept, response.read(), int(told))
        finally:
            connection.close()


@dataclass(frozen=True)
class Answer:
    """The store's answer. `length` is what it says of its body, which a HEAD's answer does not have."""

    status: int
    headers: dict[str, str]
    body: bytes
    length: int


def _error(fault: StoreFault) -> Answer:
    code = fault.code or _CODES.get(fault.status, "InternalError")
    body = _ERROR % code.encode()
    return Answer(fault.status, {"Content-Type": "application/xml"}, body, len(body))


class _Server(QuietServer):
    def __init__(self, proxy: FaultyStore) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.proxy.match("", "") is not None:
            reset(connection)
            raise ConnectionResetError
        return connection, address


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_any(self) -> None:
        proxy = self.server.proxy
        # A client that believes in a proxy asks for the whole address.
        target, method = self.path.removeprefix(proxy.url), self.command
        path = urllib.parse.unquote(target.partition("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOPS}
        fault = proxy.match(method, path)
        answer = None
        if fault is not None and fault.what == "hold":
            proxy.held()
        if fault is None or fault.phase == "after" or fault.what in _OF_THE_ANSWER:
            answer = proxy.forward(method, target, headers, body)
            if fault is not None and fault.what == "twice":
                answer = proxy.forward(method, target, headers, body)
        proxy.take_down(
            Request(method, path, dict(self.headers.items()), body, None if answer is None else answer.status)
        )
        if fault is not None:
            self._carry_out(fault, answer)
        elif answer is not None:
            self._answer(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815 - the server's names

    def _carry_out(self, fault: StoreFault, answer: Answer | None) -> None:
        if fault.what == "reset":
            self.close_connection = True
            reset(self.connection)
        elif fault.what == "hang":
            self._hang()
        elif fault.what == "status":
            self._answer(_error(fault))
        elif fault.what == "slow-status":
            self._drip(fault, _error(fault), 0)
        elif fault.what == "garbage":
            self.close_connection = True
            self.wfile.write(b"\x00\xff<html>no store{\r\n\r\n")
        elif answer is not None:
            self._spoil(fault, answer)

    def _spoil(self, fault: StoreFault, answer: Answer) -> None:
        at = fault.at_byte if fault.at_byte >= 0 else max(0, len(answer.body) + fault.at_byte)
        if fault.what == "tamper":
            spoilt = bytearray(answer.body)
            spoilt[at] ^= 0xFF
            self._answer(Answer(answer.status, answer.headers, bytes(spoilt), len(spoilt)))
        elif fault.what == "cut":
            self.close_connection = True
            self._answer(Answer(answer.status, answer.headers, answer.body[:at], len(answer.body)))
        elif fault.what == "drip":
            self._drip(fault, answer, at)
        else:
            self._answer(answer)

    def _drip(self, fault: StoreFault, answer: Answer, at: int) -> None:
        self._answer(Answer(answer.status, answer.headers, answer.body[:at], len(answer.body)))
        for position in range(at, len(answer.body)):
            if self.server.proxy.closing.wait(fault.every_s):
                return
            self.wfile.write(answer.body[position : position + 1])

    def _answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(answer.length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
            self.wfile.flush()

    def _hang(self) -> None:
        """Say nothing until the client, or the test, goes."""
        self.close_connection = True
        self.connection.settimeout(0.1)
        while not self.server.proxy.closing.is_set():
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def reset(connection: socket.socket) -> None:
    """Reset a TCP connection: with no time to linger, closing sends RST in place of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Not its `close`, which waits for the files that were made of it.
    os.close(connection.detach())
