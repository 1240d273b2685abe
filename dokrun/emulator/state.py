"""The tasks and artifacts of one project, and how they change. Lives in one event loop and needs no lock."""

from __future__ import annotations

import asyncio
import functools
import math
import shutil
import tarfile
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from anyio import to_thread

from dokrun.api import models
from dokrun.emulator.clock import Clock
from dokrun.emulator.process import CannotStart, ProcessRuntime, Running

T = TypeVar("T")

# How long a container has between SIGTERM and SIGKILL.
GRACE_S = 10.0


@dataclass
class TaskRecord:
    """A task as the emulator keeps it."""

    id: str
    request: models.CreateTaskRequest
    created_at: datetime
    updated_at: datetime
    status: str = "waiting"
    canceled_at: datetime | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    exit_code: int | None = None
    error_message: str | None = None
    artifact: models.Artifact | None = None
    running: Running | None = None

    def shown(self) -> models.Task:
        """Make the answer that the API gives."""
        wanted = self.request.containers[0]
        seconds = None
        if self.start_at is not None and self.end_at is not None:
            seconds = math.ceil((self.end_at - self.start_at).total_seconds())
        container = models.Container(
            image=wanted.image,
            registry=wanted.registry,
            command=wanted.command,
            entrypoint=wanted.entrypoint,
            environment=wanted.environment,
            http=wanted.http,
            ssh=wanted.ssh,
            plan=wanted.plan,
            exit_code=self.exit_code,
            execution_seconds=seconds,
            start_at=self.start_at,
            end_at=self.end_at,
            stop_at=self.end_at,
        )
        return models.Task(
            id=self.id,
            name=self.request.name,
            created_at=self.created_at,
            updated_at=self.updated_at,
            canceled_at=self.canceled_at,
            containers=[container],
            status=self.status,
            tags=self.request.tags,
            error_message=self.error_message,
            artifact=self.artifact,
            execution_time_limit_sec=self.request.execution_time_limit_sec,
        )


class Ended(Exception):
    """The task has ended, so this cannot be done to it."""


class NotEnded(Exception):
    """The task has not ended, so this cannot be done to it."""


class Project:
    """A project with its line of tasks, of which as many run at once as there are slots: one, on DOK.

    Whether a task whose container fails keeps its artifact, the service does not say; `keep_failed_artifacts`
    tells what this one does.
    """

    def __init__(self, folder: Path, clock: Clock, *, python: str, slots: int, keep_failed_artifacts: bool) -> None:
        self.tasks: dict[str, TaskRecord] = {}
        self.agreed_at: datetime | None = clock.now()
        self._folder = folder
        self._clock = clock
        self._runtime = ProcessRuntime(folder, python)
        self._slots = slots
        self._closing = False
        self._keep_failed_artifacts = keep_failed_artifacts
        self._line: deque[TaskRecord] = deque()
        self._lives: set[asyncio.Task[None]] = set()
        (folder / "artifacts").mkdir()

    def create(self, request: models.CreateTaskRequest) -> TaskRecord:
        """Put a task in the line."""
        now = self._clock.now()
        task = TaskRecord(str(uuid.uuid4()), request, now, now)
        self.tasks[task.id] = task
        self._line.append(task)
        # It is answered as waiting, even where it need not wait.
        asyncio.get_running_loop().call_soon(self._advance)
        return task

    def cancel(self, task: TaskRecord) -> None:
        """End a task that waits or runs. Raises Ended."""
        if task.status not in ("waiting", "running") or task.exit_code is not None or task.canceled_at is not None:
            raise Ended
        task.canceled_at = task.updated_at = self._clock.now()
        if task.status == "waiting":
            self._line.remove(task)
            task.status = "canceled"
        elif task.running is not None:
            task.running.kill()

    def delete(self, task: TaskRecord) -> None:
        """Forget an ended task and its artifact. Raises NotEnded."""
        if task.status in ("waiting", "running"):
            raise NotEnded
        if task.artifact is not None:
            self.artifact_path(task.artifact).unlink(missing_ok=True)
        del self.tasks[task.id]

    def artifacts(self) -> list[models.Artifact]:
        """Tell all artifacts, newest first."""
        return [task.artifact for task in reversed(self.tasks.values()) if task.artifact is not None]

    def artifact_path(self, artifact: models.Artifact) -> Path:
        """Tell where an artifact's file lies."""
        return self._folder / "artifacts" / artifact.id

    async def close(self) -> None:
        """End all tasks at once."""
        self._closing = True
        self._line.clear()
        for task in self.tasks.values():
            if task.running is not None:
                task.running.kill()
        await asyncio.gather(*self._lives, return_exceptions=True)
        self._runtime.close()

    def _advance(self) -> None:
        while self._line and len(self._lives) < self._slots:
            task = self._line.popleft()
            task.status = "running"
            life = asyncio.create_task(self._live(task))
            self._lives.add(life)
            life.add_done_callback(self._lived)

    def _lived(self, life: asyncio.Task[None]) -> None:
        self._lives.discard(life)
        self._advance()
        life.result()  # a defect of the emulator's own is to be seen

    async def _live(self, task: TaskRecord) -> None:
        task.start_at = task.updated_at = self._clock.now()
        try:
            running = task.running = await self._runtime.start(task.id, task.request.containers[0])
        except (CannotStart, OSError) as error:
            task.exit_code, task.error_message, status = 127, str(error), "error"
        else:
            if task.canceled_at is not None or self._closing:
                running.kill()  # it was told to end while it was being started
            task.exit_code, in_time = await self._wait(running, task.request.execution_time_limit_sec)
            status = self._final_status(task, in_time=in_time)
            if not self._closing and (status == "done" or self._keep_failed_artifacts):
                try:
                    task.artifact = await _off_loop(functools.partial(self._pack, task.id, running))
                except OSError as error:
                    task.error_message, status = f"the artifact cannot be collected: {error}", "error"
            await _off_loop(functools.partial(shutil.rmtree, running.folder, ignore_errors=True))
        task.running = None
        task.end_at = task.updated_at = self._clock.now()
        task.status = status

    def _final_status(self, task: TaskRecord, *, in_time: bool) -> str:
        if task.canceled_at is not None:
            return "canceled"
        if self._closing or not in_time:
            return "aborted"
        return "done" if task.exit_code == 0 else "error"

    async def _wait(self, running: Running, limit_s: int | None) -> tuple[int, bool]:
        """Wait for the main process's end. Tells its exit status, and whether it ended within its time limit."""
        ended = asyncio.ensure_future(running.wait())
        if limit_s is None or await self._before(ended, limit_s):
            return await ended, True
        running.terminate()
        if not await self._before(ended, GRACE_S):
            running.kill()
        return await ended, False

    async def _before(self, ended: asyncio.Future[int], seconds: float) -> bool:
        alarm = asyncio.ensure_future(self._clock.sleep(seconds))
        either: set[asyncio.Future[Any]] = {ended, alarm}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        alarm.cancel()
        return ended.done()

    def _pack(self, task_id: str, running: Running) -> models.Artifact:
        artifact_id = str(uuid.uuid4())
        path = self._folder / "artifacts" / artifact_id
        # The fastest level: what counts here is that it is a tar.gz, not how small it is.
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            archive.add(running.artifact_dir, arcname=".")
        return models.Artifact(
            id=artifact_id,
            task=task_id,
            created_at=self._clock.now(),
            filename=f"{task_id}.tar.gz",
            size_bytes=path.stat().st_size,
        )


async def _off_loop(work: Callable[[], T]) -> T:
    """Do what takes long in a thread, or here where no thread can be started any more: the interpreter is ending."""
    try:
        return await to_thread.run_sync(work)
    except RuntimeError:
        return work()
