"""What tests call in a session whose container has Python and nothing else: only the stdlib and dokrun."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import pickle
import socket
import sys
import threading
from typing import Any

import dokrun as dok


@functools.cache
def model() -> dict[str, int]:
    return {"loaded by": os.getpid(), "uses": 0}


@dok.remote(timeout=60)
def use() -> tuple[int, int]:
    kept = model()
    kept["uses"] += 1
    return kept["loaded by"], kept["uses"]


@dok.remote(timeout=60)
def add(a: int, b: int) -> int:
    return a + b


@dok.remote(timeout=60)
def whereabouts() -> tuple[str, bool, str]:
    return sys.version.split()[0], os.path.exists("/.dockerenv"), str(dok.__file__)  # noqa: PTH110 - fewer imports


@dok.remote(timeout=60)
def user_and_digest(path: str) -> tuple[int, str]:
    with open(path, "rb") as file:  # noqa: PTH123 - fewer imports
        return os.getuid(), hashlib.sha256(file.read()).hexdigest()


class Refusal(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dok.remote(timeout=60)
def refuse(code: int) -> None:
    raise Refusal(code)


class Numbers:
    """Bytes that travel as those of arrays do, apart from the pickle."""

    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return Numbers, (pickle.PickleBuffer(self.data),)


@dok.remote(timeout=60)
def invert(numbers: Numbers) -> Numbers:
    """Change in place what was given: it is the function's own."""
    for at in range(0, len(numbers.data), 1 << 20):
        piece = numbers.data[at : at + (1 << 20)]
        piece[:] = bytes(piece).translate(bytes(range(255, -1, -1)))
    return numbers


@dok.remote(timeout=60)
def stay(gate: int) -> str:
    """Say so until somebody says something at a port, which is this machine's and the container's."""
    with socket.create_connection(("127.0.0.1", gate)) as line:
        line.settimeout(0.02)
        while True:
            print("here", flush=True)
            try:
                line.recv(1)
            except TimeoutError:
                continue
            print("gone", file=sys.stderr)
            return "stayed"


@dok.remote(timeout=1)
def too_long() -> None:
    threading.Event().wait()


class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, number: int) -> int:
        self.count += number
        return self.count


class Echo(http.server.BaseHTTPRequestHandler):
    """Says often which page was asked for."""

    def do_GET(self) -> None:
        body = self.path.encode() * 100_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def begin_server() -> int:
    """Serve beside the calls that follow, in the same worker. Tells the port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


class Gate:
    """What a call stays for. Not for the container."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(60)
        self.port: int = self._server.getsockname()[1]

    def open(self) -> None:
        line, _ = self._server.accept()
        with line:
            line.sendall(b"x")

    def close(self) -> None:
        self._server.close()
