"""Runtime `docker`: a task as a container of a Docker engine on this machine.

The engine pulls what a task names, always, as the service does; for a private image it uses this machine's own
`docker login`, since the emulator keeps no registry's password. The container has the host's network on Linux and,
where the engine has NVIDIA's runtime, its GPUs. What it leaves in `/opt/artifact` lies in the task's own folder.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread

from dokrun.api.models import ContainerRequest
from dokrun.emulator.log import Log, Pipe
from dokrun.emulator.reaper import Reaper
from dokrun.emulator.runtime import CannotStart, NoImage
from dokrun.errors import ConfigError

ARTIFACT_DIR = "/opt/artifact"
LABEL = "dokrun.emulator"
_DEFAULT_HOST = "unix:///var/run/docker.sock"
# What Docker itself says where the container is fine and the engine is not.
_ENGINE_LOST = 125


def connect() -> Any:
    """Make a client of the engine that the environment names.

    Raises:
        ConfigError: none answers.
    """
    try:
        if _host().startswith("unix://"):
            # The SDK forgets to close the socket of an engine that does not answer.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(_host().removeprefix("unix://"))
        return _docker().from_env().api
    except _failures() as error:
        raise ConfigError(
            f"no Docker engine answers at {_host()}; start Docker or set DOCKER_HOST, or take the runtime `process`,"
            " which needs none"
        ) from error


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
        failures = _failures()
        try:
            for _, data in _docker().utils.socket.frames_iter(output, tty=False):
                _write(self.pipe.writer, data)
            status = int(self.api.wait(self.container_id, timeout=None)["StatusCode"])
        except failures as error:
            status = _ENGINE_LOST
            _write(self.pipe.writer, f"the emulator has lost the container: {_told(error)}\n".encode())
        remove = partial(self.api.remove_container, self.container_id, force=True, v=True)
        for clean in (partial(_close, output), partial(self._open_artifact, image), remove):
            try:
                clean()
            except failures:
                pass  # somebody else has removed it, or the engine has gone with all of its containers
        os.close(self.pipe.writer)
        try:
            self.ended.get_loop().call_soon_threadsafe(self.ended.set_result, status)
        except RuntimeError:
            pass  # the emulator was never closed, and its process is ending

    def _signal(self, name: str) -> None:
        try:
            self.api.kill(self.container_id, name)
        except _failures():
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


class DockerRuntime:
    """Starts tasks as containers.

    Args:
        folder: a folder of its own, which nobody else may enter.
        memory_bytes: how much memory a container may use; None is no limit.
        read_only_root: whether a container can write nowhere but in `/tmp` and its artifact folder.

    Raises:
        ConfigError: no engine answers.
    """

    def __init__(self, folder: Path, *, memory_bytes: int | None = None, read_only_root: bool = False) -> None:
        self._api = connect()
        self._folder = folder
        self._pulls: dict[str, Future[str]] = {}
        self._given_up: set[str] = set()
        self._label = f"{LABEL}={uuid.uuid4()}"
        self._host_config = self._shared_host_config(memory_bytes, read_only_root=read_only_root)
        self._reaper = Reaper(folder, _host(), self._label)

    async def start(self, task_id: str, container: ContainerRequest, log: Log) -> RunningContainer:
        """Pull a task's image and start its container, whose output goes to the log.

        Raises:
            CannotStart: there is no such program, or the engine refuses.
            NoImage: the engine cannot pull the image.
        """
        failures = _failures()
        folder = self._folder / task_id
        folder.mkdir(mode=0o700)
        # Whatever user the image has must be able to write; the folder above keeps everybody else out.
        (folder / "artifact").mkdir()
        (folder / "artifact").chmod(0o777)
        try:
            image = await self._pulled(task_id, container.image)
        except NoImage:
            log.end()
            raise
        except Exception as error:
            log.end()
            raise NoImage(f"the image cannot be pulled: {_told(error)}") from error
        try:
            name, output = await to_thread.run_sync(self._start, task_id, container, image, folder / "artifact")
        except failures as error:
            log.end()
            raise CannotStart(f"the container cannot be started: {_told(error)}") from error
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        running = RunningContainer(self._api, name, folder, log, Pipe(log), ended)
        # Not one of the loop's own threads: a process that forgets to close the emulator must be able to end.
        threading.Thread(target=running.follow, args=(output, image), name=f"dokrun-{task_id}", daemon=True).start()
        return running

    def give_up(self, task_id: str) -> None:
        """Wait no longer for the pull of a task's image, which may take minutes."""
        self._given_up.add(task_id)
        if task_id in self._pulls:
            _settle(partial(self._pulls[task_id].set_exception, _given_up()))

    def close(self) -> None:
        """Remove every container that is left, and end the helper process."""
        failures = _failures()
        try:
            for left in self._api.containers(all=True, filters={"label": self._label}):
                self._api.remove_container(left["Id"], force=True, v=True)
        except failures:
            pass  # the engine has gone
        self._reaper.close()
        self._api.close()

    async def _pulled(self, task_id: str, image: str) -> str:
        if task_id in self._given_up:
            raise _given_up()
        pulled = self._pulls[task_id] = Future()

        def work() -> None:
            try:
                image_id = self._pull(image)
            except Exception as error:  # noqa: BLE001 - whatever it is, the task waits for this answer
                _settle(partial(pulled.set_exception, error))
            else:
                _settle(partial(pulled.set_result, image_id))

        try:
            threading.Thread(target=work, name=f"dokrun-pull-{task_id}", daemon=True).start()
            return await asyncio.wrap_future(pulled)
        finally:
            del self._pulls[task_id]

    def _pull(self, image: str) -> str:
        """Pull an image. Returns its id."""
        docker = _docker()
        repository, tag = docker.utils.parse_repository_tag(image)
        for step in self._api.pull(repository, tag or "latest", stream=True, decode=True, platform="linux/amd64"):
            if "error" in step:
                raise docker.errors.DockerException(step["error"])
        return str(self._api.inspect_image(image)["Id"])

    def _start(self, task_id: str, container: ContainerRequest, image: str, artifact: Path) -> tuple[str, Any]:
        """Start a container. Returns its id, and the socket that brings what it writes."""
        name = self._api.create_container(
            image,
            entrypoint=container.entrypoint or None,
            command=container.command or None,
            environment={
                **container.environment,
                "SAKURA_TASK_ID": task_id,
                "SAKURA_ARTIFACT_DIR": ARTIFACT_DIR,
            },
            labels=dict([self._label.split("=")]),
            host_config=self._api.create_host_config(binds=[f"{artifact}:{ARTIFACT_DIR}"], **self._host_config),
        )["Id"]
        try:
            # Before it starts, so that nothing of its output is missed.
            output = self._api.attach_socket(name, {"stdout": 1, "stderr": 1, "stream": 1})
            try:
                self._api.start(name)
            except BaseException:
                _close(output)
                raise
        except BaseException:
            self._api.remove_container(name, force=True, v=True)
            raise
        return name, output

    def _shared_host_config(self, memory_bytes: int | None, *, read_only_root: bool) -> Mapping[str, Any]:
        shared: dict[str, Any] = {"log_config": {"type": "none"}}
        if sys.platform == "linux":
            shared["network_mode"] = "host"
        if "nvidia" in self._api.info().get("Runtimes", {}):
            shared["device_requests"] = [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]
        if memory_bytes is not None:
            # The same for both, so that there is no swap to flee to.
            shared.update(mem_limit=memory_bytes, memswap_limit=memory_bytes)
        if read_only_root:
            shared.update(read_only=True, tmpfs={"/tmp": "exec,mode=1777"})  # noqa: S108 - the container's own
        return shared


def _given_up() -> NoImage:
    return NoImage("the task was told to end before its image was there")


def _host() -> str:
    return os.environ.get("DOCKER_HOST") or _DEFAULT_HOST


def _failures() -> tuple[type[Exception], ...]:
    """List what the SDK raises: errors of its own, those of the connection and of addresses."""
    import urllib3

    errors = _docker().errors
    return (errors.DockerException, errors.StreamParseError, urllib3.exceptions.HTTPError, OSError, ValueError)


def _docker() -> Any:
    import docker  # type: ignore[import-untyped]

    return docker


def _told(error: BaseException) -> str:
    """Tell what the engine said. It may quote a registry's address, whose query is nobody's concern."""
    return re.sub(r"\?[^\s\"']+", "", str(getattr(error, "explanation", None) or error)).strip()


def _settle(settle: Callable[[], None]) -> None:
    try:
        settle()
    except InvalidStateError:
        pass  # it was given up


def _close(stream: Any) -> None:
    """Close a stream, and the socket that the SDK leaves open below it."""
    below = getattr(stream, "_sock", None)
    stream.close()
    if below is not None:
        below.close()


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _aside(work: Callable[[], None]) -> None:
    """Do what asks the engine without holding up the loop, or here where no thread can be started any more."""
    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError:
        work()
