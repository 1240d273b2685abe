"""What the profile `local` stands on: one emulator and one object store, in a process beside this one.

Started when first needed, they begin while this process still loads what it needs itself, and take none of its turns
later. They end with it, however it ends, and leave nothing behind.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass

from dokrun.errors import ConfigError

BUCKET = "dokrun-local"
# How long its tasks may take to end.
_PATIENCE_S = 30.0
# This process's own path: what it can import, the other one can.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from dokrun.emulator.local import serve; serve()"


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
        self.pid = os.getpid()
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", _PROGRAM.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt is for whoever waits here
        )
        self._waiting = threading.Lock()
        self._local: Local | None = None

    def wait(self) -> Local:
        """Wait until both answer.

        Raises:
            ConfigError: a package is not installed, or they cannot be started.
        """
        with self._waiting:
            if self._local is None:
                assert self._process.stdout is not None  # noqa: S101 - it was asked for
                told = json.loads(self._process.stdout.readline() or "{}")
                if "missing" in told:
                    raise ConfigError(
                        f"the local emulator needs more packages ({told['missing']}): pip install 'dokrun[local]'"
                    )
                if not told:
                    raise ConfigError("the local emulator could not be started; what is printed above says why")
                self._local = Local(**told)
            return self._local

    def close(self) -> None:
        """End it, and all of its tasks."""
        if self.pid != os.getpid():
            return  # a fork copies this; the process is its parent's
        try:
            # Said, and not only by the pipe's end: a child of this process may hold its other end.
            self._process.communicate(b"end\n", timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_lock = threading.Lock()
_running: _Process | None = None


def begin() -> _Process:
    """Start both, unless they have been started by this process; who needs them waits for what `wait` tells."""
    global _running  # noqa: PLW0603 - there is one of them for a process, by its nature
    with _lock:
        if _running is None or _running.pid != os.getpid():
            _running = _Process()
            # The engines' `reset` is registered later and so called earlier: tasks are cancelled while this answers.
            atexit.register(_running.close)
        return _running


def serve() -> None:
    """Be that process: say where both are, and end when it is told to, or nobody is there any more."""
    try:
        from dokrun.emulator.objects import REGION, ObjectStore
        from dokrun.emulator.server import Emulator
    except ImportError as error:
        print(json.dumps({"missing": error.name}), flush=True)
        return
    with Emulator() as emulator:
        store = ObjectStore(BUCKET)
        local = Local(emulator.api_url, emulator.token, emulator.secret, store.url, REGION, store.bucket)
        print(json.dumps(asdict(local)), flush=True)
        sys.stdin.readline()
        store.close()
