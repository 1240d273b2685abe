"""A server of HTTP that runs in a thread, and at which for a while nobody listens."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class QuietServer(http.server.ThreadingHTTPServer):
    """A server that takes it as it comes, for clients that hang, go away and are killed."""

    # Whoever hangs shall not keep a test from ending.
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *_request: object) -> None:
        """Say nothing: clients that go away are what this is for."""


class Listening:
    """A server that listens from now on, at `url`."""

    def __init__(self, server: QuietServer) -> None:
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_port}"
        self._thread = self._serve()

    def _serve(self) -> threading.Thread:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Let nobody listen for a while: the kernel refuses every connection."""
        self._server.shutdown()
        self._thread.join()
        address = self._server.socket.getsockname()
        self._server.socket.close()
        try:
            yield
        finally:
            self._server.socket = socket.create_server(address)
            self._thread = self._serve()
