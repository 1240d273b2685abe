"""A server that runs in a real container, whose image has Python and nothing else."""

from __future__ import annotations

import http.server
import sys

import dokrun as dok


@dok.remote(plan="v100-32gb")
def serve_once(port: int) -> str:
    """Answer until somebody asks for more than the first page."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(sys.platform.encode())

    with http.server.HTTPServer(("", port), Handler) as server:
        while asked[-1:] != ["/end"]:
            server.handle_request()
    return " ".join(asked)
