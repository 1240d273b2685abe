"""One project: its line of tasks, and how they live. Belongs to one event loop, and so needs no lock."""

from __future__ import annotations

import asyncio
import shutil
import sys
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from anyio import to_thread

from dokrun.api import models
from dokrun.emulator.artifacts import LARGEST_BYTES, Artifacts
from dokrun.emulator.clock import Clock
from dokrun.emulator.docker import DockerRuntime
from dokrun.emulator.faults import Faults
from dokrun.emulator.log import Log
from dokrun.emulator.passage import Limits
from dokrun.emulator.process import ProcessRuntime
from dokrun.emulator.proxy import PublicPort
from dokrun.emulator.records import Records
from dokrun.emulator.runtime import CannotStart, CredentialsOf, MakeRuntime, NoImage, Running, Runtime
from dokrun.emulator.task import TaskRecord

T = TypeVar("T")

# How long a container has between SIGTERM and SIGKILL.
GRACE_S = 10.0
RUNTIMES = ("process", "docker")


@dataclass(frozen=True)
class Behaviour:
    """In what ways one emulator may differ from another.

    Attributes:
        runtime: what tasks run as: `process` is a process of this machine, `docker` a container of a Docker engine.
        python: the interpreter that every image has, for the runtime `process`.
        slots: how many tasks run at once; a DOK project has one.
        keep_failed_artifacts: whether a task that does not end well keeps its artifact, of which DOK says nothing.
        largest_artifact_bytes: how much an artifact folder may hold.
        agreed: whether somebody has agreed to the terms of service.
        cut_s: after how many seconds the proxy of an http port cuts a request, whatever has come of its answer; or a
            websocket, when nothing has passed for so long.
        largest_body_bytes: how large a request may be that this proxy passes on.
        ssh_port: where on this machine somebody else answers ssh for the tasks that want a door; None is nowhere, and
            no task is told of one.
        memory_bytes: how much memory a container may use; None is no limit. For the runtime `docker`.
        read_only_root: whether a container can write nowhere but in `/tmp` and its artifact folder. Likewise.

    Raises:
        ValueError: there is no such runtime, or it cannot do what is asked.

    Examples:
        >>> with Emulator(behaviour=Behaviour(slots=4)) as service:
        ...     print(service.api_url)
        http://127.0.0.1:.../managed-container/1.0
    """

    runtime: str = "process"
    python: str = sys.executable
    slots: int = 1
    keep_failed_artifacts: bool = False
    largest_artifact_bytes: int = LARGEST_BYTES
    agreed: bool = True
    cut_s: float = 60.0
    largest_body_bytes: int = 16 << 20
    ssh_port: int | None = None
    memory_bytes: int | None = None
    read_only_root: bool = False

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ValueError(f"runtime: {self.runtime!r} is not one of {', '.join(RUNTIMES)}")
        if self.runtime != "docker" and (self.memory_bytes is not None or self.read_only_root):
            raise ValueError("memory_bytes and read_only_root are for runtime='docker'")


class Ended(Exception):
    """The task has ended, so this cannot be done to it."""


class NotEnded(Exception):
    """The task has not ended, so this cannot be done to it."""


class Project:
    """A project's tasks.

    Args:
        data: the folder for what outlives the emulator, as far as `records` does.
        scratch: the folder for what does not.
        records: where tasks are kept; those that ran when the emulator ended are aborted, those that waited wait on.
        clock: what tells the time.
        behaviour: see there.
        make_runtime: makes what tasks run on, in place of what the behaviour says, below a folder that is its own.
        credentials_of: tells what a registry wants to be told, by the id that the account gave it.
        on_end: called with each task that has ended.
        faults: what shall go wrong on the tasks' public ports.
    """

    def __init__(
        self,
        *,
        data: Path,
        scratch: Path,
        records: Records,
        clock: Clock,
        behaviour: Behaviour,
        make_runtime: MakeRuntime | None = None,
        credentials_of: CredentialsOf,
        on_end: Callable[[TaskRecord], None],
        faults: Faults,
    ) -> None:
        self.tasks: dict[str, TaskRecord] = {}
        self.artifacts = Artifacts(data / "artifacts", clock, behaviour.largest_artifact_bytes)
        self._logs = data / "logs"
        self._logs.mkdir(exist_ok=True)
        self._records = records
        self._clock = clock
        self._behaviour = behaviour
        self._on_end = on_end
        self._faults = faults
        if make_runtime is None:
            self._runtime = _make_runtime(behaviour, scratch, credentials_of)
        else:
            self._runtime = make_runtime(scratch)
        self._closing = False
        self._line: deque[TaskRecord] = deque()
        self._running: dict[str, Running] = {}
        self._lives: set[asyncio.Task[None]] = set()
        self._restore()

    def create(self, request: models.CreateTaskRequest) -> TaskRecord:
        """Put a task in the line."""
        now = self._clock.now()
        task = TaskRecord(str(uuid.uuid4()), request, now, now)
        self.tasks[task.id] = task
        self._line.append(task)
        self.keep(task)
        # It is answered as waiting, even where it need not wait.
        asyncio.get_running_loop().call_soon(self._advance)
        return task

    def cancel(self, task: TaskRecord) -> None:
        """End a task that waits or runs. Raises Ended."""
        if task.ended or task.exit_code is not None or task.canceled_at is not None:
            raise Ended
        task.canceled_at = task.updated_at = self._clock.now()
        if task.status == "waiting":
            self._line.remove(task)
            self._end(task, "canceled")
        else:
            self._stop(task)

    def delete(self, task: TaskRecord) -> None:
        """Forget an ended task, its artifact and its log. Raises NotEnded."""
        if not task.ended:
            raise NotEnded
        if task.artifact is not None:
            self.artifacts.remove(task.artifact)
        self.log_path(task).unlink(missing_ok=True)
        self._records.remove("task", task.id)
        del self.tasks[task.id]

    def keep(self, task: TaskRecord) -> None:
        """Store a task as it is now."""
        self._records.put("task", task.id, task)

    def expire(self) -> None:
        """Delete what is too old to be kept."""
        for task in self.artifacts.expire():
            self.keep(task)

    def live_log(self, task: TaskRecord) -> Log | None:
        """Tell the log of a running task."""
        running = self._running.get(task.id)
        return None if running is None else running.log

    def log_path(self, task: TaskRecord) -> Path:
        """Tell where a task's log lies, once it has one."""
        return self._logs / task.id

    async def close(self) -> None:
        """End all tasks at once. Those that wait are kept as they are."""
        self._closing = True
        self._line.clear()
        for task in self.tasks.values():
            if task.status == "running":
                self._stop(task)
        await asyncio.gather(*self._lives, return_exceptions=True)
        self._runtime.close()

    def _stop(self, task: TaskRecord) -> None:
        if task.id in self._running:
            self._running[task.id].kill()
        else:
            self._runtime.give_up(task.id)

    def _restore(self) -> None:
        for task in self._records.all("task", TaskRecord):
            self.tasks[task.id] = task
            self.artifacts.add(task)
            if task.status == "running":
                task.end_at = self._clock.now()
                task.error_message = "the emulator was stopped"
                self._end(task, "aborted")
            elif task.status == "waiting":
                self._line.append(task)
        asyncio.get_running_loop().call_soon(self._advance)

    def _advance(self) -> None:
        while self._line and len(self._lives) < self._behaviour.slots:
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
        log = Log(self.log_path(task))
        public = await self._open_port(task)
        try:
            running = await self._runtime.start(task.id, task.request.containers[0], log)
        except (CannotStart, OSError) as error:
            # A shell's way to tell that there is no such program, and Docker's.
            task.exit_code = None if isinstance(error, NoImage) else 127
            task.error_message = str(error)
            status = self._final_status(task, in_time=True)
        else:
            # Not before: what comes until the container starts, as the image's pull, costs nothing.
            task.start_at = task.updated_at = self._clock.now()
            task.ssh = self._door(task)
            self._running[task.id] = running
            self.keep(task)
            if task.canceled_at is not None or self._closing:
                running.kill()  # it was told to end while it was being started
            exit_code, in_time = await self._wait(running, task.request.execution_time_limit_sec)
            task.exit_code = exit_code
            status = self._final_status(task, in_time=in_time)
            if not self._closing and (status == "done" or self._behaviour.keep_failed_artifacts):
                status = await self._collect(task, running, status)
            del self._running[task.id]
            await _off_loop(partial(shutil.rmtree, running.folder, ignore_errors=True))
        if public is not None:
            await public.close()
        task.end_at = self._clock.now()
        self._end(task, status)

    async def _open_port(self, task: TaskRecord) -> PublicPort | None:
        wanted = task.request.containers[0].http
        if wanted is None:
            return None
        limits = Limits(self._behaviour.cut_s, self._behaviour.largest_body_bytes)
        public = await PublicPort.open(wanted.port, limits, self._clock, self._faults)
        task.http_uri = public.url
        return public

    def _door(self, task: TaskRecord) -> models.Ssh | None:
        wanted = task.request.containers[0].ssh
        if wanted is None or self._behaviour.ssh_port is None:
            return None
        return models.Ssh(wanted.shell, self._behaviour.ssh_port, "127.0.0.1")

    def _final_status(self, task: TaskRecord, *, in_time: bool) -> str:
        if task.canceled_at is not None:
            return "canceled"
        if self._closing or not in_time:
            return "aborted"
        return "done" if task.exit_code == 0 else "error"

    async def _collect(self, task: TaskRecord, running: Running, status: str) -> str:
        try:
            task.artifact = await _off_loop(partial(self.artifacts.pack, task.id, running.artifact_dir))
        except OSError as error:
            task.error_message = f"the artifact cannot be collected: {error}"
            return "error"
        self.artifacts.add(task)
        return status

    def _end(self, task: TaskRecord, status: str) -> None:
        task.updated_at = self._clock.now()
        task.status = status
        self.keep(task)
        self._on_end(task)

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


def _make_runtime(behaviour: Behaviour, folder: Path, credentials_of: CredentialsOf) -> Runtime:
    if behaviour.runtime == "docker":
        return DockerRuntime(
            folder,
            credentials_of,
            memory_bytes=behaviour.memory_bytes,
            read_only_root=behaviour.read_only_root,
        )
    return ProcessRuntime(folder, behaviour.python)


async def _off_loop(work: Callable[[], T]) -> T:
    """Do what takes long in a thread, or here where no thread can be started any more: the interpreter is ending."""
    try:
        return await to_thread.run_sync(work)
    except RuntimeError:
        return work()
