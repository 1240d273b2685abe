"""Runtime `docker`: a task as a container of a Docker engine on this machine.

The container has the host's network on Linux and, where the engine has NVIDIA's runtime, its GPUs. What it leaves in
`/opt/artifact` lies in the task's own folder.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anyio import to_thread

from dokrun.api.models import ContainerRequest
from dokrun.emulator.container import ARTIFACT_DIR, RunningContainer
from dokrun.emulator.docker_engine import close_stream, connect, failures, host, told
from dokrun.emulator.log import Log, Pipe
from dokrun.emulator.pulls import Pulls
from dokrun.emulator.reaper import Reaper
from dokrun.emulator.runtime import CannotStart, CredentialsOf, NoImage

LABEL = "dokrun.emulator"


class DockerRuntime:
    """Starts tasks as containers.

    Args:
        folder: a folder of its own, which nobody else may enter.
        credentials_of: tells what a registry wants to be told, by the id that the account gave it.
        memory_bytes: how much memory a container may use; None is no limit.
        read_only_root: whether a container can write nowhere but in `/tmp` and its artifact folder.

    Raises:
        ConfigError: no engine answers.
    """

    def __init__(
        self,
        folder: Path,
        credentials_of: CredentialsOf,
        *,
        memory_bytes: int | None = None,
        read_only_root: bool = False,
    ) -> None:
        self._api = connect()
        self._folder = folder
        self._pulls = Pulls(self._api, credentials_of)
        self._label = f"{LABEL}={uuid.uuid4()}"
        self._host_config = self._shared_host_config(memory_bytes, read_only_root=read_only_root)
        self._reaper = Reaper(folder, host(), self._label)

    async def start(self, task_id: str, container: ContainerRequest, log: Log) -> RunningContainer:
        """Pull a task's image and start its container, whose output goes to the log.

        Raises:
            CannotStart: there is no such program, or the engine refuses.
            NoImage: the engine cannot pull the image.
        """
        folder = self._folder / task_id
        folder.mkdir(mode=0o700)
        # Whatever user the image has must be able to write; the folder above keeps everybody else out.
        (folder / "artifact").mkdir()
        (folder / "artifact").chmod(0o777)
        try:
            image = await self._pulls.image_of(task_id, container)
        except NoImage:
            log.end()
            raise
        try:
            name, output = await to_thread.run_sync(self._start, task_id, container, image, folder / "artifact")
        except failures() as error:
            log.end()
            raise CannotStart(f"the container cannot be started: {told(error)}") from error
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        running = RunningContainer(self._api, name, folder, log, Pipe(log), ended)
        # Not one of the loop's own threads: a process that forgets to close the emulator must be able to end.
        threading.Thread(target=running.follow, args=(output, image), name=f"dokrun-{task_id}", daemon=True).start()
        return running

    def give_up(self, task_id: str) -> None:
        """Wait no longer for the pull of a task's image, which may take minutes."""
        self._pulls.give_up(task_id)

    def close(self) -> None:
        """Remove every container that is left, and end the helper process."""
        try:
            for left in self._api.containers(all=True, filters={"label": self._label}):
                self._api.remove_container(left["Id"], force=True, v=True)
        except failures():
            pass  # the engine has gone
        self._reaper.close()
        self._api.close()

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
                close_stream(output)
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
