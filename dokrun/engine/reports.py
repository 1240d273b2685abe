"""What a container has told of its calls: its manifest and reports are verified, and only then unpickled."""

from __future__ import annotations

import copy
import json
import mmap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dokrun import errors
from dokrun.api.models import Task
from dokrun.engine.stage import Checkpoint
from dokrun.shim import protocol
from dokrun.shim.digests import digest_of
from dokrun.shim.envelope import Buffer, EnvelopeError, FormatError, Segment, load_value, pieces, unpack_all

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
        unnamed: whether the manifest does not speak of the call.
        over: whether a session was over before it began the call.
    """

    value: Any = None
    error: BaseException | None = None
    again: bool = False
    claimed: bool = True
    checkpoint: Checkpoint | None = None
    lasting: bool = True
    unnamed: bool = False
    over: bool = False

    @property
    def told(self) -> str:
        """In a word or two, for the journal."""
        if isinstance(self.error, errors.CallFailed):
            return f"{type(self.error).__name__}, ran={self.error.ran}"
        return "value" if self.error is None else "exception"


@dataclass(frozen=True)
class Expected:
    """Whose outcomes are looked for: those of some calls of a job, by their numbers, from one of its attempts.

    Of calls that a session has taken, `session` is its job, and `base` the number that the first one has there.
    """

    job_id: str
    attempt: int
    name: str
    calls: Collection[int]
    session: str = ""
    base: int = 0


class NoOutcome(Exception):
    """The task has told nothing of its calls; its text says what was found in place of an outcome."""


Numbered = Iterator[tuple[int, Outcome]]


def read_outcomes(
    expected: Expected, task: Task, folder: Path, keep_in: Path, *, reader: type[Reader] | None = None
) -> Numbered:
    """Read what became of each call, from the own files of an artifact, in any order; never raises for one call.

    What was verified but cannot be opened here is kept below `keep_in`, and named in the call's error. The `reader` is
    what opens reports that are verified, in place of the usual one.

    Raises:
        NoOutcome: there is no outcome of dokrun's, or one that says that another task has the claim.
    """
    try:
        manifest = json.loads(_manifest(folder))
        told = _Told(
            files=[(str(file["path"]), str(file["sha256"])) for file in manifest["reports"]],
            failures=[
                (int(first) - expected.base, int(end) - expected.base, entry["failure"])
                for entry in manifest["calls"]
                for first, end in [entry["calls"]]
            ],
            failure=manifest["failure"],
            checkpoint=_checkpoint(manifest.get("checkpoint"), expected.attempt),
        )
        reason = told.failure and told.failure["reason"]
        # A container that could not read the payload knows of no job, and of no call.
        nameless = told.failure is not None and "job" not in manifest and not told.files and not told.failures
        ours = nameless or (manifest["job"], manifest["attempt"]) == (
            expected.session or expected.job_id,
            expected.attempt,
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise NoOutcome("and its artifact holds no outcome of dokrun's") from error
    if reason == protocol.UNCLAIMED and told.failure:
        raise NoOutcome(f"since {told.failure['message']}")
    if not ours:
        message = "the artifact holds the outcome of another job, or of another attempt; it was not opened"
        forged = errors.Tampered(message, ran="maybe", task_id=task.id)
        return ((number, Outcome(error=forged)) for number in expected.calls)
    return _read_all(told, (reader or Reader)(expected, keep_in, task), folder)


class _Told(NamedTuple):
    """What a manifest says: its files of reports with their digests, and what became of calls that have none."""

    files: list[tuple[str, str]]
    failures: list[tuple[int, int, Mapping[str, Any]]]
    failure: Mapping[str, Any] | None
    checkpoint: Checkpoint | None


def _read_all(told: _Told, reader: Reader, folder: Path) -> Numbered:
    left = set(reader.expected.calls)
    last = max(left, default=-1)
    trouble: errors.CallFailed | None = None

    def fresh(found: Numbered) -> Numbered:
        for number, outcome in found:
            if number in left:
                left.discard(number)
                yield number, replace(outcome, checkpoint=told.checkpoint)

    for path, sha256 in told.files:
        try:
            # Under no other name is anything unpacked from the archive.
            yield from fresh(reader.reports(folder / protocol.REPORTS_DIR / Path(path).name, sha256))
        except errors.CallFailed as error:
            # Of two, the one that another look may mend: any call that is left may be in that file.
            trouble = trouble if isinstance(trouble, errors.ResultNotFetched) else error
    for first, end, failure in told.failures:
        # Whatever it says, there are no more calls than are looked for.
        numbers = range(max(0, first), min(end, last + 1))
        yield from fresh((number, reader.failed(failure)) for number in numbers if number in left)
    for number in sorted(left):
        failed = _lost(trouble) if trouble else reader.failed(told.failure or _NOTHING)
        yield from fresh(iter([(number, replace(failed, unnamed=not (trouble or told.failure)))]))


def _lost(trouble: errors.CallFailed) -> Outcome:
    """Make the outcome of a call whose report is in a file that cannot be used."""
    return Outcome(error=copy.copy(trouble), lasting=not isinstance(trouble, errors.ResultNotFetched))


def _manifest(folder: Path) -> bytes:
    path = folder / protocol.MANIFEST
    if path.stat().st_size > _LONGEST_MANIFEST_BYTES:
        raise ValueError(f"a manifest of more than {_LONGEST_MANIFEST_BYTES} bytes")
    return path.read_bytes()


def _checkpoint(told: Any, attempt: int) -> Checkpoint | None:
    try:
        return Checkpoint(attempt, int(told["slot"]), str(told["sha256"]), int(told["size"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


_NOTHING = {"reason": "missing", "ran": "maybe", "message": "the container's manifest does not name this call"}


class Reader:
    """Reads the reports of one task: they are verified before anything in them is opened, and what is asked for is."""

    def __init__(self, expected: Expected, keep_in: Path, task: Task) -> None:
        self.expected = expected
        self._wanted = frozenset(expected.calls)
        self._keep_in = keep_in
        self._task = task

    def reports(self, path: Path, sha256: str) -> Numbered:
        """Yield the outcomes in a file of reports.

        Raises:
            Tampered: its bytes are not the ones that the container has vouched for.
            VersionMismatch: another version of dokrun wrote it.
            ResultUnreadable: they are, and are no reports.
            ResultNotFetched: this machine cannot read it now.
        """
        data = self._verified(path, sha256)
        try:
            for _, header, segments in unpack_all(data):
                number = int(header["call"]) - self.expected.base
                if number in self._wanted:
                    yield number, self.outcome(header, segments)
        except MemoryError as error:
            raise self._not_now(error) from error
        except (LookupError, ValueError, TypeError, OverflowError, RecursionError) as error:
            kind = errors.VersionMismatch if isinstance(error, FormatError) else errors.ResultUnreadable
            message = f"the results cannot be read: {error}; {self._keep(sha256, [data])}"
            # A report may also say that the function did not run.
            unreadable = kind(message, ran="maybe", task_id=self._task.id)
            unreadable.advice = errors.CallFailed.advice  # nothing is missing that could be mended here
            raise unreadable from error

    def _verified(self, path: Path, sha256: str) -> memoryview:
        try:
            data = _read(path)
            if digest_of(data) != sha256:
                raise EnvelopeError("its digest differs")
        except (ValueError, OverflowError, FileNotFoundError) as error:
            message = f"the result does not match what the container vouched for, and was not opened: {_why(error)}"
            raise errors.Tampered(message, ran="maybe", task_id=self._task.id) from error
        except (OSError, MemoryError) as error:
            raise self._not_now(error) from error
        return data

    def _not_now(self, error: BaseException) -> errors.ResultNotFetched:
        message = f"the result is there, but cannot be read on this machine: {_why(error)}"
        return errors.ResultNotFetched(message, ran="maybe", task_id=self._task.id)

    def failed(self, failure: Mapping[str, Any]) -> Outcome:
        """Make the outcome of a call of which the container says that there is no value."""
        reason, ran = failure["reason"], failure["ran"]
        error = _failure(failure, task_id=self._task.id)
        if reason == protocol.NOT_FETCHED:
            # What is missing before the claim is taken is told so; afterwards, as a call that was not begun.
            return Outcome(error=error, again=True, claimed=False)
        unbegun = ran == "no" and reason in (protocol.STOPPED, protocol.NOT_BEGUN)
        over = reason == protocol.OVER
        return Outcome(error=error, again=unbegun and self._task.status != "canceled", over=over)

    def outcome(self, header: Mapping[str, Any], segments: Sequence[Segment]) -> Outcome:
        """Make the outcome of a report that has been verified."""
        if header["kind"] == "failure":
            return self.failed(header["failure"])
        numbers = header.get("value") or header.get("exception") or []
        buffers = [data for number in numbers if (data := segments[number].data) is not None]
        if len(buffers) != len(numbers):
            raise EnvelopeError("a part of it is missing")
        return self.opened(header, segments, buffers)

    def opened(self, header: Mapping[str, Any], segments: Sequence[Segment], buffers: Sequence[Buffer]) -> Outcome:
        """Open what a function has returned or raised."""
        try:
            loaded = load_value(buffers) if buffers else None
        except BaseException as error:  # noqa: BLE001 - unpickling runs the user's code, which may raise anything
            return Outcome(error=self._unreadable(header, segments, error))
        if header["kind"] == "value":
            return Outcome(value=loaded)
        return Outcome(error=_raised(loaded, header, task_id=self._task.id))

    def _unreadable(
        self, header: Mapping[str, Any], segments: Sequence[Segment], error: BaseException
    ) -> errors.CallFailed:
        if header["kind"] == "exception":
            return _remote_error(header, task_id=self._task.id)
        call_id = protocol.call_id(self.expected.job_id, int(header["call"]) - self.expected.base)
        kept = self._keep(call_id, pieces(dict(header), segments))
        message = f"the function's result arrived but cannot be unpickled here: {described(error)}; {kept}"
        unreadable = errors.ResultUnreadable(message, ran="yes", task_id=self._task.id)
        unreadable.__cause__ = error
        return unreadable

    def _keep(self, name: str, parts: Iterable[Buffer]) -> str:
        """Keep what cannot be opened for another time, another machine or another version, and say where."""
        try:
            self._keep_in.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self._keep_in / name
            with path.open("wb") as file:
                file.writelines(parts)
        except OSError as error:
            return f"it cannot be kept on this machine ({error}), but DOK has it for 72 hours"
        return f"it is kept in {path}"


def described(error: BaseException) -> str:
    """Tell an exception's type and text, whatever it does when it is asked."""
    try:
        text = str(error.args[0]) if isinstance(error, errors.CallFailed) else str(error)
    except Exception:  # noqa: BLE001 - it is the user's own, and may do anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class RemoteTraceback(Exception):
    """The cause of an exception that a function raised in its container: the traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _raised(error: BaseException | None, header: Mapping[str, Any], *, task_id: str) -> BaseException:
    if not isinstance(error, BaseException):
        return _remote_error(header, task_id=task_id)
    try:
        error.__cause__ = RemoteTraceback(header["traceback"])
    except Exception:  # noqa: BLE001 - the user's own exception may refuse attributes
        return _remote_error(header, task_id=task_id)
    return error


def _remote_error(header: Mapping[str, Any], *, task_id: str) -> errors.RemoteError:
    message = f"the function raised {header['message']} (an exception that cannot be brought here as itself)"
    error = errors.RemoteError(
        message,
        task_id=task_id,
        type_name=header["type"],
        remote_traceback=header["traceback"],
    )
    error.__cause__ = RemoteTraceback(header["traceback"])
    return error


_BY_REASON: Mapping[str, type[errors.CallFailed]] = {
    protocol.UNREADABLE_PAYLOAD: errors.ShimFailed,
    protocol.NOT_FETCHED: errors.ShimFailed,
    protocol.NOT_BEGUN: errors.ShimFailed,
    protocol.TAMPERED: errors.Tampered,
    protocol.WRONG_VERSION: errors.VersionMismatch,
    protocol.TIMEOUT: errors.CallTimeout,
    protocol.TOO_DEAR: errors.TooExpensive,
    protocol.ACTOR_LOST: errors.ActorLost,
    protocol.OVER: errors.SessionLost,
    protocol.NOT_SERIALIZABLE: errors.ResultNotSerializable,
    protocol.NOT_WRITTEN: errors.ResultNotWritten,
}


def _failure(failure: Mapping[str, Any], *, task_id: str) -> errors.CallFailed:
    message, reason = failure["message"], failure["reason"]
    ran: errors.Ran = failure["ran"] if failure["ran"] in ("no", "yes") else "maybe"
    error: errors.CallFailed
    if reason in (protocol.DIED, protocol.EXITED, protocol.OUT_OF_MEMORY):
        died = errors.OutOfMemory if reason == protocol.OUT_OF_MEMORY else errors.WorkerDied
        error = died(
            message,
            ran=ran,
            task_id=task_id,
            signal=failure.get("signal"),
            exit_code=failure.get("exit_code"),
        )
    else:
        kind = _BY_REASON.get(reason, errors.CallFailed)
        error = kind(message, ran=ran, task_id=task_id)
    if "traceback" in failure:
        error.__cause__ = RemoteTraceback(failure["traceback"])
    return error


def _why(error: BaseException) -> str:
    # Not where the file was, which goes when it is read.
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def room(size: int) -> mmap.mmap:
    """Make room for a large result: it begins at a page, and costs nothing before it is written to."""
    return mmap.mmap(-1, size, access=mmap.ACCESS_COPY)


def _read(path: Path) -> memoryview:
    """Read a file into memory that arrays may be made of and written to; no file stays open for it."""
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        # A page for each small result would cost more than it saves.
        data, filled = memoryview(room(size) if size >= protocol.BLOB_SIZE else bytearray(size)), 0
        while filled < size:
            count = file.readinto(data[filled:])
            if not count:
                raise EnvelopeError("it is cut short")
            filled += count
    return data
