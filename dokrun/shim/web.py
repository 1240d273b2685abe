"""HTTP as far as a container needs it: each request on a connection of its own, straight to where it leads.

urllib takes three times as long to load as an interpreter to start, and a container is paid for by the second. No proxy
is asked: what the user's environment says of those is for the user's code.

Stdlib only, Python 3.9 syntax: this file runs in other people's images, and stands in the command that starts them.
"""

from __future__ import annotations

import functools
import socket
import time
from typing import IO, Any

LONGEST_HEAD = 64 << 10
MOST = 1 << 20
HOPS = 5
MOVED = (301, 302, 303, 307, 308)
GOOD = range(200, 300)


class HttpError(OSError):
    """An answer that says that it was not done."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class Cut(OSError):
    """What came is no whole HTTP answer."""


class Answer:
    """An answer whose head has come.

    Attributes:
        status: what it says first.
        fields: what its head says, by names in lower case.
        left: how many bytes of its body are still to come; None where it does not say.
        until: when all of it has to have come, by the monotonic clock: a byte a second is no timeout of the socket's.
    """

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        """Read the head, within `timeout_s`. Raises OSError."""
        self._socket = connection
        self._timeout_s = timeout_s
        self._held = b""
        self.until = time.monotonic() + timeout_s
        self.status = 100
        while self.status < GOOD[0]:
            first, *lines = self._before(b"\r\n\r\n").decode("latin-1").split("\r\n")
            version, _, told = first.partition(" ")
            if not (version.startswith("HTTP/1.") and told[:3].isdecimal()):
                raise Cut("the answer is no HTTP")
            self.status = int(told[:3])
        self.fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        # How much of a chunk is still to come, where it comes in chunks.
        self._chunk = 0 if self.fields.get("transfer-encoding", "").lower() == "chunked" else None
        size = self.fields.get("content-length", "")
        self.left = int(size) if size.isdecimal() and self._chunk is None else None

    def read(self, most: int = MOST) -> bytes:
        """Read some of the body, as soon as there is any; nothing at its end. Raises OSError, where it is cut too."""
        if self._chunk == 0:
            self._begin_chunk()
        most = min(size for size in (most, self._chunk, self.left) if size is not None)
        data = self._held[:most] or (self._received(most) if most else b"")
        self._held = self._held[len(data) :]
        if most and not data and (self._chunk is not None or self.left is not None):
            raise Cut("the answer is cut")
        if self._chunk is not None:
            self._chunk -= len(data)
            if not self._chunk and self._before(b"\r\n"):
                raise Cut("the answer is cut")
        elif self.left is not None:
            self.left -= len(data)
        return data

    def _begin_chunk(self) -> None:
        try:
            self._chunk = int(self._before(b"\r\n").partition(b";")[0], 16)
        except ValueError:
            raise Cut("the answer is cut") from None
        if not self._chunk:
            while self._before(b"\r\n"):
                pass  # what is said of it afterwards
            self._chunk, self.left = None, 0

    def _before(self, mark: bytes) -> bytes:
        while mark not in self._held:
            more = self._received(MOST)
            if not more or len(self._held) > LONGEST_HEAD:
                raise Cut("the answer is cut")
            self._held += more
        text, _, self._held = self._held.partition(mark)
        return text

    def _received(self, most: int) -> bytes:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer comes too slowly")
        self._socket.settimeout(min(left_s, self._timeout_s))
        return self._socket.recv(most)

    def __enter__(self) -> Answer:  # noqa: PYI034 - Python 3.9 has no `Self`
        """Use it; leaving the block ends its connection."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End its connection."""
        self._socket.close()


def ask(
    url: str,
    timeout_s: float,
    *,
    method: str = "GET",
    fields: tuple[tuple[str, str], ...] = (),
    body: bytes | IO[bytes] | None = None,
) -> Answer:
    """Send a request, and tell its answer, for which it waits no longer than `timeout_s`.

    Args:
        url: the address.
        timeout_s: in seconds; also how long anything may take on the way to it.
        method: the verb. A GET goes on to where it is sent.
        fields: what its head says, its body's length too.
        body: some bytes, or a file.

    Raises:
        HttpError: it was not done.
        OSError: no answer came.
        ValueError: it is no address of the web.
    """
    for _ in range(HOPS):
        scheme, _, rest = url.partition("://")
        place, _, path = rest.partition("/")
        connection = _connected(scheme, place, timeout_s)
        try:
            lines = [f"{method} /{path} HTTP/1.1", f"Host: {place}", "Connection: close", "User-Agent: dokrun"]
            lines += [f"{name}: {value}" for name, value in fields]
            _say(connection, "\r\n".join(lines).encode() + b"\r\n\r\n", body)
            answer = Answer(connection, timeout_s)
            if answer.status in GOOD:
                return answer
        except BaseException:
            connection.close()
            raise
        connection.close()
        url = answer.fields.get("location", "")
        if not url or method != "GET" or answer.status not in MOVED:
            raise HttpError(answer.status)
        url = url if "://" in url else f"{scheme}://{place}/{url.lstrip('/')}"
    raise Cut("it leads from one address to another")


def _connected(scheme: str, place: str, timeout_s: float) -> socket.socket:
    if scheme not in ("http", "https"):
        raise ValueError("it is no address of the web")
    host, _, port = place.rpartition(":") if place.rpartition(":")[2].isdecimal() else (place, "", "")
    host = host.strip("[]")
    # As bytes, it needs no module that knows of names in other letters.
    name: Any = host.encode()
    connection = socket.create_connection((name, int(port or (80 if scheme == "http" else 443))), timeout_s)
    if scheme == "http":
        return connection
    try:
        secure: socket.socket = _tls().wrap_socket(connection, server_hostname=name)
    except BaseException:
        connection.close()
        raise
    return secure


@functools.cache
def _tls() -> Any:
    import ssl

    return ssl.create_default_context()


def _say(connection: socket.socket, head: bytes, body: bytes | IO[bytes] | None) -> None:
    try:
        connection.sendall(head + body if isinstance(body, bytes) else head)
        if body is not None and not isinstance(body, bytes):
            connection.sendfile(body)
    except (BrokenPipeError, ConnectionResetError):
        pass  # whoever does not hear all of it may have answered why
