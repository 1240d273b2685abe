"""A web server for what containers fetch."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest


class Site:
    """A web server that serves what it is told to, and counts what it was asked for.

    Attributes:
        before: what is done before an answer, by its path.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                site.asked.append(path)
                status = site.answers.get(path, [])
                code = status.pop(0) if status else 200
                site.before.get(path, lambda: None)()
                body = site.files.get(path, b"")
                self.send_response(code if path in site.files else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if code == 200:
                    self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()
