"""The emulator itself: an HTTP server in a thread of this process, on a free loopback port."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import uvicorn

from dokrun.emulator.clock import Clock, SystemClock
from dokrun.emulator.routes import BASE_PATH, application
from dokrun.emulator.state import Project

if TYPE_CHECKING:
    from typing_extensions import Self


class Emulator:
    """DOK on this machine. Start it, point a client at `api_url` with `token` and `secret`, close it.

    Args:
        python: the interpreter that every image has; this one, with its packages, if nothing is said.
        slots: how many tasks run at once; a DOK project has one.
        keep_failed_artifacts: whether a task that does not end well keeps its artifact, of which DOK says nothing.
        clock: what tells the time, in place of the machine's.
    """

    def __init__(
        self,
        *,
        python: str = sys.executable,
        slots: int = 1,
        keep_failed_artifacts: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._python = python
        self.token = f"emulator-{secrets.token_hex(8)}"
        self.secret = secrets.token_hex(16)
        self._clock = clock or SystemClock()
        self._slots = slots
        self._keep_failed_artifacts = keep_failed_artifacts
        self._folder = Path(tempfile.mkdtemp(prefix="dokrun-emulator-"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.api_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}{BASE_PATH}"
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        # A daemon, so that a process which forgets to close it can end all the same.
        self._thread = threading.Thread(target=self._run, name="dokrun-emulator", daemon=True)

    def start(self) -> Self:
        """Start to answer. Connections that are made before wait for it."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End all tasks, stop to answer, remove every file."""
        if self._thread.ident is None:
            self._socket.close()
            shutil.rmtree(self._folder)
            return
        self._ready.wait()
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start to answer."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        project = Project(
            self._folder,
            self._clock,
            python=self._python,
            slots=self._slots,
            keep_failed_artifacts=self._keep_failed_artifacts,
        )
        server = uvicorn.Server(
            uvicorn.Config(
                application(project, self._clock, self.token, self.secret),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )
        self._ready.set()
        serving = asyncio.create_task(server.serve(sockets=[self._socket]))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await project.close()
        server.should_exit = True
        await serving
