"""A session's container alone, without a service and a client: what it is asked is what a test says, byte by byte."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterable
from typing import Any

from spoken import Port, Speaker, payload_of_calls
from test_shim import Container
from waiting import PATIENCE_S, wait_for

from dokrun.config import load
from dokrun.engine.wanted import Asked, Wanted
from dokrun.options import Options
from dokrun.shim import protocol, seal
from dokrun.shim.envelope import pack, unpack_all

TOKEN = "a token"


class Session:
    """A session's container that runs on some Python, and whoever knows its token.

    Args:
        python: which one.
        container: where.
        **told: what its payload tells of it.
    """

    def __init__(self, python: str, container: Container, **told: Any) -> None:
        self.version = subprocess.check_output(
            [python, "-c", "import platform; print(platform.python_version())"], text=True
        ).strip()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        job, _ = Wanted("v100-32gb", Options(), Asked(PATIENCE_S)).job(load(environ={"DOKRUN_PROFILE": "local"}))
        told = {**job.header["session"], "host": "127.0.0.1", "port": port, **told}
        container.give(pack({**job.header, "python": self.version, "session": told}, []))
        container.environment[protocol.SESSION_SHA256] = seal.digest(TOKEN.encode())
        self.process = container.start(python)
        wait_for(lambda: listens(port) or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[0]
        self.speaker = Speaker(Port(port, TOKEN))
        self.after = self.orders = 0

    def send(self, function: Callable[..., Any], *args: Any, timeout_s: float = PATIENCE_S) -> None:
        self.send_all(function, [args], timeout_s=timeout_s)

    def send_all(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], *, timeout_s: float = PATIENCE_S
    ) -> str:
        """Send many calls of a function. Tells their job."""
        self.orders += 1
        order = payload_of_calls(function, calls, timeout_s=timeout_s, python=self.version)
        assert "base" in json.loads(self.speaker.ask(f"/calls/{self.orders}", order).body)["taken"][0]
        return str(next(iter(unpack_all(order)))[1]["job"])

    def events(self, after: int, wait_s: float = 20, taken: int = 0) -> list[tuple[dict[str, Any], bytes]]:
        """Tell what is told from there on, each with the bytes that go with it."""
        header, segments = self._ask(after=after, taken=taken, wait_s=wait_s)
        return [(event, bytes(segment.data or b"")) for event, segment in zip(header["events"], segments, strict=True)]

    def state(self) -> Any:
        """Tell how the session is."""
        return self._ask(after=self.after, taken=self.after, wait_s=0)[0]["state"]

    def _ask(self, **asked: Any) -> tuple[Any, Any]:
        answer = self.speaker.ask("/ask", json.dumps(asked).encode())
        _, header, segments = next(iter(unpack_all(answer.body)))
        return header, segments

    def outcome(self) -> Any:
        """Wait for what the next call comes to. Tells its report's header, or the failure."""
        while True:
            for event, data in self.events(self.after, taken=self.after):
                self.after = event["number"]
                if event["kind"] == "report":
                    return next(iter(unpack_all(data)))[1]
                if event["kind"] == "failure":
                    return event["failure"]

    def call(self, function: Callable[..., Any], *args: Any, timeout_s: float = PATIENCE_S) -> Any:
        """Have something called, and wait for what that comes to."""
        self.send(function, *args, timeout_s=timeout_s)
        return self.outcome()

    def close(self) -> int:
        """Let it end. Tells its exit status."""
        self.events(self.after, 0, taken=self.after)
        assert self.speaker.ask("/close", b'{"now": false}').status == 200
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


def listens(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0
