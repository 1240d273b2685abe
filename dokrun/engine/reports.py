"""What a container has told of its calls: its manifest and reports are verified, and only then unpickled."""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dokrun import errors, keys
from dokrun.api.models import Task
from dokrun.engine.stage import Checkpoint
from dokrun.shim import protocol
from dokrun.shim.envelope import EnvelopeError, FormatError, Segment, load_value, unpack

# The line of a call in the manifest takes some three hundred bytes.
_LONGEST_MANIFEST_BYTES = 512 << 20


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

    @property
    def told(self) -> str:
        """In a word or two, for the journal."""
        if isinstance(self.error, errors.CallFailed):
            return f"{type(self.error).__name__}, ran={self.error.ran}"
        return "value" if self.error is None else "exception"


@dataclass(frozen=True)
class Expected:
    """Whose outcomes are looked for: those of `calls` calls of a job, from one of its attempts."""

    job_id: str
    attempt: int
    name: str
    calls: int


class NoOutcome(Exception):
    """The task has told nothing of its calls; its text says what was found in place of an outcome."""


def read_outcomes(expected: Expected, task: Task, folder: Path, keep_in: Path) -> list[Outcome]:
    """Read what became of each call, in the job's order, from the own files of an artifact; never raises for one call.

    What was verified but cannot be opened here is kept below `keep_in`, and named in the call's error.

    Raises:
        NoOutcome: there is no outcome of dokrun's, or one that says that another task has the claim.
    """
    try:
        manifest = json.loads(_manifest(folder))
        entries = {entry["id"]: entry for entry in manifest["calls"]}
        failed = manifest["failure"]
        reason = failed and failed["reason"]
        # A container that could not read the payload knows of no job, and of no call.
        nameless = failed is not None and "job" not in manifest and not entries
        ours = nameless or (manifest["job"], manifest["attempt"]) == (expected.job_id, expected.attempt)
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoOutcome("and its artifact holds no outcome of dokrun's") from error
    if reason == protocol.UNCLAIMED:
        raise NoOutcome(f"since {failed['message']}")
    ids = [keys.call_id(expected.job_id, number) for number in range(expected.calls)]
    if not ours:
        message = "the artifact holds the outcome of another job, or of another attempt; it was not opened"
        forged = errors.Tampered(message, ran="maybe", task_id=task.id)
        return [Outcome(error=forged) for _ in ids]
    reader = _Reader(folder, keep_in, task.id)
    checkpoint = _checkpoint(manifest.get("checkpoint"), expected.attempt)
    outcomes = [reader.outcome(call_id, entries.get(call_id, {"failure": failed or _NOTHING})) for call_id in ids]
    return [replace(outcome, checkpoint=checkpoint) for outcome in outcomes]


def _manifest(folder: Path) -> bytes:
    path = folder / protocol.MANIFEST
    if path.stat().st_size > _LONGEST_MANIFEST_BYTES:
        raise ValueError(f"a manifest of more than {_LONGEST_MANIFEST_BYTES} bytes")
    return path.read_bytes()


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
            lasting = not isinstance(error, errors.ResultNotFetched)
            return Outcome(error=error, again=again, claimed=not again, lasting=lasting)
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
                header, segments = unpack(self._verified(entry["report"], call_id))
                _check_owner(header, call_id)
                numbers = header.get("value") or header.get("exception") or []
                buffers = [self._bytes(segments[number]) for number in numbers]
                if header["kind"] != "failure":
                    return header, buffers
                failure = header["failure"]
            failed = _failure(failure, **where)
        except FormatError as error:
            message = f"the result cannot be read: {error}; {self._keep(call_id)}"
            raise errors.VersionMismatch(message, ran="yes", **where) from error
        except (EnvelopeError, FileNotFoundError, KeyError, IndexError, TypeError, RecursionError) as error:
            message = f"the result does not match what the container vouched for, and was not opened: {error}"
            # A report may also say that the function did not run.
            raise errors.Tampered(message, ran="maybe", **where) from error
        except (OSError, MemoryError) as error:
            message = f"the result is there, but cannot be read on this machine: {error}"
            raise errors.ResultNotFetched(message, ran="maybe", **where) from error
        raise failed

    def _verified(self, report: Mapping[str, Any], call_id: str) -> memoryview:
        data = _read(self._folder / protocol.VALUES_DIR / call_id)
        if hashlib.sha256(data).hexdigest() != report["sha256"]:
            raise EnvelopeError("its digest differs")
        return data

    def _bytes(self, segment: Segment) -> memoryview:
        if segment.data is not None:
            return segment.data
        data = _read(self._folder / protocol.BLOBS_DIR / segment.sha256)
        if hashlib.sha256(data).hexdigest() != segment.sha256:
            raise EnvelopeError("a buffer's digest differs")
        return data

    def _unreadable(
        self, header: Mapping[str, Any], error: BaseException, *, call_id: str, task_id: str
    ) -> errors.CallFailed:
        if header["kind"] == "exception":
            return _remote_error(header, call_id=call_id, task_id=task_id)
        message = (
            f"the function's result arrived but cannot be unpickled here: {described(error)}; {self._keep(call_id)}"
        )
        unreadable = errors.ResultUnreadable(message, ran="yes", call_id=call_id, task_id=task_id)
        unreadable.__cause__ = error
        return unreadable

    def _keep(self, call_id: str) -> str:
        """Keep what cannot be opened here, which was paid for. Tells where."""
        kept = self._keep_in / call_id
        try:
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copytree(self._folder / protocol.OWN_DIR, kept, dirs_exist_ok=True)
        except OSError as problem:
            return f"it could not be kept in {kept} ({problem.strerror or problem}), but DOK has it for 72 hours"
        return f"it is kept in {kept / 'values' / call_id}"


def described(error: BaseException) -> str:
    """Tell an exception's type and text, whatever it does when it is asked."""
    try:
        text = str(error.args[0]) if isinstance(error, errors.CallFailed) else str(error)
    except Exception:  # noqa: BLE001 - it is the user's own, and may do anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
    message, reason = failure["message"], failure["reason"]
    ran: errors.Ran = failure["ran"] if failure["ran"] in ("no", "yes") else "maybe"
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


def _read(path: Path) -> memoryview:
    """Read a file into memory that arrays may be made of and written to; no file stays open for it."""
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        # Anonymous memory costs nothing before it is written to, and begins at a page; a page for each small result
        # would cost more than it saves.
        held = mmap.mmap(-1, size) if size >= protocol.BLOB_SIZE else bytearray(size)
        data, filled = memoryview(held), 0
        while filled < size:
            count = file.readinto(data[filled:])
            if not count:
                raise EnvelopeError("it is cut short")
            filled += count
    return data
