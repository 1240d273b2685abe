"""A port of this machine that leads to one in a session's container, through the session's own http port."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import socket
import threading
from collections.abc import Callable

from dokrun import errors
from dokrun.engine.speaking import Gone, Speaking

_log = logging.getLogger("dokrun.engine")

WAIT_S = 20.0
_CHUNK = 256 << 10
# What comes before nothing more; before everything else, a byte 0.
_ENDED = b"\1"


class Tunnel:
    """Takes connections on a port of this machine's loopback, and passes them on. For any thread.

    Args:
        speaking: tells what asks the container, as soon as it is there.
        port: the port in the container.
        local_port: the port here; any free one if it is 0.

    Attributes:
        port: the port here.

    Raises:
        OSError: that port is taken.
    """

    def __init__(self, speaking: Callable[[], Speaking | None], port: int, local_port: int) -> None:
        self._speaking = speaking
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", local_port))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, name="dokrun-tunnel", daemon=True).start()

    def close(self) -> None:
        """Take no more connections. Those that there are go on."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes who waits in `accept`
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="dokrun-tunnel", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        name = secrets.token_hex(16)
        with connection:
            try:
                speaking = self._speaking()
                if speaking is None:
                    return
                speaking.ask(f"/open/{name}/{self._port}")
                threading.Thread(target=self._pass_in, args=(speaking, name, connection), daemon=True).start()
                try:
                    self._pass_out(speaking, name, connection)
                finally:
                    speaking.ask(f"/shut/{name}")
            except (Gone, OSError, errors.DokrunError) as error:
                _log.info("a connection to port %d of the session has ended: %s", self._port, error)
            finally:
                # A thread that waits to receive would keep it open.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _pass_in(self, speaking: Speaking, name: str, connection: socket.socket) -> None:
        """Say there what is said here."""
        at = 0
        try:
            while True:
                data = connection.recv(_CHUNK)
                at = int(json.loads(speaking.ask(f"/write/{name}/{at}", data))["at"])
                if not data:
                    return
        except (Gone, OSError, errors.DokrunError) as error:
            _log.debug("nothing more is said to port %d of the session: %s", self._port, error)

    def _pass_out(self, speaking: Speaking, name: str, connection: socket.socket) -> None:
        """Say here what is said there."""
        at = 0
        while True:
            told = speaking.ask(f"/read/{name}/{at}", {"wait_s": WAIT_S}, wait_s=WAIT_S)
            if told[:1] == _ENDED:
                return
            connection.sendall(told[1:])
            at += len(told) - 1
