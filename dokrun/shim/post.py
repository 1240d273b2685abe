"""The reports of a session's calls: each is told to whoever has sent it, and stays until it is known to have come.

What was not taken by anybody when the session ends goes into the artifact, as every job's reports do.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import contextlib
import mmap
import os
import threading
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from . import output, protocol, seal
from .envelope import EnvelopeError, Span, unpack_all
from .job import Job, is_attempt
from .mail import OUTPUT, Event, Mail
from .reports import entry_of
from .serve import Stretch

# A report that is larger is not told at once, but fetched; and so is every one, while so much waits to be taken.
INLINE_BYTES = 256 << 10
HELD_BYTES = 64 << 20


class Place(NamedTuple):
    """Where a report lies: in which file, from where to where, and the digests of its pieces, as far as they are known.

    Each of them is used once: it is what the worker has written, and whoever asks again is told what lies there.
    """

    path: str
    start: int
    size: int
    digests: List[str]


class Hashed(NamedTuple):
    """Some bytes, and their SHA-256."""

    data: Union[bytes, Stretch]
    sha256: str


def hashed(data: bytes) -> Hashed:
    """Hash some bytes."""
    return Hashed(data, seal.digest(data))


class Post:
    """Takes the reports of lanes. For any thread.

    Args:
        out: the folder of the files, in the artifact.
        job_of: tells which job a call is one of.
        most_bytes: how much of the reports may be in memory.
    """

    def __init__(self, out: str, job_of: Callable[[int], Job], most_bytes: int = HELD_BYTES) -> None:
        self._out = out
        self._job_of = job_of
        self._most_bytes = most_bytes
        # How much of the reports is in memory.
        self._held = 0
        self._lock = threading.Lock()
        # Of the calls that nobody has taken the outcome of: what is told of it, to whom, and where their reports lie.
        self._told: Dict[int, Tuple[Event, List[Mail]]] = {}
        self._places: Dict[int, Place] = {}
        self._files: Dict[str, Set[int]] = {}
        # And whose they are, and where those begin.
        self._jobs: Dict[int, Tuple[str, int]] = {}

    def add(self, path: str, digests: Mapping[str, Sequence[str]], *, good: bool) -> None:  # noqa: ARG002 - see below
        """Take a file of reports that is whole. A session saves no checkpoints, so no matter whether all are good."""
        try:
            with open(path, "rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                self._add(path, data, digests)
        except (OSError, ValueError) as error:
            output.say(f"[dokrun] a report is lost: {error}")

    def _add(self, path: str, data: memoryview, digests: Mapping[str, Sequence[str]]) -> None:
        start, taken = 0, []
        try:
            for end, header, _ in unpack_all(data):
                number = int(header["call"])
                place = Place(path, start, end - start, list(digests.get(str(number), ())))
                what = {"kind": "report", "size": place.size}
                taken += self._take(number, what, _inline(place, data), place)
                start = end
        except EnvelopeError as error:
            output.say(f"[dokrun] a report is lost: {error}")
        finally:
            _tell(taken)
        if not taken:
            _remove(path)

    def failed(self, span: Span, failure: Dict[str, Any]) -> None:
        """Hear what became of calls that have no report."""
        for number in range(*span):
            _tell(self._take(number, {"kind": "failure", "failure": failure}))

    def _take(
        self, number: int, what: Dict[str, Any], data: bytes = b"", place: Optional[Place] = None
    ) -> List[Tuple[Job, Event]]:
        """Take what a call has come to. Gives what is to be told of it; nothing where that was known."""
        job = self._job_of(number)
        with self._lock:
            if number in job.told:
                return []
            job.told.add(number)
            inline = self._held + len(data) <= self._most_bytes and not all(mail.away for mail in job.mails)
            event = job.event({**what, "call": number}, data if inline else b"")
            self._held += len(event.data)
            self._told[number] = (event, list(job.mails))
            self._jobs[number] = (job.id, job.packs.base)
            if place is not None:
                self._places[number] = place
                self._files.setdefault(place.path, set()).add(number)
        return [(job, event)]

    def printed(self, call: bytes, text: bytes) -> None:
        """Hear what a call has printed."""
        try:
            number = int(call)
            job = self._job_of(number)
        except (ValueError, KeyError):
            return  # what a call has left behind prints when the call has long ended
        job.tell({"kind": OUTPUT, "call": number}, text)

    def reached(self, span: Span) -> None:
        """Hear that some calls have come to their end: of one that has told nothing, the report is gone."""
        message = "the function ended, and what it came to is gone: the report cannot be read, or was removed"
        self.failed(span, protocol.failure(protocol.NOT_WRITTEN, "yes", message))

    def come(self, events: List[Event], mail: Mail) -> None:
        """Forget what is known to have come to all who wanted to know it."""
        for event in events:
            if event.told["kind"] in ("report", "failure"):
                self._forget(event.told["call"], mail)

    def _forget(self, number: int, mail: Mail) -> None:
        with self._lock:
            if number not in self._told:
                return
            left = [one for one in self._told[number][1] if one is not mail]
            self._told[number] = (self._told[number][0], left)
            if left:
                return
            self._held -= len(self._told[number][0].data)
            del self._told[number], self._jobs[number]
            place = self._places.pop(number, None)
            if place is None:
                return
            others = self._files[place.path]
            others.discard(number)
            if others:
                return
            del self._files[place.path]
        _remove(place.path)

    def put_away(self, mail: Mail) -> None:
        """Hold nothing any more for somebody who is not heard: what that one was to be told stays in its files."""
        mail.put_away()
        with self._lock:
            for number, (event, mails) in self._told.items():
                if event.data and mail in mails and all(one.away for one in mails):
                    self._held -= len(event.data)
                    self._told[number] = (event._replace(data=b""), mails)

    def open(self, mail: Mail) -> None:
        """Tell somebody who is heard again all that was to be told to that one, but for what calls have printed."""
        mail.open()
        with self._lock:
            events = [event for event, mails in self._told.values() if mail in mails]
        mail.post(*events)

    def read(self, number: int, at: int, most: int) -> bytes:
        """Read a piece of a report that nobody has taken yet. Raises KeyError and OSError."""
        place = self.place(number)
        with open(place.path, "rb") as file:
            return os.pread(file.fileno(), max(0, min(most, place.size - at)), place.start + at)

    def piece(self, number: int, at: int) -> Hashed:
        """Tell the piece of a report that begins there. Raises as `read` does."""
        place = self.place(number)
        size, (index, rest) = min(protocol.PIECE_BYTES, place.size - at), divmod(at, protocol.PIECE_BYTES)
        known = ""
        if not rest and index < len(place.digests):
            with self._lock:
                known, place.digests[index] = place.digests[index], ""
        if known and size >= protocol.BLOB_SIZE:
            return Hashed(Stretch(place.path, place.start + at, size), known)
        return hashed(self.read(number, at, protocol.PIECE_BYTES))

    def place(self, number: int) -> Place:
        """Tell where a report lies that nobody has taken yet. Raises KeyError."""
        with self._lock:
            return self._places[number]

    def tell_too(self, job_id: str, mail: Mail) -> List[int]:
        """Tell somebody else too what became of a job's calls and nobody has taken. Tells which, from the first on.

        In all their attempts: of one, more may be told than once.
        """
        with self._lock:
            mine = [(number, base) for number, (job, base) in self._jobs.items() if is_attempt(job, job_id)]
            new = [self._told[number] for number, _ in mine if mail not in self._told[number][1]]
            for _, mails in new:
                mails.append(mail)
        mail.post(*(event for event, _ in new))
        return [number - base for number, base in mine]

    @property
    def all_taken(self) -> bool:
        """Whether every outcome has come to whoever wanted to know it."""
        with self._lock:
            return not self._told

    def manifest(self) -> Dict[str, Any]:
        """Tell what the manifest says of the outcomes that nobody has taken: where, why not, and whose they are."""
        with self._lock:
            entries = [entry for path in self._files for entry in entry_of(path)]
            failures = [
                {"calls": [number, number + 1], "failure": event.told["failure"]}
                for number, (event, _) in self._told.items()
                if event.told["kind"] == "failure"
            ]
            return {"reports": entries, "calls": failures, "jobs": dict(self._jobs.values())}


def _tell(taken: List[Tuple[Job, Event]]) -> None:
    """Tell each who wants to know of it what there is, all at once: whoever waits for it is told with the first."""
    told: Dict[Mail, List[Event]] = {}
    for job, event in taken:
        for mail in list(job.mails):
            told.setdefault(mail, []).append(event)
    for mail, events in told.items():
        mail.post(*events)


def _inline(place: Place, data: memoryview) -> bytes:
    """Tell the report that lies in a place, unless it is too large to be told at once."""
    return bytes(data[place.start : place.start + place.size]) if place.size <= INLINE_BYTES else b""


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):  # a function may have removed it
        os.unlink(path)
