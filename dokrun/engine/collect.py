"""From an ended task to outcomes: the artifact is fetched, verified by the manifest in it, and only then unpickled."""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dokrun import errors, keys
from dokrun.api import Client
from dokrun.api.models import Artifact, Task
from dokrun.engine.archive import ArchiveError, extract_files, extract_own
from dokrun.engine.members import Content
from dokrun.engine.stage import Checkpoint
from dokrun.future import ArtifactFile
from dokrun.shim import protocol
from dokrun.shim.envelope import EnvelopeError, FormatError, Segment, load_value, unpack

_log = logging.getLogger("dokrun.engine")

# An artifact may show a little after the task's end: pauses between looks, in seconds. A task that did not end well may
# have none at all, so that is not waited for as long.
PATIENCE_S = (0.1, 0.2, 0.5, 1, 2, 4, 8, 15, 30)
SHORT_PATIENCE_S = (0.1, 0.2, 0.5, 1)
# How many names one line of text tells.
_NAMED = 3


@dataclass(frozen=True)
class Outcome:
    """What became of a call in one attempt: a value, or the error that its future raises.

    Attributes:
        again: whether the function provably did not start, and another task may do better.
        claimed: whether the attempt's claim is taken, so that another task would need the next one.
        checkpoint: what the attempt has saved for the next one, as the manifest tells it.
        lasting: whether nothing would be learnt by looking again; if not, `dok.attach` may do so.
    """

    value: Any = None
    error: BaseException | None = None
    again: bool = False
    claimed: bool = True
    checkpoint: Checkpoint | None = None
    lasting: bool = True


@dataclass(frozen=True)
class Expected:
    """Whose outcomes are looked for: those of `calls` calls of a job, from one of its attempts."""

    job_id: str
    attempt: int
    name: str
    calls: int


class NoOutcome(Exception):
    """The task has told nothing of its calls; its text says what was found in place of an outcome."""


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
        """Fetch some of the user's files into a folder, which is new; the archive lies beside it meanwhile.

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
        with tempfile.TemporaryDirectory(prefix=".dokrun-", dir=folder.parent) as aside:
            archive = self.client.artifacts.download(self.id, Path(aside) / "artifact.tar.gz")
            try:
                extract_files(archive, self.content, folder, set(names))
            except ArchiveError as error:
                raise errors.InvalidAnswer(f"the artifact {self.id} cannot be read: {error}") from error


def collect(
    client: Client, expected: Expected, task: Task, folder: Path, *, keep_in: Path, sleep: Callable[[float], object]
) -> tuple[TaskArtifact, list[Outcome]]:
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
        found = _download(client, artifact, expected, folder)
    except errors.ApiError as error:
        raise _not_fetched(expected, task, str(error)) from error
    except OSError as error:
        where = f"it cannot be written below {folder.parent} on this machine ({error.strerror or error})"
        raise _not_fetched(expected, task, where) from error
    return found, read_outcomes(expected, task, folder, keep_in)


def _download(client: Client, artifact: Artifact, expected: Expected, folder: Path) -> TaskArtifact:
    archive = folder / "artifact.tar.gz"
    try:
        client.artifacts.download(artifact.id, archive)
        return TaskArtifact(client, artifact.id, extract_own(archive, folder), expected.name)
    except ArchiveError as error:
        raise NoOutcome(f"and its artifact cannot be read ({error})") from error
    finally:
        archive.unlink(missing_ok=True)


def _not_fetched(expected: Expected, task: Task, why: str) -> errors.ResultNotFetched:
    message = f"the result of {expected.name} is there, but {why}"
    return errors.ResultNotFetched(message, ran="maybe", task_id=task.id)


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def read_outcomes(expected: Expected, task: Task, folder: Path, keep_in: Path) -> list[Outcome]:
    """Read what became of each call, in the job's order, from the own files of an artifact; never raises for one call.

    What was verified but cannot be opened here is kept below `keep_in`, and named in the call's error.

    Raises:
        NoOutcome: there is no outcome of dokrun's, or one that says that another task has the claim.
    """
    try:
        manifest = json.loads((folder / protocol.MANIFEST).read_bytes())
        entries = {entry["id"]: entry for entry in manifest["calls"]}
        failed = manifest["failure"]
        reason = failed and failed["reason"]
        ours = failed is not None or (manifest["job"], manifest["attempt"]) == (expected.job_id, expected.attempt)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoOutcome("and its artifact holds no outcome of dokrun's") from error
    if reason == protocol.UNCLAIMED:
        raise NoOutcome(f"since {failed['message']}")
    ids = [keys.call_id(expected.job_id, number) for number in range(expected.calls)]
    if not ours:
        forged = errors.Tampered("the artifact holds the outcome of another job", ran="maybe", task_id=task.id)
        return [Outcome(error=forged) for _ in ids]
    reader = _Reader(folder, keep_in, task.id)
    checkpoint = _checkpoint(manifest.get("checkpoint"), expected.attempt)
    outcomes = [reader.outcome(call_id, entries.get(call_id, {"failure": failed or _NOTHING})) for call_id in ids]
    return [replace(outcome, checkpoint=checkpoint) for outcome in outcomes]


def _checkpoint(told: Any, attempt: int) -> Checkpoint | None:
    try:
        return Checkpoint(attempt, int(told["slot"]), str(told["sha256"]), int(told["size"]))
    except (KeyError, TypeError, ValueError):
        return None


_NOTHING = {"reason": "missing", "ran": "maybe", "message": "the container's manifest does not name this call"}


class _Reader:
    """Reads the reports of one task."""

    def __init__(self, folder: Path, keep_in: Path, task_id: str) -> None:
        self._folder = folder
        self._keep_in = keep_in
        self._task_id = task_id

    def outcome(self, call_id: str, entry: Mapping[str, Any]) -> Outcome:
        where = {"call_id": call_id, "task_id": self._task_id}
        try:
            header, buffers = self._report(entry, **where)
        except errors.CallFailed as error:
            not_started = entry.get("failure") or {}
            # What is fetched is fetched before the claim is taken.
            again = not_started.get("reason") == protocol.NOT_FETCHED
            return Outcome(error=error, again=again, claimed=not again)
        try:
            loaded = load_value(buffers) if buffers else None
        except BaseException as error:  # noqa: BLE001 - unpickling runs the user's code, which may raise anything
            return Outcome(error=self._unreadable(header, error, **where))
        if header["kind"] == "value":
            return Outcome(value=loaded)
        return Outcome(error=_raised(loaded, header, **where))

    def _report(
        self, entry: Mapping[str, Any], *, call_id: str, task_id: str
    ) -> tuple[Mapping[str, Any], list[memoryview]]:
        """Read a report that has a value or an exception, and verify all of it; a failure is raised."""
        where: Any = {"call_id": call_id, "task_id": task_id}
        try:
            failure = entry["failure"]
            if failure is None:
                header, segments = unpack(self._verified(entry["report"]))
                _check_owner(header, call_id)
                numbers = header.get("value") or header.get("exception") or []
                buffers = [self._bytes(segments[number]) for number in numbers]
                if header["kind"] != "failure":
                    return header, buffers
                failure = header["failure"]
            failed = _failure(failure, **where)
        except FormatError as error:
            raise errors.VersionMismatch(f"the result cannot be read: {error}", ran="yes", **where) from error
        except (EnvelopeError, OSError, KeyError, IndexError, TypeError) as error:
            message = f"the result does not match what the container vouched for: {error}"
            raise errors.Tampered(message, ran="yes", **where) from error
        raise failed

    def _verified(self, report: Mapping[str, Any]) -> memoryview:
        data = _map(self._folder / report["path"])
        if hashlib.sha256(data).hexdigest() != report["sha256"]:
            raise EnvelopeError("its digest differs")
        return data

    def _bytes(self, segment: Segment) -> memoryview:
        if segment.data is not None:
            return segment.data
        data = _map(self._folder / protocol.BLOBS_DIR / segment.sha256)
        if hashlib.sha256(data).hexdigest() != segment.sha256:
            raise EnvelopeError("a buffer's digest differs")
        return data

    def _unreadable(
        self, header: Mapping[str, Any], error: BaseException, *, call_id: str, task_id: str
    ) -> errors.CallFailed:
        if header["kind"] == "exception":
            return _remote_error(header, call_id=call_id, task_id=task_id)
        kept = self._keep_in / call_id
        try:
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copytree(self._folder / protocol.OWN_DIR, kept, dirs_exist_ok=True)
            where = f"it is kept in {kept / 'values' / call_id}"
        except OSError as problem:
            where = f"it could not be kept in {kept} ({problem.strerror}), but DOK has it for 72 hours"
        message = (
            f"the function's result arrived but cannot be unpickled here: {type(error).__name__}: {error}; {where}"
        )
        unreadable = errors.ResultUnreadable(message, ran="yes", call_id=call_id, task_id=task_id)
        unreadable.__cause__ = error
        return unreadable


def _check_owner(header: Mapping[str, Any], call_id: str) -> None:
    if header["call"] != call_id:
        raise EnvelopeError("it is another call's")


class RemoteTraceback(Exception):
    """The cause of an exception that a function raised in its container: the traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _raised(error: BaseException | None, header: Mapping[str, Any], *, call_id: str, task_id: str) -> BaseException:
    if not isinstance(error, BaseException):
        return _remote_error(header, call_id=call_id, task_id=task_id)
    try:
        error.__cause__ = RemoteTraceback(header["traceback"])
    except Exception:  # noqa: BLE001 - the user's own exception may refuse attributes
        return _remote_error(header, call_id=call_id, task_id=task_id)
    return error


def _remote_error(header: Mapping[str, Any], *, call_id: str, task_id: str) -> errors.RemoteError:
    message = f"the function raised {header['message']} (an exception that cannot be brought here as itself)"
    error = errors.RemoteError(
        message,
        call_id=call_id,
        task_id=task_id,
        type_name=header["type"],
        remote_traceback=header["traceback"],
    )
    error.__cause__ = RemoteTraceback(header["traceback"])
    return error


_BY_REASON: Mapping[str, type[errors.CallFailed]] = {
    protocol.UNREADABLE_PAYLOAD: errors.ShimFailed,
    protocol.NOT_FETCHED: errors.ShimFailed,
    protocol.TAMPERED: errors.Tampered,
    protocol.WRONG_VERSION: errors.VersionMismatch,
    protocol.TIMEOUT: errors.CallTimeout,
    protocol.NOT_SERIALIZABLE: errors.ResultNotSerializable,
    protocol.NOT_WRITTEN: errors.ResultNotWritten,
}


def _failure(failure: Mapping[str, Any], *, call_id: str, task_id: str) -> errors.CallFailed:
    message, ran, reason = failure["message"], failure["ran"], failure["reason"]
    error: errors.CallFailed
    if reason in (protocol.DIED, protocol.EXITED, protocol.OUT_OF_MEMORY):
        died = errors.OutOfMemory if reason == protocol.OUT_OF_MEMORY else errors.WorkerDied
        error = died(
            message,
            ran=ran,
            call_id=call_id,
            task_id=task_id,
            signal=failure.get("signal"),
            exit_code=failure.get("exit_code"),
        )
    else:
        kind = _BY_REASON.get(reason, errors.CallFailed)
        error = kind(message, ran=ran, call_id=call_id, task_id=task_id)
    if "traceback" in failure:
        error.__cause__ = RemoteTraceback(failure["traceback"])
    return error


def _find_artifact(client: Client, task: Task, sleep: Callable[[float], object]) -> Artifact | None:
    if task.artifact is not None:
        return task.artifact
    for pause_s in (0, *(PATIENCE_S if task.status == "done" else SHORT_PATIENCE_S)):
        sleep(pause_s)
        found = client.artifacts.list(task=task.id).results
        if found:
            return found[0]
    return None


def _map(path: Path) -> memoryview:
    """Map a file privately, so that arrays in it are writable and nothing is copied."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return memoryview(bytearray())
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
