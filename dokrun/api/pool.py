"""Kept connections to one address, for many small requests, each at a fraction of what httpx takes.

Every request may be repeated, or this would not do it: a connection that was kept may have been closed meanwhile, and
then another one is made.
"""

from __future__ import annotations

import base64
import http.client
import queue
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

import httpx

from dokrun.api.transport import goes_straight
from dokrun.errors import ConfigError
from dokrun.shim.reply import Reply

# How long a connection may take to be made.
CONNECT_S = 10.0
# What is smaller goes with its head, in one packet.
_JOINED_BYTES = 64 << 10
LARGEST_BODY_BYTES = 64 << 20


class Answer(NamedTuple):
    """What came back, whoever it is from; the names of fields in lower case."""

    status: int
    fields: dict[str, str]
    body: bytearray | memoryview


class NotConnected(Exception):
    """No connection could be made, so nothing was sent."""


class Broken(Exception):
    """No whole answer came."""


class _Line:
    """A connection that was made."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._reply = Reply(connection)

    def ask(self, head: bytes, body: bytes | memoryview, timeout_s: float, into: memoryview | None) -> Answer:
        """Send a request, and read its answer. Raises OSError."""
        self._socket.settimeout(timeout_s)
        if len(body) < _JOINED_BYTES:
            self._socket.sendall(head + body)
        else:
            self._socket.sendall(head)
            self._socket.sendall(body)
        self._reply.begin(timeout_s)
        return Answer(self._reply.status, self._reply.fields, self._reply.whole(LARGEST_BODY_BYTES, into))

    @property
    def goes_on(self) -> bool:
        """Whether it takes another request."""
        return self._reply.goes_on

    def close(self) -> None:
        """End it."""
        self._socket.close()


class Pool:
    """Sends POST requests to one address, each over a connection of its own, as long as it takes. For any thread.

    Through the proxy that the environment names for the host, or straight where it names none. No redirect is followed.

    Args:
        url: the address.

    Raises:
        ConfigError: it is reached through a proxy that cannot be spoken to.
    """

    def __init__(self, url: str) -> None:
        self._url = urllib.parse.urlsplit(url)
        self._host = self._url.hostname or ""
        self._port = self._url.port or (443 if self._url.scheme == "https" else 80)
        self._context = httpx.create_ssl_context() if self._url.scheme == "https" else None
        self._idle: queue.LifoQueue[_Line] = queue.LifoQueue()
        self._closed = False
        self._base = self._url.path.rstrip("/")
        self._named = self._url.netloc.rpartition("@")[2]
        if not goes_straight(self._host):
            _proxy(self._url.scheme)

    def post(
        self,
        path: str,
        body: bytes | memoryview,
        headers: Mapping[str, str],
        timeout_s: float,
        into: memoryview | None = None,
    ) -> Answer:
        """Send a request, whose answer may take so many seconds until it begins; its body goes `into`, if it has room.

        Raises:
            NotConnected: it cannot have been heard.
            Broken: no whole answer came.
        """
        lines = [
            f"POST {self._base}{path} HTTP/1.1",
            f"Host: {self._named}",
            "Accept-Encoding: identity",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        while True:
            line, kept = self._line()
            try:
                answer = line.ask(head, body, timeout_s, into)
            except OSError as error:
                line.close()
                if kept and not isinstance(error, TimeoutError):
                    continue  # it was closed while nobody looked, as all of them may have been
                raise Broken(str(error) or type(error).__name__) from None
            except BaseException:
                line.close()
                raise
            if line.goes_on:
                self._idle.put(line)
            else:
                line.close()
            if self._closed:
                self._close_idle()  # nobody else will
            return answer

    def close(self) -> None:
        """Close the connections, those in use as soon as their answers have come."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def _line(self) -> tuple[_Line, bool]:
        """Tell a connection, and whether it was kept."""
        try:
            return self._idle.get_nowait(), True
        except queue.Empty:
            pass
        connection = self._made()
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NotConnected(str(error) or type(error).__name__) from None
        return _Line(connection.sock), False

    def _made(self) -> http.client.HTTPConnection:
        found = None if goes_straight(self._host) else _proxy(self._url.scheme)
        if found is None:
            return self._to(self._host, self._port)
        connection = self._to(found.hostname or "", found.port or 80)
        told = {}
        if found.username is not None:
            pair = f"{urllib.parse.unquote(found.username)}:{urllib.parse.unquote(found.password or '')}"
            told["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        connection.set_tunnel(self._host, self._port, told)
        return connection

    def _to(self, host: str, port: int) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(host, port, timeout=CONNECT_S)
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=self._context)


def check_proxy() -> None:
    """See that a session can be reached, as far as that shows before its host is known. Raises ConfigError."""
    if "no" not in urllib.request.getproxies_environment():
        _proxy("https")


def _proxy(scheme: str) -> urllib.parse.SplitResult | None:
    """Tell the proxy that the environment names. Raises ConfigError where it is one that cannot be spoken to."""
    named = urllib.request.getproxies()
    which = next((name for name in (scheme, "all") if named.get(name)), None)
    if which is None:
        return None
    found = urllib.parse.urlsplit(named[which] if "://" in named[which] else f"http://{named[which]}")
    if found.scheme != "http":
        raise ConfigError(
            f"{which.upper()}_PROXY names a proxy of {found.scheme}://, and sessions are reached through http:// ones; "
            f"set {scheme.upper()}_PROXY to such a one, or NO_PROXY to the session's host, where none is needed"
        )
    return found
