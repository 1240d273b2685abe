"""What the profile `local` stands on: one emulator and one object store, in a process beside this one.

This process opens their ports and makes up their key, so it need not wait until the other one has loaded its libraries:
what it asks them meanwhile waits there. They end with this process, however it ends, and leave nothing behind.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass

from dokrun.emulator.ports import BASE_PATH, listen
from dokrun.errors import ConfigError

BUCKET = "dokrun-local"
REGION = "us-east-1"
# What an installation without the extra `local` lacks.
_NEEDED = ("flask", "h11", "moto", "starlette", "uvicorn")
# How long its tasks may take to end.
_PATIENCE_S = 30.0
# This process's own path: what it can import, the other one can.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from dokrun.emulator.local import serve; serve({api}, {s3})"


@dataclass(frozen=True)
class Local:
    """Where they are, and the key that opens them."""

    api_url: str
    token: str
    secret: str
    s3_url: str
    region: str
    bucket: str


class _Process:
    """The process that has both."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        token, secret = f"emulator-{secrets.token_hex(8)}", secrets.token_hex(16)
        with listen() as api, listen() as s3:
            ends = api.fileno(), s3.fileno()
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-c", _PROGRAM.format(path=sys.path, api=ends[0], s3=ends[1])],
                stdin=subprocess.PIPE,
                pass_fds=ends,
                start_new_session=True,  # an interrupt is for whoever waits here
                text=True,
            )
            urls = [f"http://127.0.0.1:{it.getsockname()[1]}" for it in (api, s3)]
        self.local = Local(f"{urls[0]}{BASE_PATH}", token, secret, urls[1], REGION, BUCKET)
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        self._process.stdin.write(f"{token} {secret}\n")
        self._process.stdin.flush()

    @property
    def is_ours(self) -> bool:
        """Whether this process has started it: a fork copies all of this, but it is its parent's."""
        return self._pid == os.getpid()

    def close(self) -> None:
        """End it, and all of its tasks."""
        if not self.is_ours:
            return
        try:
            # Said, and not only by the pipe's end: a child of this process may hold that open.
            self._process.communicate("end\n", timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_lock = threading.Lock()
_running: _Process | None = None


def start() -> Local:
    """Start both, unless this process has done so before.

    Raises:
        ConfigError: a package that they need is not installed.
    """
    global _running  # noqa: PLW0603 - there is one of them for a process, by its nature
    with _lock:
        if _running is None or not _running.is_ours:
            missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
            if missing:
                message = f"the local emulator needs more packages ({missing[0]}): pip install 'dokrun[local]'"
                raise ConfigError(message)
            _running = _Process()
            # The engines' `reset` is registered later and so called earlier: tasks are cancelled while this answers.
            atexit.register(_running.close)
        return _running.local


def serve(api: int, s3: int) -> None:
    """Be that process, with these sockets, until it is told to end or nobody is there any more."""
    from dokrun.emulator.server import Emulator

    token, secret = sys.stdin.readline().split()
    with Emulator(token=token, secret=secret, listening=socket.socket(fileno=api)):
        from dokrun.emulator.objects import ObjectStore  # it takes longer to load, and is asked for later

        store = ObjectStore(BUCKET, socket.socket(fileno=s3))
        sys.stdin.readline()
        store.close()
