"""What a task has left, fetched once: the user's files, and what its manifest vouches for, which is not unpickled here.

A value comes out as a plain pickle: its buffers, which travel beside it, are put where the pickle refers to them. So
what a function has returned can be kept on a machine that has none of its libraries.
"""

from __future__ import annotations

import json
import mmap
import pickletools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dokrun import errors
from dokrun.api import Client
from dokrun.api.models import Artifact, Task
from dokrun.artifact import ArtifactFile
from dokrun.engine.archive import ArchiveError, extract_files, extract_own
from dokrun.engine.definition import attempt_of, calls_of, chosen_of
from dokrun.engine.members import Content
from dokrun.engine.reports import Expected, Outcome, Reader, read_outcomes
from dokrun.shim import protocol
from dokrun.shim.envelope import Buffer, Segment, unpack_all

_FRAME, _NEXT_BUFFER, _BYTES = "FRAME", "NEXT_BUFFER", b"\x96"
_FRAME_BYTES = 9
_MOST_CALLS = 1_000_000
# What reading JSON that anybody may have written can raise.
_BROKEN = (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError)
# Where rescue keeps, in a task's folder, files of reports that are verified and cannot be read.
RAW = "raw"


@dataclass(frozen=True)
class Kept:
    """What became of a call: its `kind` is value, exception, failure or unreadable; the first two have a pickle.

    What cannot be verified, or was written by another version, is unreadable; `lasting` tells whether it stays so.

    `message` is the exception's text, or the failure's; `ran` tells whether the function did.
    """

    kind: str
    pickle: Sequence[Buffer] = ()
    message: str = ""
    traceback: str = ""
    ran: str = "yes"
    lasting: bool = True


@dataclass(frozen=True)
class Remains:
    """A task's artifact, which lies here for a while; for `artifact.download` too."""

    archive: Path
    own: Path
    content: Content

    @property
    def files(self) -> Sequence[ArtifactFile]:
        """The user's files."""
        return self.content.files

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Write some of the user's files into a folder, which is new. Raises InvalidAnswer and OSError."""
        try:
            with self.archive.open("rb") as archive:
                extract_files(archive, self.content, folder, set(names))
        except ArchiveError as error:
            raise _broken(error) from error

    def calls(self, task: Task, job_id: str, name: str, folder: Path | None = None) -> Iterator[tuple[int, Kept]]:
        """Yield what became of the job's calls that the manifest speaks of, verified, by their numbers.

        A session is number 0: that is where it says what befell the whole of it, or a file whose calls it cannot tell.
        Files of reports that are verified and cannot be read are kept in the folder, if there is one.

        Raises:
            NoOutcome: there is no outcome of dokrun's.
            OSError: such a file cannot be kept.
        """
        expected = Expected(job_id, attempt_of(task), name, _numbers(self.own) | _sent(task))
        for number, outcome in read_outcomes(expected, task, self.own, (folder or self.own) / RAW, reader=_Keeper):
            if not outcome.unnamed:
                yield number, _kept(outcome)


@contextmanager
def fetched(client: Client, artifact: Artifact) -> Iterator[Remains]:
    """Fetch a task's artifact; leaving the block removes it.

    Raises:
        ApiError: the service refused, or did not answer; or what came is no archive.
        DiskError: this machine could not write it.
    """
    with tempfile.TemporaryDirectory(prefix="dokrun-") as aside:
        own = Path(aside, "own")
        try:
            own.mkdir()
            archive = client.artifacts.download(artifact.id, Path(aside, "artifact.tar.gz"))
            with archive.open("rb") as file:
                content = extract_own(file, own)
        except ArchiveError as error:
            raise _broken(error) from error
        except OSError as error:
            raise errors.DiskError(
                f"the artifact cannot be written below {tempfile.gettempdir()} ({error.strerror}); make room there, or "
                "set TMPDIR",
                folder=tempfile.gettempdir(),
            ) from error
        yield Remains(archive, own, content)


def kept_in(client: Client, task: Task) -> Artifact | None:
    """Tell a task's artifact as long as it can be fetched; None where there is none, or its time is over."""
    artifact = task.artifact or next(iter(client.artifacts.list(task=task.id).results), None)
    return None if artifact is None or artifact.deleted_at is not None else artifact


def in_band(buffers: Sequence[Buffer]) -> Iterator[bytes | memoryview]:
    """Yield the parts of one plain pickle of a value: its pickle, with its buffers where it refers to them.

    Raises:
        ValueError: it is no pickle, or refers to a buffer that is not there.
    """
    pickled, rest = memoryview(buffers[0]).cast("B"), iter(buffers[1:])
    start = 0
    if len(buffers) == 1:
        yield pickled
        return
    for opcode, _, at in pickletools.genops(bytes(pickled)):
        if opcode.name not in (_FRAME, _NEXT_BUFFER) or at is None:
            continue
        yield pickled[start:at]
        # A frame's size would be another; without it the pickle is read all the same.
        start = at + (_FRAME_BYTES if opcode.name == _FRAME else 1)
        if opcode.name == _NEXT_BUFFER:
            buffer = next(rest, None)
            if buffer is None:
                raise ValueError("a part of it is missing")
            view = memoryview(buffer).cast("B")
            yield _BYTES + view.nbytes.to_bytes(8, "little")
            yield view
    yield pickled[start:]


class _Keeper(Reader):
    """Reads reports without unpickling anything: what it makes of one is a `Kept` in place of the value."""

    def failed(self, failure: Mapping[str, Any]) -> Outcome:
        outcome = super().failed(failure)
        return replace(outcome, value=_without_value("failure", outcome), error=None)

    def opened(self, header: Mapping[str, Any], segments: Sequence[Segment], buffers: Sequence[Buffer]) -> Outcome:
        del segments
        message, traceback = (str(header.get(key, "")) for key in ("message", "traceback"))
        return Outcome(value=Kept(str(header["kind"]), buffers, message, traceback))

    def _keep(self, name: str, parts: Iterable[Buffer]) -> str:
        self._keep_in.mkdir(exist_ok=True)
        with (self._keep_in / name).open("wb") as file:
            file.writelines(parts)
        # Where the folder lies now is no matter: it goes, or gets another name.
        return f"dokrun rescue keeps it as {RAW}/{name}"


def _sent(task: Task) -> set[int]:
    """Tell which calls a task was sent with; a session is number 0 of its own."""
    count = calls_of(task)
    return chosen_of(task, min(count, _MOST_CALLS)) if count else {0}


def _numbers(own: Path) -> set[int]:
    """Tell which calls a task's own files speak of; whether that is true is seen when they are read."""
    numbers: set[int] = set()
    try:
        for first, end in (entry["calls"] for entry in json.loads((own / protocol.MANIFEST).read_bytes())["calls"]):
            numbers.update(range(int(first), min(int(end), int(first) + _MOST_CALLS)))
    except _BROKEN:
        return numbers  # which is told when it is read
    for path in (own / protocol.REPORTS_DIR).glob("*"):
        try:
            with path.open("rb") as file:
                # It goes with its last view: what is broken may have left some, and then it could not be closed.
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            numbers.update(int(header["call"]) for _, header, _ in unpack_all(data))
        except _BROKEN:
            continue
    return numbers


def _kept(outcome: Outcome) -> Kept:
    if isinstance(outcome.value, Kept):
        return outcome.value
    return _without_value("unreadable", outcome)


def _without_value(kind: str, outcome: Outcome) -> Kept:
    error = outcome.error
    ran = error.ran if isinstance(error, errors.CallFailed) else "maybe"
    message = str(error.args[0]) if error is not None and error.args else ""
    return Kept(kind, message=message, ran=ran, lasting=outcome.lasting)


def _broken(error: ArchiveError) -> errors.InvalidAnswer:
    return errors.InvalidAnswer(f"the artifact cannot be read: {error}")
