"""Connections from a session's client to servers in its container: what either side says is asked for, piece by piece.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import socket
import threading
import time
from typing import Dict

from .serve import Piece

CONNECT_S = 10.0
CHUNK = 256 << 10
# How much of what a server says may wait to be asked for.
ROOM_BYTES = 4 << 20


class Stream:
    """One connection. What a server says stays until it is known to have come."""

    def __init__(self, port: int) -> None:
        """Connect. Raises OSError."""
        self._socket = socket.create_connection(("127.0.0.1", port), CONNECT_S)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._heard = bytearray()
        # Where that begins, among all that it said; and how much was said to it.
        self._at = self._said = 0
        self._ended = False
        self.moved = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                data = self._socket.recv(CHUNK)
            except OSError:
                data = b""
            with self._changed:
                self._changed.notify_all()
                if not data:
                    self._ended = True
                    return
                self._heard += data
                self.moved = time.monotonic()
                self._changed.wait_for(lambda: len(self._heard) < ROOM_BYTES or self._ended)

    def read(self, at: int, wait_s: float) -> bytes:
        """Tell what it says from there on, as soon as there is anything.

        Raises:
            EOFError: nothing more comes.
            ValueError: it is known to have come, or has not been told yet.
        """
        with self._changed:
            if not self._at <= at <= self._at + len(self._heard):
                raise ValueError(f"{at} is not in what there is")
            del self._heard[: at - self._at]
            self._at = at
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._heard or self._ended, wait_s)
            if self._ended and not self._heard:
                raise EOFError
            return bytes(self._heard[:CHUNK])

    def write(self, at: int, data: Piece) -> int:
        """Say something to it, unless it was said before. Tells how much was said. Raises OSError."""
        with self._writing:
            if at == self._said:
                if data:
                    self._socket.sendall(data)
                else:
                    self._socket.shutdown(socket.SHUT_WR)
                self._said += len(data)
                self.moved = time.monotonic()
            return self._said

    def close(self) -> None:
        """End it."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # a thread that waits to receive would keep it open
        except OSError:
            pass
        self._socket.close()


class Streams:
    """The connections of a session, by their names. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: Dict[str, Stream] = {}
        self._moved = 0.0

    def open(self, name: str, port: int) -> None:
        """Open one, once. Raises OSError."""
        if name in self._streams:
            return
        stream = Stream(port)  # it may take its time
        with self._lock:
            known = self._streams.setdefault(name, stream)
        if known is not stream:
            stream.close()

    def get(self, name: str) -> Stream:
        """Tell an open one. Raises KeyError."""
        with self._lock:
            return self._streams[name]

    def close(self, name: str) -> None:
        """End one."""
        with self._lock:
            stream = self._streams.pop(name, None)
            self._moved = max(self._moved, 0.0 if stream is None else stream.moved)
        if stream is not None:
            stream.close()

    @property
    def moved(self) -> float:
        """When something was said last on any of them, by the monotonic clock."""
        with self._lock:
            return max([self._moved, *(stream.moved for stream in self._streams.values())])
