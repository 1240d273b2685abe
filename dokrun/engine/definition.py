"""What makes a task ours: a digest of all that its definition says, whoever tells it.

A task is adopted, watched and believed only if the service says the same of it that was sent. What differs from one
staging or attempt of a job to the next is left out: the addresses, which lead to nothing that is not verified; the
attempt, and which calls it is for; the checkpoint to go on from; the money that is left for it; and the name, which is
for people.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from dokrun import keys
from dokrun.api.models import Container, ContainerRequest, CreateTaskRequest, Task
from dokrun.retry import Retry
from dokrun.shim import protocol
from dokrun.shim.envelope import EnvelopeError, read_chosen

# A text of thousands of digits is no number to Python.
_LONGEST_NUMBER = 9
_OF_AN_ATTEMPT = frozenset({protocol.ATTEMPT, protocol.LIMIT_S, *protocol.CHECKPOINT_VARIABLES})


class Identity(NamedTuple):
    """Which job a task is an attempt of, as its definition shows it."""

    job_id: str
    digest: str

    def owns(self, task: Task) -> bool:
        """Tell whether a task bears the job's tag and runs just what the job sent."""
        return keys.job_tag(self.job_id) in task.tags and digest(task).startswith(self.digest)


def digest(task: CreateTaskRequest | Task) -> str:
    """Tell the SHA-256 of a task's definition, before it is created or after."""
    said = {
        "tags": sorted(task.tags),
        "execution_time_limit_sec": task.execution_time_limit_sec,
        "containers": [_container(container) for container in task.containers],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def attempt_of(task: Task) -> int:
    """Tell which attempt a task is, 0 where it does not say."""
    return _number(task, protocol.ATTEMPT)


def retry_of(task: Task) -> Retry:
    """Tell how many more attempts there may be after the first, and the pauses between them."""
    return Retry(_number(task, protocol.RETRIES), backoff=_number(task, protocol.BACKOFF))


def calls_of(task: Task) -> int:
    """Tell how many calls a task's job has: one if it does not say, and none of its own if it is a session's."""
    environment = task.containers[0].environment if task.containers else {}
    return 0 if protocol.SESSION_SHA256 in environment else max(1, _number(task, protocol.CALLS))


def chosen_of(task: Task, count: int) -> set[int]:
    """Tell which of a job's calls a task is for; none where that cannot be read."""
    arguments = task.containers[0].command[protocol.CHOSEN_ARGUMENT :] if task.containers else []
    try:
        return {number for span in read_chosen("".join(arguments), count) for number in range(*span)}
    except EnvelopeError:
        return set()


def _number(task: Task, name: str) -> int:
    told = task.containers[0].environment.get(name, "") if task.containers else ""
    return int(told) if told.isdecimal() and len(told) <= _LONGEST_NUMBER else 0


def _container(container: ContainerRequest | Container) -> dict[str, object]:
    environment = container.environment
    return {
        "image": container.image,
        "registry": container.registry,
        "plan": container.plan,
        "entrypoint": container.entrypoint,
        "command": container.command[: protocol.ADDRESSES_ARGUMENT],
        "environment": {name: text for name, text in environment.items() if name not in _OF_AN_ATTEMPT},
        "http": None if container.http is None else [container.http.port, container.http.path],
        "ssh": None if container.ssh is None else container.ssh.shell,
    }
