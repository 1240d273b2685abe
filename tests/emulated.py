"""Tasks for the emulator, and how to see what becomes of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from waiting import PATIENCE_S, wait_for

from dokrun.api import Client, models
from dokrun.emulator import Emulator

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
    wait_for(lambda: client.tasks.get(task.id).ended)
    return client.tasks.get(task.id)


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


Lines = Callable[[str], Line]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Make lines to tasks; at the end all are cut."""
    with contextlib.ExitStack() as open_lines:

        def make(code: str) -> Line:
            line = Line(code)
            open_lines.callback(line.hang_up)
            return line

        yield make
