"""A way to a server, some of whose connections can be cut at a moment of the test's choice."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.parse


class Severed:
    """Passes everything on to where `api_url` leads; `cut` ends the connections that have asked for a path."""

    def __init__(self, api_url: str, path: str) -> None:
        parts = urllib.parse.urlsplit(api_url)
        self._target = (str(parts.hostname), int(parts.port or 80))
        self._path = path.encode()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.api_url = parts._replace(netloc=f"127.0.0.1:{self._listening.getsockname()[1]}").geturl()
        self._named: list[socket.socket] = []
        self._all: list[socket.socket] = []
        self.cuts = 0
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Severed:  # noqa: PYI034 - nobody makes a class of this
        return self

    def __exit__(self, *_error: object) -> None:
        _end(self._listening)
        self._accepting.join()  # what it has just made ends too
        for one in self._all:
            _end(one)

    def cut(self) -> None:
        named, self._named = self._named, []
        for one in named:
            self.cuts += 1
            _end(one)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                self._all.append(here)
                there = socket.create_connection(self._target)
                self._all.append(there)
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._path in data.partition(b"\r\n")[0]:
                    self._named.append(source)
                sink.sendall(data)
        _end(sink)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
