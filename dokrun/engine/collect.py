"""From an ended task to its artifact: dokrun's own files of it are fetched, the user's are left for later."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dokrun import errors
from dokrun.api import Client
from dokrun.api.models import Artifact, Task
from dokrun.artifact import ArtifactFile
from dokrun.engine.archive import ArchiveError, Pieces, extract_files, extract_own
from dokrun.engine.members import Content
from dokrun.engine.reports import Expected, NoOutcome, Numbered, read_outcomes

_log = logging.getLogger("dokrun.engine")

# An artifact may show a little after the task's end: pauses between looks, in seconds. A task that did not end well may
# have none at all, so that is not waited for as long.
PATIENCE_S = (0.1, 0.2, 0.5, 1, 2, 4, 8, 15, 30)
SHORT_PATIENCE_S = (0.1, 0.2, 0.5, 1)
# How many names one line of text tells.
_NAMED = 3


@dataclass(frozen=True)
class TaskArtifact:
    """A task's artifact, with the names of the user's files in it; they are fetched when somebody asks for them."""

    client: Client
    id: str
    content: Content
    # The function's.
    name: str

    @property
    def files(self) -> Sequence[ArtifactFile]:
        """The user's files."""
        return self.content.files

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Fetch some of the user's files into a folder, which is new.

        Raises:
            ApiError: the service refused it or did not answer.
            InvalidAnswer: what came is no archive, or not the one that was looked at before.
            OSError: this machine could not write them.
        """
        passed_over = self.content.passed_over
        if passed_over:
            _log.warning(
                "%s also left what cannot be brought here, being no file, nor a link to one in its artifact folder: %s",
                self.name,
                _named(passed_over),
            )
        try:
            with _coming(self.client, self.id) as archive:
                extract_files(archive, self.content, folder, set(names))
        except ArchiveError as error:
            raise errors.InvalidAnswer(f"the artifact {self.id} cannot be read: {error}") from error


def collect(
    client: Client, expected: Expected, task: Task, folder: Path, *, keep_in: Path, sleep: Callable[[float], object]
) -> tuple[TaskArtifact, Numbered]:
    """Fetch a task's artifact and read what became of each call; the user's files in it are left for later.

    Args:
        client: DOK.
        expected: whose outcomes.
        task: the task, which has ended.
        folder: an empty folder for what is fetched.
        keep_in: where results are kept that cannot be opened here.
        sleep: waits so many seconds.

    Raises:
        NoOutcome: there is no artifact, it cannot be read, or it has no outcome of dokrun's.
        ResultNotFetched: DOK has it, and it cannot be brought here now.
    """
    try:
        artifact = _find_artifact(client, task, sleep)
        if artifact is None:
            raise NoOutcome("and left no artifact")
        return _download(client, artifact, expected, folder), read_outcomes(expected, task, folder, keep_in)
    except errors.NotFound as error:
        raise _not_fetched(expected, task, f"DOK has it no longer: {error}") from error
    except errors.ApiError as error:
        raise _not_fetched(expected, task, str(error)) from error
    except (OSError, MemoryError) as error:
        why = getattr(error, "strerror", None) or str(error) or "there is no memory left"
        where = f"it cannot be kept below {folder.parent} on this machine ({why})"
        raise _not_fetched(expected, task, where) from error


def _download(client: Client, artifact: Artifact, expected: Expected, folder: Path) -> TaskArtifact:
    try:
        with _coming(client, artifact.id) as archive:
            return TaskArtifact(client, artifact.id, extract_own(archive, folder), expected.name)
    except ArchiveError as error:
        raise NoOutcome(f"and its artifact cannot be read ({error})") from error


@contextmanager
def _coming(client: Client, artifact_id: str) -> Iterator[IO[bytes]]:
    """Read an archive as it comes: on the disk it would take as much room again as what is in it."""
    with closing(client.artifacts.stream(artifact_id)) as pieces:
        yield io.BufferedReader(Pieces(pieces))


def _not_fetched(expected: Expected, task: Task, why: str) -> errors.ResultNotFetched:
    message = f"the result of {expected.name} was made, but {why}"
    return errors.ResultNotFetched(message, ran="maybe", task_id=task.id)


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def _find_artifact(client: Client, task: Task, sleep: Callable[[float], object]) -> Artifact | None:
    if task.artifact is not None:
        return task.artifact
    problem: errors.ApiError | None = None
    for pause_s in (0, *(PATIENCE_S if task.status == "done" else SHORT_PATIENCE_S)):
        sleep(pause_s)
        try:
            listed = client.artifacts.list(task=task.id).results
        except errors.ApiError as error:
            _log.warning("cannot see the artifact of task %s, and will ask again: %s", task.id, error)
            problem = error
            continue
        found = [artifact for artifact in listed if artifact.task in (task.id, "")]
        if found:
            return found[0]
        problem = None
    if problem is not None:
        raise problem
    return None
