"""Kept connections to one address, for many small requests: the standard library's, a third as dear as httpx's.

Every request may be repeated, or this would not do it: a connection that was kept may have been closed meanwhile, and
then another one is made.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import io
import queue
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import Any, NamedTuple

import httpx

from dokrun.api.transport import goes_straight
from dokrun.errors import ConfigError

# How long a connection may take to be made.
CONNECT_S = 10.0
LARGEST_BODY_BYTES = 64 << 20
_CHUNK = 1 << 20


class NotConnected(Exception):
    """No connection could be made, so nothing was sent."""


class Broken(Exception):
    """No whole answer came."""


class Answer(NamedTuple):
    """What came back, whoever it is from."""

    status: int
    headers: Message
    body: bytes


class _Deadline:
    """Until when a head has to come, and then a body: a byte a second beats every timeout of a single read."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.begin()

    def begin(self) -> None:
        """Count from now."""
        self._until = time.monotonic() + self._seconds

    @property
    def left_s(self) -> float:
        """How long it still is. Raises TimeoutError."""
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer comes too slowly")
        return left_s


class _Reader(io.RawIOBase):
    """Reads what comes on a socket, until a deadline."""

    def __init__(self, deadline: _Deadline, connection: socket.socket, inner: io.BufferedReader) -> None:
        self._deadline = deadline
        self._socket = connection
        self._inner = inner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._deadline.left_s)
        return self._inner.raw.readinto(buffer)

    def close(self) -> None:
        self._inner.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer that comes before a deadline, its head too."""

    def __init__(self, deadline: _Deadline, connection: socket.socket, *more: Any, **told: Any) -> None:
        super().__init__(connection, *more, **told)
        self.fp = io.BufferedReader(_Reader(deadline, connection, self.fp))


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
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._closed = False
        if not goes_straight(self._host):
            _proxy(self._url.scheme)

    def post(self, path: str, body: bytes | memoryview, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """Send a request, whose answer may take so many seconds until it begins.

        Raises:
            NotConnected: it cannot have been heard.
            Broken: no whole answer came.
        """
        while True:
            connection, kept = self._connection()
            try:
                answer = _post(connection, self._url.path.rstrip("/") + path, body, headers, timeout_s)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept and not isinstance(error, TimeoutError):
                    continue  # it was closed while nobody looked, as all of them may have been
                raise Broken(str(error) or type(error).__name__) from None
            except BaseException:
                connection.close()
                raise
            if connection.sock is not None:
                self._idle.put(connection)
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

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
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
        return connection, False

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


def _post(
    connection: http.client.HTTPConnection,
    path: str,
    body: bytes | memoryview,
    headers: Mapping[str, str],
    timeout_s: float,
) -> Answer:
    connection.sock.settimeout(timeout_s)
    connection.request("POST", path, body, dict(headers))
    deadline = _Deadline(timeout_s)
    connection.response_class = functools.partial(_Response, deadline)  # type: ignore[assignment]  # it makes one
    # Closed, or it would take no other request; and one that ends its connection would keep that open.
    with contextlib.closing(connection.getresponse()) as response:
        deadline.begin()
        read = bytearray()
        while chunk := response.read1(_CHUNK):
            read += chunk
            if len(read) > LARGEST_BODY_BYTES:
                raise http.client.HTTPException("the answer is too large")
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
    return Answer(response.status, response.headers, bytes(read))
