"""The container's side of a session on every Python that this machine has and images may have, from 3.9 on."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sites import Site, site
from spoken import Port, Speaker, payload
from test_shim import Container
from waiting import PATIENCE_S, wait_for

from dokrun.config import load
from dokrun.engine.live import Asked, Wanted
from dokrun.options import Options
from dokrun.shim import protocol, seal
from dokrun.shim.envelope import pack, unpack_all

__all__ = ["site"]

OLDEST, NEWEST = 9, 14
TOKEN = "a token"


@functools.cache
def pythons() -> dict[str, str]:
    """Tell the interpreters that there are, one of each version: this one, those in the path, and pyenv's."""
    found = {".".join(map(str, sys.version_info[:2])): sys.executable}
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for minor in range(OLDEST, NEWEST + 1):
        name = f"3.{minor}"
        there = [shutil.which(f"python{name}"), *map(str, versions.glob(f"{name}.*/bin/python{name}"))]
        known = [python for python in there if python and runs(python)]
        if known:
            found.setdefault(name, known[0])
    return found


def runs(python: str) -> bool:
    """Tell whether it is one; what pyenv puts in the path may only say that it is not to be had."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


class Session:
    """A session that runs on one of them, and whoever knows its token."""

    def __init__(self, python: str, container: Container) -> None:
        self.version = subprocess.check_output(
            [python, "-c", "import platform; print(platform.python_version())"], text=True
        ).strip()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        job, _ = Wanted("v100-32gb", Options(), Asked(PATIENCE_S)).job(load(environ={"DOKRUN_PROFILE": "local"}))
        told = {**job.header["session"], "host": "127.0.0.1", "port": port}
        container.give(pack({**job.header, "python": self.version, "session": told}, []))
        container.environment[protocol.SESSION_SHA256] = seal.digest(TOKEN.encode())
        self.process = container.start(python)
        wait_for(lambda: listens(port) or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[0]
        self.speaker = Speaker(Port(port, TOKEN))
        self.after = self.orders = 0

    def call(self, function: Callable[..., Any], *args: Any, timeout_s: float = PATIENCE_S) -> Any:
        """Have something called. Tells its report's header, or the failure."""
        self.orders += 1
        order = payload(function, *args, timeout_s=timeout_s, python=self.version)
        assert "base" in json.loads(self.speaker.ask(f"/calls/{self.orders}", order).body)["taken"][0]
        while True:
            asked = {"after": self.after, "taken": self.after, "wait_s": 20}
            answer = self.speaker.ask("/ask", json.dumps(asked).encode())
            _, header, segments = next(iter(unpack_all(answer.body)))
            for event, segment in zip(header["events"], segments, strict=True):
                self.after = event["number"]
                if event["kind"] == "report":
                    return next(iter(unpack_all(segment.data or b"")))[1]
                if event["kind"] == "failure":
                    return event["failure"]

    def close(self) -> int:
        self.speaker.ask("/ask", json.dumps({"after": self.after, "taken": self.after, "wait_s": 0}).encode())
        assert self.speaker.ask("/close", b'{"now": false}').status == 200
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


def listens(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=pythons())
def session(request: pytest.FixtureRequest, tmp_path: Path, site: Site) -> Iterator[Session]:
    session = Session(pythons()[request.param], Container(tmp_path, site))
    yield session
    session.process.kill()
    session.process.communicate()


def test_a_session_takes_calls_tells_what_becomes_of_them_and_ends(session: Session) -> None:
    # What is pickled by its name is the same to all versions.
    assert session.call(pow, 2, 5)["kind"] == "value"
    assert session.call(json.loads, "no JSON")["kind"] == "exception"
    late = session.call(signal.pause, timeout_s=0.5)
    assert (late["reason"], late["ran"]) == (protocol.TIMEOUT, "yes")
    dead = session.call(os._exit, 3)
    assert (dead["reason"], dead["exit_code"]) == (protocol.EXITED, 3)
    assert session.call(print, "hello")["kind"] == "value"
    assert session.close() == 0
