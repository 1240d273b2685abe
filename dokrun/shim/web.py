"""HTTP as far as a container needs it: each request on a connection of its own, straight to where it leads.

urllib takes three times as long to load as an interpreter to start, and a container is paid for by the second. No proxy
is asked: what the user's environment says of those is for the user's code.

Stdlib only, Python 3.9 syntax: this file runs in other people's images, and stands in the command that starts them.
"""

from __future__ import annotations

import functools
import socket
from typing import IO, Any

from .reply import Cut, Reply

HOPS = 5
MOVED = (301, 302, 303, 307, 308)
GOOD = range(200, 300)


class HttpError(OSError):
    """An answer that says that it was not done."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class Answer(Reply):
    """An answer whose head has come; leaving its block ends its connection."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        """Read the head, within `timeout_s`. Raises OSError."""
        super().__init__(connection)
        self.begin(timeout_s)

    def __enter__(self) -> Answer:  # noqa: PYI034 - Python 3.9 has no `Self`
        """Use it."""
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
