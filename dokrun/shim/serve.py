"""The container's http port, as far as a session needs HTTP: one thread a connection, which may bring many requests.

It is open to the world, so a request is heard out only when its head says that it comes from the client: until then no
more of it is read than the head, and not for long. What it says is for `session` to know.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import json
import re
import socket
import threading
import time
from typing import Any, Dict, NamedTuple, Optional, Protocol, Tuple, Union

from . import protocol
from .room import Room

LONGEST_HEAD = 16 << 10
# How long a head may take, a stranger's first word with it; a body; and the pause between two requests.
HEAD_S = 10.0
BODY_S = 60.0
IDLE_S = 120.0
# How many connections may wait at the same time.
CONNECTIONS = 128
# How long a port that is taken is waited for; and how long until it is tried again, as after a connection that failed.
TAKEN_S = 10.0
TAKEN_PAUSE_S = 0.2

NAME = re.compile("[!-9;-~]+")

REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    507: "Insufficient Storage",
}

Piece = Union[bytes, bytearray, memoryview]


class Refused(Exception):
    """A request that is answered with an error: nothing was done."""

    def __init__(self, status: int, **told: Any) -> None:
        super().__init__(REASONS[status])
        self.status = status
        self.told = told


class Head(NamedTuple):
    """What comes before a request's body; the names of fields in lower case."""

    method: str
    path: str
    fields: Dict[str, str]
    size: int


class Stretch:
    """Some bytes of a file, which get into a connection without coming here."""

    def __init__(self, path: str, at: int, size: int) -> None:
        self._path = path
        self._at = at
        self._size = size

    def __len__(self) -> int:
        return self._size

    def send(self, connection: socket.socket) -> None:
        """Send them. Raises OSError, also where there are less by now."""
        with open(self._path, "rb") as file:
            if connection.sendfile(file, self._at, self._size) < self._size:
                raise OSError("the file was cut")


class Answer(NamedTuple):
    """What is answered: a status, the body, and further fields."""

    status: int
    body: Union[Piece, Stretch] = b""
    fields: Tuple[Tuple[str, str], ...] = ()


class Service(Protocol):
    """What requests are for."""

    def admit(self, head: Head) -> Any:
        """Tell who asks, before the body is read. Raises Refused."""

    def answer(self, head: Head, who: Any, body: Piece) -> Answer:
        """Do what is asked. Raises Refused."""


class Server:
    """Listens, and brings requests to a service."""

    def __init__(self, host: str, port: int, service: Service, *, head_s: float = HEAD_S) -> None:
        """Take the port; any free one if it is 0. Raises OSError."""
        self._service = service
        self._head_s = head_s
        self._listening = _listen(host, port)
        self.port = int(self._listening.getsockname()[1])
        self._room = Room(CONNECTIONS)

    def start(self) -> None:
        """Answer from now on."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no further connections."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # it was closed; or there are too many files open, say
                if self._listening.fileno() < 0:
                    return
                time.sleep(TAKEN_PAUSE_S)
                continue
            self._room.enter(connection)
            try:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except RuntimeError:  # the system has no thread to spare; whoever this is comes again
                self._end(connection)
                time.sleep(TAKEN_PAUSE_S)

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = Reader(connection, self._head_s)
            while self._one(connection, reader):
                self._room.rest(connection)
        except OSError:
            pass  # whoever was there has gone, or was too slow
        finally:
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        self._room.leave(connection)
        connection.close()

    def _one(self, connection: socket.socket, reader: "Reader") -> bool:
        """Answer one request. Tells whether another may come."""
        try:
            head = reader.head()
            if head is None or not self._room.begin(connection):
                return False
            who = self._service.admit(head)
            self._room.know(connection)
            # Only now: a stranger is not listened to for long.
            if "100-continue" in head.fields.get("expect", "").lower():
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            answer = self._service.answer(head, who, reader.body(head.size))
            _send(connection, answer)
        except Refused as refused:
            body = json.dumps(refused.told).encode()
            _send(connection, Answer(refused.status, body, (("Connection", "close"),)))
            return False
        return head.fields.get("connection", "").lower() != "close"


class Reader:
    """Reads requests from a connection, one after another."""

    def __init__(self, connection: socket.socket, head_s: float) -> None:
        self._connection = connection
        self._head_s = head_s
        self._held = b""
        # Nobody is known before the first request: strangers would take all the room by saying nothing.
        self._pause_s = head_s

    def head(self) -> Optional[Head]:
        """Read a request's head; None where no other comes. Raises OSError and Refused."""
        self._connection.settimeout(self._pause_s)
        self._pause_s = IDLE_S
        if not self._held:
            self._held = self._connection.recv(LONGEST_HEAD)
        deadline = time.monotonic() + self._head_s
        while b"\r\n\r\n" not in self._held:
            if not self._held:
                return None
            if len(self._held) > LONGEST_HEAD:
                raise Refused(431)
            more = self._receive(LONGEST_HEAD, deadline)
            if not more:
                return None
            self._held += more
        text, _, self._held = self._held.partition(b"\r\n\r\n")
        return read_head(text)

    def body(self, size: int) -> bytearray:
        """Read a request's body. Raises OSError."""
        body = bytearray(size)
        view, filled = memoryview(body), min(size, len(self._held))
        view[:filled] = self._held[:filled]
        self._held = self._held[filled:]
        deadline = time.monotonic() + BODY_S
        while filled < size:
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            count = self._connection.recv_into(view[filled:])
            if not count:
                raise ConnectionResetError
            filled += count
        return body

    def _receive(self, most: int, deadline: float) -> bytes:
        self._connection.settimeout(max(0.001, deadline - time.monotonic()))
        return self._connection.recv(most)


def read_head(text: bytes) -> Head:
    """Read a request's head. Raises Refused."""
    try:
        first, *lines = text.decode("ascii").split("\r\n")
        method, path, version = first.split(" ")
        fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    except ValueError as error:
        raise Refused(400) from error
    # What two readers may read differently lets one request hide in another.
    length = fields.get("content-length", "0")
    plain = all(NAME.fullmatch(name) for name in fields) and text.count(b"\n") == len(lines)
    if len(fields) != len(lines) or "transfer-encoding" in fields or not length.isdecimal() or not plain:
        raise Refused(400)
    if not version.startswith("HTTP/1."):
        raise Refused(400)
    if len(length) > protocol.LONGEST_NUMBER:
        raise Refused(413)
    return Head(method, path, fields, int(length))


def _send(connection: socket.socket, answer: Answer) -> None:
    connection.settimeout(BODY_S)
    size = len(answer.body)
    lines = [
        f"HTTP/1.1 {answer.status} {REASONS[answer.status]}",
        f"Content-Length: {size}",
        "Content-Type: application/octet-stream",
        "Cache-Control: no-store",
        *(f"{name}: {value}" for name, value in answer.fields),
    ]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    if isinstance(answer.body, Stretch):
        connection.sendall(head)
        answer.body.send(connection)
    elif size < LONGEST_HEAD:
        connection.sendall(head + answer.body)  # in one packet
    else:
        connection.sendall(head)
        connection.sendall(answer.body)


def _listen(host: str, port: int) -> socket.socket:
    until = time.monotonic() + TAKEN_S
    while True:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(CONNECTIONS)
        except OSError:
            listening.close()
            if time.monotonic() > until:
                raise
            time.sleep(TAKEN_PAUSE_S)
        else:
            return listening
