"""A task that only waits, so that somebody can look around in its container by ssh.

Nothing is written in the journal: there is no outcome to come back for. Its tag finds it, and `dokrun ls` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dokrun import errors, keys
from dokrun.api import Client
from dokrun.api.models import ContainerRequest, CreateTaskRequest, Ssh, Task
from dokrun.cost import Receipt
from dokrun.engine.definition import Identity, digest
from dokrun.engine.images import Ready
from dokrun.engine.parts import Parts
from dokrun.engine.receipt import receipt_of
from dokrun.engine.stage import SHORTEST_TIME_LIMIT_S
from dokrun.engine.submit import GivenUp, Unknown, not_submitted

SHELLS = ("/bin/bash", "/bin/sh", "/bin/zsh")
# A task that runs for so long without a door will have none.
PATIENCE_S = 60.0
# How long to wait for the end of a task that was told to end, so that it is known what it cost.
END_S = 30.0
_FIRST_PAUSE_S, _GROWTH, _LONGEST_PAUSE_S = 0.5, 1.3, 5.0
# The task's own end comes first, so that the service's limit is for what goes wrong.
_LEEWAY_S = 60
_KEYS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")


class Door(NamedTuple):
    """Where ssh gets into a container."""

    host: str
    port: int


def door_of(task: Task) -> Door | None:
    """Tell the door of a task that runs; None where it has none, or none yet."""
    ssh = next((container.ssh for container in task.containers), None)
    if task.status != "running" or ssh is None or not ssh.host_name or not ssh.port:
        return None
    return Door(ssh.host_name, ssh.port)


def check_key(client: Client, home: Path) -> None:
    """Refuse to make a task whose door nothing would open.

    Raises:
        OptionError: no ssh key is registered and active.
        ApiError: the service refused or did not answer.
    """
    if any(key.is_active for key in client.ssh_keys.iterate()):
        return
    there = next((path for name in _KEYS if (path := home / ".ssh" / name).is_file()), None)
    make = "" if there else "make one with ssh-keygen, and "
    public = there or "~/.ssh/id_ed25519.pub"
    raise errors.OptionError(
        f"DOK knows no active ssh key that could open the task; {make}dokrun ssh-key add {public} registers it"
    )


class ShellTask:
    """A task with an ssh door, from its making to its end.

    Args:
        parts: the engine's.
        image: what it runs.
        plan: on which plan.
        limit_s: after how many seconds it ends by itself.
        shell: what whoever comes in gets.

    Attributes:
        name: what the task is called, for people.
        task_id: DOK's id of it, None until DOK has taken it.
    """

    def __init__(self, parts: Parts, image: Ready, plan: str, limit_s: float, shell: str) -> None:
        job_id, seconds = keys.new_id(), math.ceil(limit_s)
        self.name = keys.task_name("shell", job_id)
        self.task_id: str | None = None
        self._parts = parts
        # No claim keeps a late twin from starting, since nothing in the container would look at one.
        self._submitter = replace(parts.submitter, bucket=None)
        container = ContainerRequest(
            image=image.reference,
            registry=image.registry_id,
            command=[f"exec sleep {seconds}"],
            entrypoint=["/bin/sh", "-c"],
            plan=plan,
            ssh=Ssh(shell),
        )
        self._request = CreateTaskRequest(
            name=self.name,
            containers=[container],
            tags=[keys.OURS, keys.job_tag(job_id)],
            execution_time_limit_sec=max(SHORTEST_TIME_LIMIT_S, seconds + _LEEWAY_S),
        )
        self._identity = Identity(job_id, digest(self._request))

    def begin(self) -> None:
        """Have it made.

        Raises:
            SubmitFailed: it was not, or nobody knows.
        """
        try:
            self.task_id = self._submitter.submit(self._identity, 0, self._request).id
        except (GivenUp, Unknown, errors.DokrunError) as error:
            raise not_submitted(self.name, error) from error

    def door(self) -> Door:
        """Wait until the service has opened its door.

        Raises:
            TaskFailed: it has ended before.
            ApiError: it cannot be seen, or it runs and has no door.
        """
        without_s = 0.0
        for pause_s in _pauses():
            task = self._look()
            if task is not None and task.ended:
                raise errors.TaskFailed(f"{self.name} has ended ({task.status})", ran="no", task_id=task.id)
            found = None if task is None else door_of(task)
            if found is not None:
                return found
            if task is not None and task.status == "running":
                without_s += pause_s
            if without_s > PATIENCE_S:
                break
            self._parts.sleep(pause_s)
        raise errors.InvalidAnswer(f"{self.name} runs, and the service tells no ssh door of it")

    def end(self) -> Receipt | None:
        """End it, and tell what it cost, if that shows soon.

        Raises:
            ApiError: the service refused or did not answer, so that it may still run.
        """
        last = None
        # By its tag: somebody may have gone away before the service's answer came.
        for task in self._submitter.tasks_of(self._identity):
            self.task_id = last = task.id
            if not task.ended:
                self._cancel(task.id)
        waited_s = 0.0
        for pause_s in _pauses() if last else ():
            seen = self._look()
            if seen is not None and seen.ended:
                return receipt_of(seen, [], self._parts.prices)
            waited_s += pause_s
            if waited_s > END_S:
                break
            self._parts.sleep(pause_s)
        return None

    def _cancel(self, task_id: str) -> None:
        try:
            self._parts.client.tasks.cancel(task_id)
        except (errors.Forbidden, errors.NotFound):
            pass  # it has ended meanwhile

    def _look(self) -> Task | None:
        """See how it is; None where that cannot be seen now, which says nothing about it."""
        try:
            return self._parts.client.tasks.get(self.task_id or "")
        except (errors.NotFound, errors.Unauthorized, errors.Forbidden):
            raise
        except errors.ApiError:
            return None


def _pauses() -> Iterator[float]:
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * _GROWTH, _LONGEST_PAUSE_S)
