"""Runtime `process`: a task's entrypoint and command as a child process of this machine's Python.

The image's name is not looked at: `python3` is one interpreter of this machine, with its packages. Each task has a
folder of its own, sees only its own environment, and is killed with its children when its main process ends, as a
container is.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dokrun.api.models import ContainerRequest
from dokrun.emulator.log import Log, Pipe
from dokrun.emulator.reaper import Reaper, kill_session
from dokrun.emulator.runtime import CannotStart


@dataclass(frozen=True)
class RunningProcess:
    """A task's main process, and where it leaves things."""

    process: asyncio.subprocess.Process
    folder: Path
    log: Log
    pipe: Pipe
    reaper: Reaper

    @property
    def artifact_dir(self) -> Path:
        """The folder that `SAKURA_ARTIFACT_DIR` names."""
        return self.folder / "artifact"

    async def wait(self) -> int:
        """Wait until the main process has ended; what it left running is killed. Returns its exit status."""
        status = await self.process.wait()
        self.kill()
        self.reaper.ended(self.process.pid)
        self.pipe.close()
        # A shell's way to tell a signal, and Docker's.
        return status if status >= 0 else 128 - status

    def terminate(self) -> None:
        """Ask the main process to end."""
        if self.process.returncode is None:
            self.process.terminate()

    def kill(self) -> None:
        """End all of the task's processes at once, but for those that have made a session of their own."""
        kill_session(self.process.pid)


class ProcessRuntime:
    """Starts tasks as processes, below a folder that is its own."""

    def __init__(self, folder: Path, python: str) -> None:
        self._folder = folder
        self._reaper = Reaper(folder)
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name in ("python3", "python"):
            # Not a link: an interpreter finds its virtual environment by where it is called.
            script = self._bin / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n')
            script.chmod(0o755)

    async def start(self, task_id: str, container: ContainerRequest, log: Log) -> RunningProcess:
        """Start a task's main process, whose output goes to the log.

        Raises:
            CannotStart: there is no such program.
        """
        folder = self._folder / task_id
        for name in ("artifact", "home", "tmp"):
            (folder / name).mkdir(mode=0o700, parents=True)
        environment = {
            "PATH": f"{self._bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "LANG": "C.UTF-8",
            **container.environment,
            "SAKURA_TASK_ID": task_id,
            "SAKURA_ARTIFACT_DIR": str(folder / "artifact"),
        }
        pipe = Pipe(log)
        try:
            process = await asyncio.create_subprocess_exec(
                *container.entrypoint,
                *container.command,
                cwd=folder / "home",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=pipe.writer,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError, TypeError) as error:
            pipe.close()
            raise CannotStart(f"the container's main process cannot be started: {error}") from error
        finally:
            os.close(pipe.writer)
        self._reaper.started(process.pid)
        return RunningProcess(process, folder, log, pipe, self._reaper)

    def give_up(self, task_id: str) -> None:
        """Do nothing: a process starts at once."""

    def close(self) -> None:
        """End the helper process."""
        self._reaper.close()
