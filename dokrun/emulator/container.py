"""A task as a container that runs: what it writes is followed, and of itself nothing stays."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dokrun.emulator.docker_engine import close_stream, failures, sdk, told
from dokrun.emulator.log import Log, Pipe

ARTIFACT_DIR = "/opt/artifact"
# What Docker itself says where the container is fine and the engine is not.
_ENGINE_LOST = 125


@dataclass(frozen=True)
class RunningContainer:
    """A task's container, and where it leaves things."""

    api: Any
    container_id: str
    folder: Path
    log: Log
    pipe: Pipe
    ended: asyncio.Future[int]

    @property
    def artifact_dir(self) -> Path:
        """The folder that the container sees as `SAKURA_ARTIFACT_DIR`."""
        return self.folder / "artifact"

    async def wait(self) -> int:
        """Wait until the container has ended and is removed. Returns its main process's exit status."""
        status = await self.ended
        self.pipe.close()
        return status

    def terminate(self) -> None:
        """Ask the main process to end."""
        _aside(partial(self._signal, "SIGTERM"))

    def kill(self) -> None:
        """End the container at once."""
        _aside(partial(self._signal, "SIGKILL"))

    def follow(self, output: Any, image: str) -> None:
        """Bring what the container writes into the pipe, and tell its end. For a thread of its own."""
        try:
            for _, data in sdk().utils.socket.frames_iter(output, tty=False):
                _write(self.pipe.writer, data)
            status = int(self.api.wait(self.container_id, timeout=None)["StatusCode"])
        except failures() as error:
            status = _ENGINE_LOST
            _write(self.pipe.writer, f"the emulator has lost the container: {told(error)}\n".encode())
        remove = partial(self.api.remove_container, self.container_id, force=True, v=True)
        for clean in (partial(close_stream, output), partial(self._open_artifact, image), remove):
            try:
                clean()
            except failures():
                pass  # somebody else has removed it, or the engine has gone with all of its containers
        os.close(self.pipe.writer)
        try:
            self.ended.get_loop().call_soon_threadsafe(self.ended.set_result, status)
        except RuntimeError:
            pass  # the emulator was never closed, and its process is ending

    def _signal(self, name: str) -> None:
        try:
            self.api.kill(self.container_id, name)
        except failures():
            pass  # it has ended meanwhile

    def _open_artifact(self, image: str) -> None:
        """Make what other users left readable and removable, which only root can: the container's, if not here."""
        me = os.geteuid()
        if me == 0 or all(entry.lstat().st_uid == me for entry in self.artifact_dir.rglob("*")):
            return
        chmod = self.api.create_container(
            image,
            entrypoint=["chmod", "-R", "a+rwX", ARTIFACT_DIR],
            user="0:0",
            labels=self.api.inspect_container(self.container_id)["Config"]["Labels"],
            host_config=self.api.create_host_config(
                network_mode="none", binds=[f"{self.artifact_dir}:{ARTIFACT_DIR}"], auto_remove=False
            ),
        )["Id"]
        try:
            self.api.start(chmod)
            self.api.wait(chmod, timeout=None)
        finally:
            self.api.remove_container(chmod, force=True)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _aside(work: Callable[[], None]) -> None:
    """Do what asks the engine without holding up the loop, or here where no thread can be started any more."""
    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError:
        work()
