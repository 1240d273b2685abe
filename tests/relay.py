"""A relay before DOK that says what came through, holds requests where a test wants them, and can be out of reach.

with Relay(dok) as relay:
    held = relay.hold("POST", "*/tasks/", "after")
    ...  # point a client at relay.api_url
    held.reached()
"""

from __future__ import annotations

import email.utils
import fnmatch
import http.client
import http.server
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, Literal

from listening import Listening, QuietServer

from dokrun.emulator import Emulator

_PATIENCE_S = 60.0
_HOPS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


class Hold:
    """One request that shall stop in the relay: `before` DOK has heard of it, or `after` it has carried it out."""

    def __init__(self, method: str, pattern: str, when: Literal["before", "after"]) -> None:
        self.method, self.pattern, self.when = method, pattern, when
        self._reached, self._gone = threading.Event(), threading.Event()
        self.dropped = False

    def taken(self, method: str, path: str, when: str) -> bool:
        """Tell whether it is this request's turn to stop; only one ever does."""
        named = method == self.method and fnmatch.fnmatchcase(path, self.pattern) and when == self.when
        return named and not self._reached.is_set()

    def stop(self) -> None:
        self._reached.set()
        assert self._gone.wait(_PATIENCE_S), "nobody has let the request go on"

    def reached(self) -> None:
        """Wait until the request is held."""
        assert self._reached.wait(_PATIENCE_S), f"no {self.method} {self.pattern} came"

    def release(self) -> None:
        """Let it go on."""
        self._gone.set()

    def drop(self) -> None:
        """Let nobody hear of it any more."""
        self.dropped = True
        self._gone.set()


class Relay(Listening):
    """The relay. `requests` are the methods and paths that DOK has heard, in order; any thread may look."""

    def __init__(self, dok: Emulator) -> None:
        self.upstream = urllib.parse.urlsplit(dok.api_url)
        self.requests: list[tuple[str, str]] = []
        # Seconds by which the answers' `Date` is ahead of the machine's clock.
        self.ahead_s = 0.0
        # Called before a request reaches DOK.
        self.heard: Callable[[str, str], None] = lambda _method, _path: None
        # May write an answer's body anew.
        self.rewrite: Callable[[str, str, bytes], bytes] = lambda _method, _path, body: body
        self.holds: list[Hold] = []
        self.lock = threading.Lock()
        super().__init__(_Server(self))
        self.api_url = f"{self.url}{self.upstream.path}"

    def __enter__(self) -> Relay:  # noqa: PYI034 - nobody makes a class of this
        return self

    def __exit__(self, *_error: object) -> None:
        for hold in self.holds:
            hold.drop()
        self.stop()

    def hold(self, method: str, pattern: str, when: Literal["before", "after"]) -> Hold:
        """Stop the next request of a method to a path of this pattern."""
        self.holds.append(Hold(method, pattern, when))
        return self.holds[-1]

    def count(self, method: str, pattern: str) -> int:
        """Tell how many such requests DOK has heard."""
        return sum(one == method and fnmatch.fnmatchcase(path, pattern) for one, path in list(self.requests))


class _Server(QuietServer):
    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    # HTTP/1.0, so that no connection outlives its answer.
    server: _Server

    def do_any(self) -> None:
        relay, method, path = self.server.relay, self.command, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if not self._passes("before"):
            return
        relay.heard(method, path)
        with relay.lock:
            relay.requests.append((method, path))
        connection = http.client.HTTPConnection(relay.upstream.hostname or "", relay.upstream.port, timeout=_PATIENCE_S)
        try:
            # With the relay's own `Host`, so that the addresses which DOK gives lead through here.
            kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOPS}
            connection.request(method, self.path, body, kept)
            response = connection.getresponse()
            answer = relay.rewrite(method, path, response.read())
        finally:
            connection.close()
        if self._passes("after"):
            self._answer(response, answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815 - the server's names

    def _passes(self, when: str) -> bool:
        relay, path = self.server.relay, self.path.partition("?")[0]
        for hold in relay.holds:
            if hold.taken(self.command, path, when):
                hold.stop()
                return not hold.dropped
        return True

    def _answer(self, response: http.client.HTTPResponse, body: bytes) -> None:
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _HOPS | {"date"}:
                self.send_header(name, value)
        self.send_header("Date", email.utils.formatdate(time.time() + self.server.relay.ahead_s, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""
