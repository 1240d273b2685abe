"""Functions that serve HTTP until they are told to end. They are sent, and need nothing but the standard library."""

from __future__ import annotations

import http.server
import os
import time

import dokrun as dok

remote = dok.remote(plan="v100-32gb")


@remote
def serve(port: int, statuses: tuple[int, ...] = ()) -> list[str]:
    """Answer each request, with these statuses first; on `/end` tell what was asked, and on `/die` die."""
    asked: list[str] = []
    left = list(statuses)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/die":
                os._exit(3)
            told = [name for name in ("Authorization", "Cookie") if name in self.headers]
            asked.append(" ".join([self.path, *told]))
            self.send_response(left.pop(0) if left else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Set-Cookie", "session=1")
            self.end_headers()
            self.wfile.write(f"attempt {dok.current().attempt}".encode())

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("", port), Handler) as server:
        while not asked or not asked[-1].startswith("/end"):
            server.handle_request()
    return asked


@remote
def end_at_once(error: str = "") -> None:
    if error:
        raise ValueError(error)


@remote
def stay() -> None:
    time.sleep(600)
