"""What runs tasks: the one seam between a project's line and what a task's main process really is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dokrun.api.models import ContainerRequest
from dokrun.emulator.log import Log


@dataclass(frozen=True)
class Credentials:
    """What a registry wants to be told by whoever pulls."""

    hostname: str
    username: str
    password: str = field(repr=False)


# Tells the credentials that an account has for the registry of an id, or None.
CredentialsOf = Callable[[str], Credentials | None]


class CannotStart(Exception):
    """The container's main process cannot be started."""


class NoImage(CannotStart):
    """The container's image cannot be had."""


class Running(Protocol):
    """A task's main process, and where it leaves things."""

    @property
    def folder(self) -> Path:
        """The folder of this task alone, to be removed when it has ended."""

    @property
    def artifact_dir(self) -> Path:
        """The folder that `SAKURA_ARTIFACT_DIR` names, as this machine sees it."""

    @property
    def log(self) -> Log:
        """What it writes."""

    async def wait(self) -> int:
        """Wait until the main process has ended, and nothing of the task is left. Returns its exit status."""

    def terminate(self) -> None:
        """Ask the main process to end."""

    def kill(self) -> None:
        """End all of the task's processes at once."""


class Runtime(Protocol):
    """Starts tasks."""

    async def start(self, task_id: str, container: ContainerRequest, log: Log) -> Running:
        """Start a task's main process, whose output goes to the log.

        Raises:
            CannotStart: there is no such program.
            NoImage: nor such an image.
        """

    def give_up(self, task_id: str) -> None:
        """Let `start` of a task fail at once, if that can still be."""

    def close(self) -> None:
        """End what is left."""


# Makes a runtime that keeps its files below a folder.
MakeRuntime = Callable[[Path], Runtime]
