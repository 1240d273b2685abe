"""Tasks for the emulator, and how to see what becomes of them."""

from __future__ import annotations

import socket
import threading
from typing import Any

import httpx

from dokrun.api import Client, models
from dokrun.emulator import Emulator

PATIENCE_S = 10.0
PLAN = "v100-32gb"
# What a task does that runs until its line is hung up.
STAYS = "line.sendall(b'R'); line.recv(1)"


def request(
    code: str = "", *, tag: str = "test", limit_s: int | None = 600, **container: Any
) -> models.CreateTaskRequest:
    """Make a request for a task that runs this Python."""
    parts = {"image": "any", "command": ["-c", code], "entrypoint": ["python3"], "plan": PLAN, **container}
    return models.CreateTaskRequest("test", [models.ContainerRequest(**parts)], [tag], limit_s)


def send(dok: Emulator, method: str, path: str, **options: Any) -> httpx.Response:
    options.setdefault("auth", (dok.token, dok.secret))
    return httpx.request(method, dok.api_url + path, **options)


def end_of(client: Client, task: models.Task) -> models.Task:
    """Wait until a task has ended."""
    for _ in range(500):
        if (now := client.tasks.get(task.id)).ended:
            return now
        threading.Event().wait(0.02)
    raise AssertionError(f"task {task.id} does not end")


class Line:
    """A connection that a task opens: it tells what the task does, and ends when its processes do."""

    def __init__(self, code: str) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(PATIENCE_S)
        self._line: socket.socket | None = None
        address = self._server.getsockname()
        self.code = f"import os, signal, socket, subprocess; line = socket.create_connection({address}); {code}"

    def hear(self) -> str:
        """Wait for a letter from the task; an empty one says that its processes have ended."""
        if self._line is None:
            self._line, _ = self._server.accept()
            self._line.settimeout(PATIENCE_S)
        try:
            return self._line.recv(1).decode()
        except ConnectionResetError:
            return ""

    def hang_up(self) -> None:
        """Let a task that stays go on to its end."""
        self._server.close()
        if self._line is not None:
            self._line.close()
