"""A session: a container whose list of calls stays open, and which takes them over its http port.

Every request is a POST, and every body and answer is vouched for; see `seal`. Times are in seconds, sizes in bytes.

    /hello                      the token, and a nonce → {"speaker", "nonce"}
    /need/JOB                   {sha256: [size, address or null]} → {"missing": […]}: what a job's calls are given, and
                                which of it is to be put
    /put/SHA256/AT              the next piece of it → {"at"}: how much is here
    /calls/ORDER                payloads, one after another → {"taken"}: of each {"base"}, the number of its first call,
                                or {"refused": {"reason", "message"}}
    /calls/ORDER/SHA256         the same, of what was put since it is large; {} while that is not there yet
    /ask                        {"after", "taken", "wait_s"} → an envelope with the events after that one, and the
                                session's state; those up to `taken` are forgotten
    /get/CALL/AT                → a piece of a report that was too large to be told at once
    /send/CALL                  {"address"} → {}, {"sha256"} or {"failed"}: how far it is with sending the same to the
                                bucket
    /cancel/JOB                 {"calls"}: those, counted from the job's first one
    /find/JOB                   → {"calls"}: what becomes of a job is told here too from now on, and what was told and
                                nobody has taken; those are the calls, counted from the job's first one
    /close                      {"now"}: end when all is done, or at once
    /open/STREAM/PORT           connect to a server in the container
    /write/STREAM/AT            say something to it, nothing for an end → {"at"}: how much was said
    /read/STREAM/AT             {"wait_s"} → what it says from there on, behind a byte 0; a byte 1 at its end
    /shut/STREAM                end that

What was answered with 202 has been taken, and is not done twice when it is sent again: ORDER counts what a speaker has
sent, from 1 on. A container ends by itself: when there has been nothing to do for so long as the payload
says, and when nobody has been heard for so long and there is nothing to do.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import hashlib
import json
import os
import pickle
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from . import envelope, fetch, output, protocol, seal, stopping
from .blobs import Blobs
from .drain import Drain, Places, lanes_for
from .envelope import pack, segment_of, unpack_all
from .lane import Lane
from .layout import lay_out
from .mail import Mail
from .opened import Job, Opened
from .post import Place, Post
from .process import Worker
from .receive import PayloadRefused, check_versions
from .reports import entry_of
from .serve import Answer, Head, Piece, Refused, Server
from .stopping import Stopped
from .streams import Streams

# What one request or answer holds at most, beside what it says of itself.
LARGEST_BODY = protocol.PIECE_BYTES + (1 << 20)
EVENTS_BYTES = 4 << 20
# How long a question waits for something to tell: the service's proxy cuts what takes longer.
LONGEST_WAIT_S = 25.0
# How long a session that was closed waits until its last outcomes are known to have come.
LAST_ASKED_S = 10.0
# How often it is looked whether a session shall end.
LOOK_S = 0.25
# How much of the time that is paid for is not used to linger.
BILLED_MARGIN_S = 2.0


class Speaker:
    """Somebody who has shown the token."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.counts = seal.Counts()
        self.mail = Mail()
        # What was answered when it sent calls, as long as it may ask again: it sends a few at the same time.
        self.answers: Dict[int, bytes] = {}
        self.orders = seal.Counts()


class Asked:
    """A request that is known to come from a speaker; of the first one, what is said in its head."""

    def __init__(self, head: Head, name: str, speaker: Optional[Speaker], count: int) -> None:
        self.digest = head.fields.get(seal.DIGEST.lower(), "")
        self.name = name
        self.speaker = speaker
        self.count = count


class Session:
    """Takes calls over the http port, until it is over.

    Args:
        places: the payload's header, and where the container works.
        token_sha256: of the token that its client shows.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, places: Places, token_sha256: str) -> None:
        self._places = places
        self._told: Dict[str, Any] = places.header["session"]
        self._token_sha256 = token_sha256
        self._blobs = Blobs(os.path.join(places.folder, "blobs"))
        self._opened = Opened(places.lanes, self._blobs)
        self._post = Post(places.out, self._opened.job_of)
        self._opened.listen(self._post.failed, self._over)
        self._lanes: List[Lane] = []
        self._speakers: Dict[str, Speaker] = {}
        self._lock = threading.Lock()
        self._taking = threading.Lock()
        self._laid_out: List[str] = []
        self._payloads = 0
        self._streams = Streams()
        self._sent: Dict[int, Dict[str, str]] = {}
        self._heard = time.monotonic()
        self._closing: Optional[float] = None
        self._ended = threading.Event()
        self._server = Server(self._told["host"], self._told["port"], self)

    # Its life.

    def run(self, worker: Worker) -> Tuple[Drain, Optional[Stopped]]:
        """Take calls and have them run until it is over. Tells why the container was told to end, if it was."""
        self._lanes = lanes_for(worker, self._opened, self._post.printed, self._places)
        drain = Drain(self._lanes, self._opened, self._post)
        self._server.start()
        threading.Thread(target=self._watch, daemon=True).start()
        stopped = drain.run()
        self._ended.set()
        for speaker in list(self._speakers.values()):
            speaker.mail.wake()
        return drain, stopped

    @property
    def calls(self) -> int:
        """How many calls have come."""
        return self._opened.came_so_far

    def finish(self, manifest: Dict[str, Any], stopped: Optional[Stopped]) -> None:
        """Say in the manifest what nobody has taken, and that the session has ended."""
        left = self._post.manifest()
        manifest["jobs"] = left["jobs"]
        manifest["reports"] += left["reports"]
        manifest["calls"] += left["calls"]
        if stopped is not None:
            failure = protocol.failure(stopped.reason, "yes", str(stopped))
            manifest["calls"].append({"calls": [0, 1], "failure": failure})
            return
        path = os.path.join(self._places.out, "session")
        with open(path, "wb") as file:
            header = {"kind": "value", "value": [0], "call": 0, "seconds": 0.0}
            file.write(pack(header, [segment_of(pickle.dumps(None))]))
        manifest["reports"] += entry_of(path)

    def _watch(self) -> None:
        while not self._opened.close_if(self._is_over):
            self._ended.wait(LOOK_S)
            self._end_calls(self._opened.unwanted)  # which no worker may have been at when they were cancelled
            if stopping.age_s() > self._told["limit_s"]:
                self._end(
                    protocol.STOPPED, f"the session has lasted as long as its timeout of {self._told['limit_s']:g} s"
                )

    def _end(self, reason: str, message: str) -> None:
        """Take and give out nothing more, and end what runs."""
        self._opened.close()
        for lane in self._lanes:
            lane.stop(reason, message)

    def _is_over(self) -> bool:
        since, now = self._opened.idle_since(), time.monotonic()
        if since is None:
            return False
        if self._closing is not None:
            return self._post.all_taken or now - max(since, self._closing) > LAST_ASKED_S
        lease_s = self._told["lease_s"]
        if lease_s is not None and now - self._heard > lease_s and now - since > lease_s:
            return True
        return self._idle_left_s(since) <= 0

    def _idle_left_s(self, since: float) -> float:
        """Tell how long it goes on if nothing comes: until it was idle so long, and what is billed anyway is over."""
        idle_left_s = max(since, self._streams.moved) + float(self._told["idle_s"]) - time.monotonic()
        return max(idle_left_s, float(self._told["billed_s"]) - BILLED_MARGIN_S - stopping.age_s())

    def _state(self) -> Dict[str, Any]:
        since = self._opened.idle_since()
        return {
            "age_s": round(stopping.age_s(), 3),
            "idle_left_s": None if since is None else round(self._idle_left_s(since), 3),
        }

    def _over(self, job: Job) -> None:
        _remove(os.path.join(self._places.folder, job.packs.name))

    # Requests.

    def admit(self, head: Head) -> Asked:
        """Tell who asks, before the body is read. Raises Refused."""
        if "origin" in head.fields:
            raise Refused(403)  # a page that somebody looks at has no business here
        if head.method != "POST":
            raise Refused(405)
        if head.size > LARGEST_BODY:
            raise Refused(413)
        if head.path == "/hello":
            shown = head.fields.get(seal.TOKEN.lower(), "")
            if not seal.is_token(shown[len(seal.BEARER) :], self._token_sha256):
                raise Refused(401)
            return Asked(head, shown[len(seal.BEARER) :], None, 0)
        return self._known(head)

    def _known(self, head: Head) -> Asked:
        name = head.fields.get(seal.SPEAKER.lower(), "")
        speaker = self._speakers.get(name)
        told = head.fields.get(seal.COUNT.lower(), "")
        if speaker is None or not told.isdecimal() or len(told) > protocol.LONGEST_NUMBER:
            raise Refused(401)
        asked = Asked(head, name, speaker, int(told))
        wanted = seal.of_request(speaker.key, head.path, asked.count, asked.digest, head.size)
        if not seal.alike(wanted, head.fields.get(seal.MAC.lower(), "")):
            raise Refused(401)
        with self._lock:
            if not speaker.counts.take(asked.count):
                raise Refused(409)  # it was said before
            self._heard = time.monotonic()
        return asked

    def answer(self, head: Head, who: Asked, body: Piece) -> Answer:
        """Do what is asked. Raises Refused."""
        if who.speaker is None:
            return self._hello(head, who.name)
        if hashlib.sha256(body).hexdigest() != who.digest:
            raise Refused(400)
        what, *rest = head.path[1:].split("/")
        try:
            status, told = self._does(what)(who.speaker, body, *rest)
        except Refused as refused:
            status, told = refused.status, refused.told
        except OSError as error:  # the disk is full, say
            status, told = 507, {"message": str(error)}
        except Exception as error:  # noqa: BLE001 - whoever asks shall hear of it
            status, told = 400, {"message": f"{type(error).__name__}: {error}"}
        answered = told if isinstance(told, bytes) else json.dumps(told).encode()
        mac = seal.of_answer(who.speaker.key, who.count, status, seal.digest(answered), len(answered))
        return Answer(status, [answered], ((seal.MAC, mac),))

    def _does(self, what: str) -> Callable[..., Tuple[int, Any]]:
        known: Dict[str, Callable[..., Tuple[int, Any]]] = {
            "ask": self._ask,
            "calls": self._calls,
            "cancel": self._cancel,
            "close": self._close,
            "find": self._find,
            "get": self._get,
            "need": self._need,
            "open": self._connect,
            "put": self._put,
            "read": self._read,
            "send": self._send,
            "shut": self._shut,
            "write": self._write,
        }
        if what not in known:
            raise Refused(404)
        return known[what]

    def _hello(self, head: Head, token: str) -> Answer:
        theirs, ours, name = head.fields.get(seal.NONCE.lower(), ""), os.urandom(16).hex(), os.urandom(16).hex()
        speaker = Speaker(seal.key_of(token, name, theirs, ours))
        with self._lock:
            self._speakers[name] = speaker
            self._heard = time.monotonic()
        body = json.dumps({"speaker": name, "nonce": ours}).encode()
        mac = seal.of_answer(speaker.key, 0, 200, seal.digest(body), len(body))
        return Answer(200, [body], ((seal.MAC, mac),))

    def _need(self, _speaker: Speaker, body: Piece, job: str) -> Tuple[int, Any]:
        self._opened.touch()
        wanted = json.loads(bytes(body))
        for sha256 in wanted:
            _check_digest(sha256)
        return 200, {"missing": self._blobs.need(job, wanted)}

    def _put(self, _speaker: Speaker, body: Piece, sha256: str, at: str) -> Tuple[int, Any]:
        self._opened.touch()
        return 200, {"at": self._blobs.put(sha256, int(at), body)}

    def _calls(self, speaker: Speaker, body: Piece, order: str, sha256: str = "") -> Tuple[int, Any]:
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
                with open(os.path.join(self._places.folder, "blobs", sha256), "rb") as file:
                    body = file.read()
            taken, start, view = [], 0, memoryview(body)
            for end, header, segments in unpack_all(view):
                taken.append(self._take(speaker, view[start:end], header, segments))
                start = end
            answered = speaker.answers[int(order)] = json.dumps({"taken": taken}).encode()
            if len(speaker.answers) > seal.WINDOW:
                del speaker.answers[next(iter(speaker.answers))]
            return 202, answered

    def _take(
        self, speaker: Speaker, payload: Piece, header: Dict[str, Any], segments: List[envelope.Segment]
    ) -> Dict[str, Any]:
        """Take one payload. Tells the number of its first call, or why it is refused."""
        try:
            check_versions(header)
            job = self._add(speaker, payload, header, segments)
        except PayloadRefused as error:
            return {"refused": {"reason": error.reason, "message": str(error)}}
        except OSError as error:
            return {"refused": {"reason": protocol.NOT_BEGUN, "message": f"the container cannot keep it: {error}"}}
        if job is None:
            return {"refused": {"reason": protocol.OVER, "message": "the session is over"}}
        return {"base": job.packs.base}

    def _add(
        self, speaker: Speaker, payload: Piece, header: Dict[str, Any], segments: List[envelope.Segment]
    ) -> Optional[Job]:
        self._payloads += 1
        name = f"{protocol.PAYLOAD}-{self._payloads}"
        path = os.path.join(self._places.folder, name)
        try:
            with open(path, "wb") as file:
                file.write(payload)
            for number in header["given"]:
                segment = segments[number]
                if segment.data is not None:
                    self._blobs.add(header.get("ticket", header["job"]), segment.sha256, segment.data)
        except OSError:
            _remove(path)  # others want the room
            raise
        needed = [segment.sha256 for segment in segments if segment.data is None]
        return self._opened.add(header, name, needed, speaker.mail, lambda: self._lay_out(header, segments))

    def _lay_out(self, header: Dict[str, Any], segments: List[envelope.Segment]) -> None:
        """Write a job's source files to where those of the others are. Raises OSError and ValueError."""
        source = header.get("source", [])
        told = json.dumps([source, [segments[it["bundle" if "bundle" in it else "segment"]].sha256 for it in source]])
        if not source or told in self._laid_out[-1:]:
            return
        changed = lay_out(source, segments, self._places.folder)
        self._laid_out = [told]
        if changed:
            output.say(f"[dokrun] new workers: {', '.join(sorted(changed))} changed")
            for lane in self._lanes:
                lane.renew()

    def _ask(self, speaker: Speaker, body: Piece) -> Tuple[int, Any]:
        told = json.loads(bytes(body))
        after = int(told["after"])
        self._post.come(speaker.mail.forget(int(told["taken"])), speaker.mail)
        wait_s = 0.0 if self._opened.over else min(LONGEST_WAIT_S, float(told["wait_s"]))
        events = speaker.mail.after(after, wait_s, EVENTS_BYTES)
        header = {"events": [{**event.told, "number": number} for number, event in events], "state": self._state()}
        return 200, pack(header, [segment_of(event.data) for _, event in events])

    def _get(self, _speaker: Speaker, _body: Piece, call: str, at: str) -> Tuple[int, Any]:
        self._opened.touch()
        return 200, self._post.read(int(call), int(at), protocol.PIECE_BYTES)

    def _send(self, _speaker: Speaker, body: Piece, call: str) -> Tuple[int, Any]:
        self._opened.touch()
        number = int(call)
        if number not in self._sent:
            self._sent[number] = {}
            address, place = json.loads(bytes(body))["address"], self._post.place(number)
            threading.Thread(target=self._send_report, args=(number, address, place), daemon=True).start()
        # Sending may take longer than a request may: it is asked again.
        return 200, self._sent[number]

    def _send_report(self, number: int, address: str, place: Place) -> None:
        path, digest = os.path.join(self._places.folder, f"report-{number}"), hashlib.sha256()
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
            _remove(path)

    def _cancel(self, _speaker: Speaker, body: Piece, job_id: str) -> Tuple[int, Any]:
        wanted, job = json.loads(bytes(body))["calls"], self._opened.find(job_id)
        if job is None:
            return 200, {}
        numbers = [job.packs.base + int(number) for number in wanted]
        self._end_calls(self._opened.cancel(job, numbers))
        return 200, {}

    def _end_calls(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            for lane in self._lanes:
                lane.end_call(number)

    def _find(self, speaker: Speaker, _body: Piece, job_id: str) -> Tuple[int, Any]:
        job = self._opened.find(job_id)
        if job is not None:
            job.mails.append(speaker.mail)
        told, left = self._post.tell_too(job_id, speaker.mail), [] if job is None else job.numbers_left
        return 200, {"calls": sorted({*told, *left})}

    def _connect(self, _speaker: Speaker, _body: Piece, stream: str, port: str) -> Tuple[int, Any]:
        self._streams.open(stream, int(port))
        return 200, {}

    def _write(self, _speaker: Speaker, body: Piece, stream: str, at: str) -> Tuple[int, Any]:
        return 200, {"at": self._streams.get(stream).write(int(at), body)}

    def _read(self, _speaker: Speaker, body: Piece, stream: str, at: str) -> Tuple[int, Any]:
        wait_s = min(LONGEST_WAIT_S, float(json.loads(bytes(body))["wait_s"]))
        try:
            return 200, b"\0" + self._streams.get(stream).read(int(at), wait_s)
        except EOFError:
            return 200, b"\1"

    def _shut(self, _speaker: Speaker, _body: Piece, stream: str) -> Tuple[int, Any]:
        self._streams.close(stream)
        return 200, {}

    def _close(self, _speaker: Speaker, body: Piece) -> Tuple[int, Any]:
        self._closing = time.monotonic()
        if json.loads(bytes(body))["now"]:
            self._end(protocol.CANCELLED, protocol.WAS_CANCELLED)
        return 200, {}


def _check_digest(text: str) -> None:
    """Refuse what is no digest: it becomes the name of a file."""
    if len(text) != envelope.DIGEST_DIGITS or not envelope.HEXADECIMAL.issuperset(text):
        raise Refused(400)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
