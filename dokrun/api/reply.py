"""An HTTP answer, read from a socket before a deadline: no more than that, so that it costs next to nothing.

A session's calls are small and many, and each takes two requests: the standard library's reader, which goes
through that of e-mails, took a third of a call's time.
"""

from __future__ import annotations

import socket
import time
from typing import NamedTuple

LONGEST_HEAD = 64 << 10
LARGEST_BODY_BYTES = 64 << 20
_CHUNK = 64 << 10
_END = b"\r\n\r\n"
# These are not followed by a body, whatever their heads say (RFC 9112, section 6.3).
_NO_CONTENT = (204, 304)
_CONTINUED = range(100, 200)
_STATUS_DIGITS = 3


class Malformed(Exception):
    """What came is no whole HTTP answer."""


class Answer(NamedTuple):
    """What came back, whoever it is from; the names of fields in lower case."""

    status: int
    fields: dict[str, str]
    body: bytearray


class Replies:
    """Reads what comes on a connection, one answer after another."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._held = bytearray()
        self._until = 0.0
        self._lasts = True

    @property
    def goes_on(self) -> bool:
        """Whether another may come after the one that was read: not where more has come than was asked for."""
        return self._lasts and not self._held

    def read(self, timeout_s: float) -> Answer:
        """Read an answer, whose head may take so many seconds, and its body as many again.

        Raises:
            OSError: nothing comes any more; a TimeoutError: not in time. A byte a second beats every timeout of a
                single read, and not this one.
            Malformed: it is cut, or no HTTP, or too large.
        """
        self._until = time.monotonic() + timeout_s
        status, fields, version = self._head()
        while status in _CONTINUED:
            status, fields, version = self._head()
        self._until = time.monotonic() + timeout_s
        told = fields.get("connection", "").lower()
        self._lasts = "close" not in told and (version != "HTTP/1.0" or "keep-alive" in told)
        return Answer(status, fields, self._body(status, fields))

    def _head(self) -> tuple[int, dict[str, str], str]:
        end = self._until_there(_END)
        text = self._held[:end].decode("latin-1")
        del self._held[: end + len(_END)]
        try:
            first, *lines = text.split("\r\n")
            version, code, *_ = first.split(" ", 2)
            fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
            status = int(code)
        except ValueError:
            raise Malformed("the answer is no HTTP") from None
        if not version.startswith("HTTP/1.") or len(code) != _STATUS_DIGITS:
            raise Malformed("the answer is no HTTP")
        return status, fields, version

    def _body(self, status: int, fields: dict[str, str]) -> bytearray:
        if status in _NO_CONTENT:
            return bytearray()
        if "transfer-encoding" in fields:
            if fields["transfer-encoding"].lower() != "chunked":
                raise Malformed("the answer's coding is unknown")
            return self._chunked()
        if "content-length" not in fields:
            return self._rest()
        return self._exactly(_size(fields["content-length"], 10))

    def _exactly(self, size: int) -> bytearray:
        if size > LARGEST_BODY_BYTES:
            raise Malformed("the answer is too large")
        body, filled = bytearray(size), min(size, len(self._held))
        body[:filled] = self._held[:filled]
        del self._held[:filled]
        with memoryview(body) as view:
            while filled < size:
                self._socket.settimeout(self._left_s())
                count = self._socket.recv_into(view[filled:])
                if not count:
                    raise Malformed("the answer is cut")
                filled += count
        return body

    def _chunked(self) -> bytearray:
        body = bytearray()
        while size := _size(self._line().partition(b";")[0].strip().decode("latin-1"), 16):
            if len(body) + size > LARGEST_BODY_BYTES:
                raise Malformed("the answer is too large")
            body += self._exactly(size)
            if self._line():
                raise Malformed("the answer's chunks are broken")
        while self._line():
            pass  # what is said of it afterwards
        return body

    def _line(self) -> bytes:
        end = self._until_there(b"\r\n")
        line = bytes(self._held[:end])
        del self._held[: end + 2]
        return line

    def _rest(self) -> bytearray:
        """Read until the connection ends."""
        self._lasts = False
        while len(self._held) <= LARGEST_BODY_BYTES:
            try:
                self._more()
            except Malformed:
                return self._held
        raise Malformed("the answer is too large")

    def _until_there(self, mark: bytes) -> int:
        """Read until there is a mark. Tells where."""
        while not 0 <= (end := self._held.find(mark)) <= LONGEST_HEAD:
            if len(self._held) > LONGEST_HEAD:
                raise Malformed("the answer's head is too long")
            self._more()
        return end

    def _more(self) -> None:
        self._socket.settimeout(self._left_s())
        data = self._socket.recv(_CHUNK)
        if not data:
            raise Malformed("the answer is cut")
        self._held += data

    def _left_s(self) -> float:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer comes too slowly")
        return left_s


def _size(text: str, base: int) -> int:
    digits = "0123456789abcdef"[:base]
    if not text or text.lower().strip(digits):
        raise Malformed("the answer's length is unknown")
    return int(text[-16:], base) if not text[:-16].strip("0") else LARGEST_BODY_BYTES + 1
