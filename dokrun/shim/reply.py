"""An HTTP answer, read from a socket before a deadline: for the container, and for a session's client.

A session's calls are small and many, and a container is paid for by the second: the standard library's reader goes
through that of e-mails, which takes longer to load than an interpreter to start, and a third of such a call's time.

Stdlib only, Python 3.9 syntax: this file runs in other people's images, and stands in the command that starts them.
"""

from __future__ import annotations

import socket
import time

LONGEST_HEAD = 64 << 10
_PIECE = 64 << 10
# These are not followed by a body, whatever their heads say (RFC 9112, section 6.3).
_NO_CONTENT = (204, 304)
_FINAL = 200
_STATUS_DIGITS = 3


class Cut(OSError):
    """What came is no whole HTTP answer."""


class TooLarge(OSError):
    """The answer is larger than it may be."""


class Reply:
    """What comes on a connection, one answer after another.

    Attributes:
        status: what the answer says first.
        fields: what its head says, by names in lower case.
        left: how many bytes of its body are still to come; None where it does not say.
        until: when all of it has to have come, by the monotonic clock: a byte a second is no timeout of the socket's.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._held = bytearray()
        self._timeout_s = 0.0
        self._lasts = True
        # How much of a chunk is still to come, where it comes in chunks.
        self._chunk: int | None = None
        self.status = 0
        self.fields: dict[str, str] = {}
        self.left: int | None = 0
        self.until = 0.0

    @property
    def goes_on(self) -> bool:
        """Whether another may come after the one that was read: not where more has come than was asked for."""
        return self._lasts and self.left == 0 and not self._held

    def begin(self, timeout_s: float) -> None:
        """Read an answer's head, which may take so many seconds, as may its body then.

        Raises:
            OSError: nothing comes any more, or not in time (a TimeoutError), or it is no HTTP (a `Cut`).
        """
        self._timeout_s = timeout_s
        self.until = time.monotonic() + timeout_s
        version = self._head()
        while self.status < _FINAL:
            version = self._head()
        told = self.fields.get("connection", "").lower()
        self._lasts = "close" not in told and (version != "HTTP/1.0" or "keep-alive" in told)
        self._chunk, self.left = None, None
        coding = self.fields.get("transfer-encoding")
        if self.status in _NO_CONTENT:
            self.left = 0
        elif coding is not None:
            if coding.lower() != "chunked":
                raise Cut("the answer's coding is unknown")
            self._chunk = 0
        elif "content-length" in self.fields:
            self.left = _size(self.fields["content-length"], 10)
        else:
            self._lasts = False
        self.until = time.monotonic() + timeout_s

    def read_into(self, view: memoryview) -> int:
        """Read some of the body, as soon as there is any. Tells how much; nothing at its end. Raises as `begin`."""
        if self._chunk == 0:
            self._begin_chunk()
        # Within a chunk, what is left of it.
        ahead = self.left if self._chunk is None else self._chunk
        room = len(view) if ahead is None else min(len(view), ahead)
        if not room:
            return 0
        if count := min(room, len(self._held)):
            view[:count] = self._held[:count]
            del self._held[:count]
        else:
            self._wait()
            count = self._socket.recv_into(view[:room])
        if ahead is not None and not count:
            raise Cut("the answer is cut")
        if self._chunk is not None:
            self._chunk -= count
            if not self._chunk and self._line():
                raise Cut("the answer's chunks are broken")
        elif self.left is not None:
            self.left -= count
        return count

    def whole(self, limit: int, into: memoryview | None = None) -> bytearray | memoryview:
        """Read all of the body, to the beginning of `into` if it is known to have room there.

        Raises as `begin`, and TooLarge where it has more than so many bytes.
        """
        if self.left is None:
            return self._to_its_end(limit)
        if self.left > limit:
            raise TooLarge(f"the answer has more than {limit} bytes")
        fits = into is not None and self.left <= len(into)
        body = into[: self.left] if into and fits else bytearray(self.left)
        filled, view = 0, memoryview(body)
        while self.left:
            filled += self.read_into(view[filled:])
        return body

    def _to_its_end(self, limit: int) -> bytearray:
        body, piece = bytearray(), memoryview(bytearray(_PIECE))
        while count := self.read_into(piece):
            body += piece[:count]
            if len(body) > limit:
                raise TooLarge(f"the answer has more than {limit} bytes")
        return body

    def _head(self) -> str:
        text = self._before(b"\r\n\r\n").decode("latin-1")
        try:
            first, *lines = text.split("\r\n")
            version, code, *_ = first.split(" ", 2)
            self.fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
            self.status = int(code)
        except ValueError:
            raise Cut("the answer is no HTTP") from None
        if not version.startswith("HTTP/1.") or len(code) != _STATUS_DIGITS:
            raise Cut("the answer is no HTTP")
        return version

    def _begin_chunk(self) -> None:
        self._chunk = _size(self._line().partition(b";")[0].strip().decode("latin-1"), 16)
        if not self._chunk:
            while self._line():
                pass  # what is said of it afterwards
            self._chunk, self.left = None, 0

    def _line(self) -> bytes:
        return self._before(b"\r\n")

    def _before(self, mark: bytes) -> bytes:
        """Read what comes before a mark, and pass that over."""
        while not 0 <= (end := self._held.find(mark)) <= LONGEST_HEAD:
            if len(self._held) > LONGEST_HEAD:
                raise Cut("the answer's head is too long")
            self._wait()
            more = self._socket.recv(_PIECE)
            if not more:
                raise Cut("the answer is cut")
            self._held += more
        text = bytes(self._held[:end])
        del self._held[: end + len(mark)]
        return text

    def _wait(self) -> None:
        """Let the socket wait no longer than is left, nor for any single byte than it may."""
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer comes too slowly")
        self._socket.settimeout(min(left_s, self._timeout_s))


def _size(text: str, base: int) -> int:
    # Not all that `int` takes: a sign, a gap.
    if not text or text.lower().strip("0123456789abcdef"[:base]) or len(text) > LONGEST_HEAD >> 6:
        raise Cut("the answer's length is unknown")
    return int(text, base)
