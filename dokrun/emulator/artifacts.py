"""What tasks left: packed when they end, limited in size, gone after 72 hours."""

from __future__ import annotations

import tarfile
import uuid
from collections import deque
from datetime import timedelta
from pathlib import Path

import msgspec

from dokrun.api import models
from dokrun.emulator.clock import Clock
from dokrun.emulator.task import TaskRecord

# The service keeps them this long, and collects no more than this.
LIFETIME = timedelta(hours=72)
LARGEST_BYTES = 20 * 10**9
_PIECE_BYTES = 1 << 20


class TooLarge(OSError):
    """The artifact folder holds more than the service collects."""


class Artifacts:
    """The artifacts' files, and the tasks that they belong to, oldest first."""

    def __init__(self, folder: Path, clock: Clock, largest_bytes: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._clock = clock
        self._largest_bytes = largest_bytes
        self._by_id: dict[str, TaskRecord] = {}
        self._living: deque[TaskRecord] = deque()

    def path(self, artifact: models.Artifact) -> Path:
        """Tell where an artifact's tar.gz lies."""
        return self._folder / artifact.id

    def pack(self, task_id: str, content: Path) -> models.Artifact:
        """Make the tar.gz of a folder. May run in any thread. Raises OSError."""
        size = sum(entry.lstat().st_size for entry in content.rglob("*") if not entry.is_dir())
        if size > self._largest_bytes:
            raise TooLarge(f"it holds {size} bytes, and {self._largest_bytes} are allowed")
        artifact_id = str(uuid.uuid4())
        path = self._folder / artifact_id
        aside = path.with_suffix(".part")
        # Stored as it is: what counts here is that it is a tar.gz, not how small it is.
        with tarfile.open(aside, "w:gz", compresslevel=0) as archive:
            archive.copybufsize = _PIECE_BYTES  # type: ignore[attr-defined]  # typeshed lacks it
            archive.add(content, arcname=".")
        aside.replace(path)
        now = self._clock.now()
        return models.Artifact(
            id=artifact_id,
            task=task_id,
            created_at=now,
            updated_at=now,
            filename=f"{task_id}.tar.gz",
            size_bytes=path.stat().st_size,
        )

    def add(self, task: TaskRecord) -> None:
        """Take in the artifact that a task has."""
        if task.artifact is not None:
            self._by_id[task.artifact.id] = task
            if task.artifact.deleted_at is None:
                self._living.append(task)

    def remove(self, artifact: models.Artifact) -> None:
        """Forget an artifact, with its file."""
        self._by_id.pop(artifact.id, None)
        self.path(artifact).unlink(missing_ok=True)

    def expire(self) -> list[TaskRecord]:
        """Delete what is 72 hours old. Tells the tasks whose artifacts that were."""
        expired = []
        now = self._clock.now()
        while self._living:
            task = self._living[0]
            artifact = task.artifact
            if artifact is not None and artifact.id in self._by_id:
                if artifact.created_at is None or now - artifact.created_at < LIFETIME:
                    break
                self.path(artifact).unlink(missing_ok=True)
                task.artifact = msgspec.structs.replace(artifact, updated_at=now, deleted_at=now)
                expired.append(task)
            self._living.popleft()
        return expired

    def get(self, artifact_id: str) -> models.Artifact | None:
        """Tell an artifact, an expired one too."""
        task = self._by_id.get(artifact_id)
        return None if task is None else task.artifact

    def all(self) -> list[models.Artifact]:
        """Tell all artifacts, newest first, the expired ones too."""
        return [task.artifact for task in reversed(self._by_id.values()) if task.artifact is not None]
