"""How many connections may wait at the same time: whoever comes finds a place, since the oldest one makes it.

Those whose request is being done take none: they belong to somebody who is known.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import socket
import threading
from typing import Dict, Set

# How long those that make place may take to go, before another one is let in.
LEAVING_S = 1.0


class Room:
    """Holds connections that wait for a request. For any thread.

    Args:
        most: how many there may be. Strangers have half of the places, if they want them: so many have to come before
            one is sent away that has only just come itself.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        # Those over which nobody has said anything yet who is known; and those whose request was answered. The oldest
        # ones are first.
        self._strangers: Dict[socket.socket, None] = {}
        self._idle: Dict[socket.socket, None] = {}
        self._leaving: Set[socket.socket] = set()

    def enter(self, connection: socket.socket) -> None:
        """Take a stranger in."""
        with self._changed:
            self._strangers[connection] = None
            self._make_place()
            # Each has a thread until it is gone.
            self._changed.wait_for(lambda: not self._leaving, LEAVING_S)

    def begin(self, connection: socket.socket) -> bool:
        """Take note that a request has begun. Tells whether it may be done: else the connection has made place."""
        with self._changed:
            self._idle.pop(connection, None)
            return connection not in self._leaving

    def know(self, connection: socket.socket) -> None:
        """Take note that the request is somebody's who is known."""
        with self._changed:
            self._strangers.pop(connection, None)

    def rest(self, connection: socket.socket) -> None:
        """Take note that it was answered."""
        with self._changed:
            self._idle[connection] = None
            self._make_place()

    def leave(self, connection: socket.socket) -> None:
        """Take note that a connection has ended."""
        with self._changed:
            self._strangers.pop(connection, None)
            self._idle.pop(connection, None)
            self._leaving.discard(connection)
            self._changed.notify_all()

    def _make_place(self) -> None:
        while len(self._strangers) + len(self._idle) > self._most:
            crowded = not self._idle or len(self._strangers) > self._most // 2
            waiting = self._strangers if crowded else self._idle
            oldest = next(iter(waiting))
            del waiting[oldest]
            self._leaving.add(oldest)
            try:
                oldest.shutdown(socket.SHUT_RDWR)  # its thread closes it
            except OSError:
                pass  # it has ended
