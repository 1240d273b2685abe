"""A task whose http port a test answers itself, byte by byte, and clients outside that say what they like."""

from __future__ import annotations

import http.client
import queue
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from emulated import request
from waiting import PATIENCE_S, wait_for

from dokrun.api import Client, models
from dokrun.emulator import Emulator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Inside:
    """What listens in the container, if it does: each request and each end of a connection is told to the test.

    Attributes:
        answers: what is said to a request, by its path.
        last: the paths after whose answer the connection is closed.
        heard: the requests as they came.
        ended: a word for each connection that has ended.
    """

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.answers: dict[str, bytes] = {}
        self.last: set[str] = set()
        self.heard: queue.Queue[bytes] = queue.Queue()
        self.ended: queue.Queue[str] = queue.Queue()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        if self._server.fileno() >= 0:
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, line.makefile("rb") as reader:
            try:
                while asked := self._request(reader):
                    path = asked.split(b" ")[1].decode()
                    self.heard.put(asked)
                    line.sendall(self.answers.get(path, OK))
                    if path in self.last:
                        break
            except OSError:
                pass
        self.ended.put("ended")

    def _request(self, reader: Iterator[bytes]) -> bytes:
        head = b""
        for row in reader:
            head += row
            if row == b"\r\n":
                break
        return head + self._body(head.lower(), reader)

    def _body(self, head: bytes, reader: Iterator[bytes]) -> bytes:
        body = b""
        if b"chunked" in head:
            for row in reader:
                body += row
                if body.endswith(b"0\r\n\r\n"):
                    break
        elif b"content-length: " in head:
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = reader.read(size)  # type: ignore[attr-defined]
        return body


@pytest.fixture
def inside() -> Iterator[Inside]:
    inside = Inside()
    yield inside
    inside.close()


class Outside:
    """A task with an http port that leads to `inside`, and clients of its public address."""

    def __init__(self, dok: Emulator, inside: Inside) -> None:
        self._stack = ExitStack()
        client = self._stack.enter_context(Client(dok.token, dok.secret, base_url=dok.api_url))
        task = client.tasks.create(request("import time; time.sleep(600)", http=models.HttpPort(inside.port)))
        wait_for(lambda: client.tasks.get(task.id).http_uri)
        self.url = str(client.tasks.get(task.id).http_uri)
        address = urllib.parse.urlsplit(self.url)
        self._host, self._port = str(address.hostname), int(address.port or 0)

    def connect(self) -> http.client.HTTPConnection:
        """Make a client that keeps its one connection."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=PATIENCE_S)
        connection.connect()
        self._stack.callback(connection.close)
        return connection

    def raw(self, data: bytes) -> socket.socket:
        """Make a connection, and say this."""
        line = socket.create_connection((self._host, self._port), PATIENCE_S)
        self._stack.callback(line.close)
        line.sendall(data)
        return line

    def close(self) -> None:
        self._stack.close()


def said(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
    """Tell the status and the body of the next answer."""
    response = connection.getresponse()
    return response.status, response.read()


def all_of(line: socket.socket) -> bytes:
    """Tell all that comes until the connection ends."""
    data = b""
    while piece := line.recv(65536):
        data += piece
    return data
