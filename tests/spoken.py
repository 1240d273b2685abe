"""What is said to a session's container on its own port, byte by byte: by strangers, and by whoever knows the token."""

from __future__ import annotations

import inspect
import itertools
import json
import socket
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from waiting import PATIENCE_S

import dokrun as dok
from dokrun import config, keys
from dokrun.api import Client
from dokrun.engine.prepare import Preparing
from dokrun.engine.target import Target
from dokrun.engine.wanted import token_of
from dokrun.options import Options
from dokrun.shim import seal
from dokrun.shim.envelope import pack


class Said(NamedTuple):
    """An answer: its status, its fields with names in lower case, and its body."""

    status: int
    fields: dict[str, str]
    body: bytes


class Line:
    """A connection to a container."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._reader = self._socket.makefile("rb")

    def __enter__(self) -> Line:  # noqa: PYI034 - nobody makes a class of this
        return self

    def __exit__(self, *_error: object) -> None:
        self._reader.close()
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def say(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> Said:
        """Read the next answer; its status is 0 where the connection has ended instead."""
        try:
            first = self._reader.readline()
        except ConnectionResetError:
            return Said(0, {}, b"")
        if not first:
            return Said(0, {}, b"")
        fields = {}
        while (line := self._reader.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        return Said(int(first.split()[1]), fields, self._reader.read(int(fields.get("content-length", "0"))))

    @property
    def ended(self) -> bool:
        """Wait for what comes next, and tell whether it is the end."""
        try:
            return self._reader.read(1) == b""
        except ConnectionResetError:
            return True


class Port:
    """A session's port, and the token that its client shows."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.token = token

    def line(self) -> Line:
        return Line(self.port)

    def ask(self, data: bytes) -> Said:
        """Say something on a connection of its own, and tell what is answered."""
        with self.line() as line:
            line.say(data)
            return line.answer()

    def hello(self, **changed: str) -> bytes:
        """Write the first request of whoever knows the token."""
        return head("/hello", 0, {seal.TOKEN: seal.BEARER + self.token, seal.NONCE: "nonce", **changed})


class Spoken(Port):
    """The port of a session's container."""

    def __init__(self, session: dok.Session, settings: config.Settings, client: Client) -> None:
        container = client.tasks.get(str(session.task_id)).containers[0]
        assert container.http is not None
        assert session.handle is not None
        handle = keys.read_handle(session.handle)
        assert handle is not None
        super().__init__(container.http.port, token_of(settings, handle.job_id).reveal())
        self.environment = dict(container.environment or {})


class Speaker:
    """Whoever has shown a container the token."""

    def __init__(self, spoken: Port) -> None:
        self.spoken = spoken
        answer = spoken.ask(spoken.hello())
        assert answer.status == 200
        told = json.loads(answer.body)
        self.name = told["speaker"]
        self.key = seal.key_of(spoken.token, self.name, "nonce", told["nonce"])
        self.counts = itertools.count(1)
        assert answer.fields[seal.MAC.lower()] == seal.of_answer(
            self.key, 0, 200, seal.digest(answer.body), len(answer.body)
        )

    def sealed(self, path: str, content: bytes = b"", *, count: int | None = None, **changed: Any) -> bytes:
        """Write a request; `changed` tells what is said otherwise than it was sealed: to, size, body or fields."""
        count = next(self.counts) if count is None else count
        fields = {
            seal.SPEAKER: self.name,
            seal.COUNT: str(count),
            seal.DIGEST: seal.digest(content),
            seal.MAC: seal.of_request(self.key, path, count, seal.digest(content), len(content)),
            **changed.get("fields", {}),
        }
        sent: bytes = changed.get("body", content)
        return head(changed.get("to", path), changed.get("size", len(content)), fields) + sent

    def ask(self, path: str, body: bytes = b"", *, count: int | None = None) -> Said:
        """Ask something, and see that the answer is sealed, if it is one that was done."""
        count = next(self.counts) if count is None else count
        answer = self.spoken.ask(self.sealed(path, body, count=count))
        mac = answer.fields.get(seal.MAC.lower())
        if mac is not None:
            assert mac == seal.of_answer(self.key, count, answer.status, seal.digest(answer.body), len(answer.body))
        return Said(answer.status if mac is not None else -answer.status, answer.fields, answer.body)


def head(path: str, size: int, fields: dict[str, str], method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: here", f"Content-Length: {size}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in fields.items()), "", ""]).encode()


def payload(function: Callable[..., Any], *args: Any, timeout_s: float = 60.0, **header: Any) -> bytes:
    """Write what a client sends to have a function called."""
    return payload_of_calls(function, [args], timeout_s=timeout_s, **header)


def payload_of_calls(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], *, timeout_s: float, **header: Any
) -> bytes:
    """Write what a client sends to have a function called again and again."""
    target = Target(function, inspect.signature(function), function.__name__)
    preparing = Preparing(target, "v100-32gb", Options(timeout_s=timeout_s))
    for args in calls:
        preparing.add(args, {})
    job = preparing.job()
    return pack({**job.header, **header}, job.segments)
