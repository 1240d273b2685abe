"""What a session is asked over its http port, as far as it is about calls and servers; see `session`.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import json
import os
import threading
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from . import envelope, fetch, output, protocol, seal
from .blobs import Blobs
from .digests import Digest
from .envelope import pack, unnamed, unpack_all
from .job import Job
from .lane import Lane
from .layout import lay_out
from .opened import Opened
from .orders import Orders
from .post import Place, Post
from .receive import PayloadRefused, check_versions
from .serve import Piece, Refused
from .speakers import Speaker
from .streams import Streams

EVENTS_BYTES = 4 << 20
# How long a question waits for something to tell: the service's proxy cuts what takes longer.
LONGEST_WAIT_S = 25.0

# What brings a piece of something large.
PUT = "put"

# A status, and what is answered: bytes, which may be `Hashed` already, or something for JSON.
Told = Tuple[int, Any]


class Requests:
    """Does what speakers ask.

    Args:
        folder: where payloads and what calls are given lie.
        opened: the open list of calls.
        blobs: what they are given.
        post: what they have come to.
        state: tells of the session how it is.

    Attributes:
        lanes: where the calls run.
        streams: the connections to servers in the container.
        orders: the payloads that have come.
    """

    def __init__(
        self, folder: str, opened: Opened, blobs: Blobs, post: Post, state: Callable[[], Dict[str, Any]]
    ) -> None:
        self._folder = folder
        self._opened = opened
        self._blobs = blobs
        self._post = post
        self._state = state
        self.lanes: List[Lane] = []
        self.streams = Streams()
        self._taking = threading.Lock()
        self._laid_out: List[str] = []
        self.orders = Orders(folder)
        self._sent: Dict[int, Dict[str, str]] = {}

    def known(self) -> Dict[str, Callable[..., Told]]:
        """Tell what can be asked, by the first word of the path."""
        return {
            "ask": self._ask,
            "calls": self._calls,
            "cancel": self._cancel,
            "find": self._find,
            "get": self._get,
            "need": self._need,
            "open": self._connect,
            PUT: self._put,
            "read": self._read,
            "send": self._send,
            "shut": self._shut,
            "write": self._write,
        }

    # What calls are given.

    def _need(self, _speaker: Speaker, body: Piece, job: str) -> Told:
        self._opened.touch()
        wanted = json.loads(bytes(body))
        for sha256 in wanted:
            _check_digest(sha256)
        return 200, {"missing": self._blobs.need(job, wanted)}

    def _put(self, _speaker: Speaker, body: Piece, sha256: str, at: str, digest: str) -> Told:
        self._opened.touch()
        return 200, {"at": self._blobs.put(sha256, int(at), body, digest)}

    # Calls.

    def _calls(self, speaker: Speaker, body: Piece, order: str, sha256: str = "") -> Told:
        # One at a time: their files are laid out in the same folder.
        with self._taking:
            known = speaker.answers.get(int(order))
            if known is not None:
                return 202, known
            if sha256:
                _check_digest(sha256)
                if self._blobs.trouble([sha256]):
                    raise OSError(self._blobs.trouble([sha256]))
                if not self._blobs.have([sha256]):
                    return 200, {}  # it comes from the bucket
            if not speaker.orders.take(int(order)):
                raise Refused(409)
            if sha256:
                with open(os.path.join(self._folder, "blobs", sha256), "rb") as file:
                    body = file.read()
            taken, start, view = [], 0, memoryview(body)
            with self.orders.keep(body) as kept, self._opened.together():
                for end, header, segments in unpack_all(view):
                    taken.append(self._take(speaker, partial(kept.part, start, end), header, segments))
                    start = end
            answered = speaker.answers[int(order)] = json.dumps({"taken": taken}).encode()
            if len(speaker.answers) > seal.WINDOW:
                del speaker.answers[next(iter(speaker.answers))]
            return 202, answered

    def _take(
        self, speaker: Speaker, keep: Callable[[], str], header: Dict[str, Any], segments: List[envelope.Segment]
    ) -> Dict[str, Any]:
        """Take one payload. Tells the number of its first call, or why it is refused."""
        try:
            check_versions(header)
            job = self._add(speaker, keep, header, segments)
        except PayloadRefused as error:
            return {"refused": {"reason": error.reason, "message": str(error)}}
        except OSError as error:
            return {"refused": {"reason": protocol.NOT_BEGUN, "message": f"the container cannot keep it: {error}"}}
        if job is None:
            return {"refused": {"reason": protocol.OVER, "message": "the session is over"}}
        return {"base": job.packs.base}

    def _add(
        self, speaker: Speaker, keep: Callable[[], str], header: Dict[str, Any], segments: List[envelope.Segment]
    ) -> Optional[Job]:
        name, needed = keep(), [segment.sha256 for segment in segments if segment.data is None]
        try:
            for number in header["given"]:
                segment = segments[number]
                if segment.data is not None:
                    self._blobs.add(header.get("ticket", header["job"]), segment.sha256, segment.data)
            job = self._opened.add(header, name, needed, speaker.mail, lambda: self._lay_out(header, segments))
        except BaseException:
            self.orders.let_go(name)
            raise
        if job is None:
            self.orders.let_go(name)
        return job

    def _lay_out(self, header: Dict[str, Any], segments: List[envelope.Segment]) -> None:
        """Write a job's source files to where those of the others are. Raises OSError and ValueError."""
        source = header.get("source", [])
        told = json.dumps([source, [segments[it["bundle" if "bundle" in it else "segment"]].sha256 for it in source]])
        if not source or told in self._laid_out[-1:]:
            return
        changed = lay_out(source, segments, self._folder)
        self._laid_out = [told]
        if changed:
            output.say(f"[dokrun] new workers: {', '.join(sorted(changed))} changed")
            for lane in self.lanes:
                lane.renew()

    def _cancel(self, _speaker: Speaker, body: Piece, job_id: str) -> Told:
        wanted = json.loads(bytes(body))["calls"]
        for job in self._opened.attempts(job_id):
            numbers = [job.packs.base + int(number) for number in wanted]
            self.end_calls(self._opened.cancel(job, numbers))
        return 200, {}

    def end_calls(self, numbers: Iterable[int]) -> None:
        """End calls, where a worker is at them."""
        for number in numbers:
            for lane in self.lanes:
                lane.end_call(number)

    def _find(self, speaker: Speaker, _body: Piece, job_id: str) -> Told:
        jobs = self._opened.attempts(job_id)
        for job in jobs:
            if speaker.mail not in job.mails:
                job.mails.append(speaker.mail)
        found = set(self._post.tell_too(job_id, speaker.mail))
        return 200, {"calls": sorted(found.union(*(job.numbers_left for job in jobs)))}

    # What they have come to.

    def _ask(self, speaker: Speaker, body: Piece) -> Told:
        told = json.loads(bytes(body))
        after = int(told["after"])
        if speaker.mail.away:
            self._post.open(speaker.mail)
        also = map(int, told.get("also", ()))  # which older clients do not tell
        self._post.come(speaker.mail.forget(int(told["taken"]), also), speaker.mail)
        wait_s = 0.0 if self._opened.over else min(LONGEST_WAIT_S, float(told["wait_s"]))
        events = speaker.mail.after(after, wait_s, EVENTS_BYTES)
        header = {"events": [{**event.told, "number": number} for number, event in events], "state": self._state()}
        return 200, pack(header, [unnamed(event.data) for _, event in events])

    def _get(self, _speaker: Speaker, _body: Piece, call: str, at: str) -> Told:
        self._opened.touch()
        return 200, self._post.piece(int(call), int(at))

    def _send(self, _speaker: Speaker, body: Piece, call: str) -> Told:
        self._opened.touch()
        number = int(call)
        if number not in self._sent:
            self._sent[number] = {}
            address, place = json.loads(bytes(body))["address"], self._post.place(number)
            threading.Thread(target=self._send_report, args=(number, address, place), daemon=True).start()
        # Sending may take longer than a request may: it is asked again.
        return 200, self._sent[number]

    def _send_report(self, number: int, address: str, place: Place) -> None:
        path, digest = os.path.join(self._folder, f"report-{number}"), Digest()
        try:
            with open(path, "wb") as file:
                for at in range(0, place.size, fetch.CHUNK):
                    piece = self._post.read(number, at, fetch.CHUNK)
                    digest.update(piece)
                    file.write(piece)
            fetch.send_file(address, path, place.size, "application/octet-stream")
            self._sent[number] = {"sha256": digest.hexdigest()}
        except (OSError, KeyError) as error:
            self._sent[number] = {"failed": str(error)}
        finally:
            remove(path)

    # Servers in the container.

    def _connect(self, _speaker: Speaker, _body: Piece, stream: str, port: str) -> Told:
        self.streams.open(stream, int(port))
        return 200, {}

    def _write(self, _speaker: Speaker, body: Piece, stream: str, at: str) -> Told:
        return 200, {"at": self.streams.get(stream).write(int(at), body)}

    def _read(self, _speaker: Speaker, body: Piece, stream: str, at: str) -> Told:
        wait_s = min(LONGEST_WAIT_S, float(json.loads(bytes(body))["wait_s"]))
        try:
            return 200, b"\0" + self.streams.get(stream).read(int(at), wait_s)
        except EOFError:
            return 200, b"\1"

    def _shut(self, _speaker: Speaker, _body: Piece, stream: str) -> Told:
        self.streams.close(stream)
        return 200, {}


def _check_digest(text: str) -> None:
    """Refuse what is no digest: it becomes the name of a file."""
    if len(text) != envelope.DIGEST_DIGITS or not envelope.HEXADECIMAL.issuperset(text):
        raise Refused(400)


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(path)
    except OSError:
        pass
