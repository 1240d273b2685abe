"""A session: a container whose list of calls stays open, and which takes them over its http port.

Every request is a POST, and every body and answer is vouched for; see `seal`. Times are in seconds, sizes in bytes.

    /hello                      the token, and a nonce → {"speaker", "nonce"}
    /need/JOB                   {sha256: [size, address or null]} → {"missing": […]}: what a job's calls are given, and
                                which of it is to be put
    /put/SHA256/AT              the next piece of it → {"at"}: how much is here; the request's digest is not that of the
                                piece alone, but of all from the last multiple of `protocol.PIECE_BYTES` to its end
    /calls/ORDER                payloads, one after another → {"taken"}: of each {"base"}, the number of its first call,
                                or {"refused": {"reason", "message"}}
    /calls/ORDER/SHA256         the same, of what was put since it is large; {} while that is not there yet
    /ask                        {"after", "taken", "also", "wait_s"} → an envelope with the events after that one, and
                                the session's state {"age_s", "idle_left_s", "left_s"}: how old it is, how long it lasts
                                if nothing comes, null while there is something to do, and how long in any case; those
                                up to `taken`, and those whose numbers `also` has, are forgotten
    /get/CALL/AT                → a piece of a report that was too large to be told at once
    /send/CALL                  {"address"} → {}, {"sha256"} or {"failed"}: how far it is with sending the same to the
                                bucket
    /cancel/JOB                 {"calls"}: those, counted from the job's first one, in all their attempts: a call of JOB
                                that is tried again is sent as one of the job JOB.CALL.ATTEMPT
    /find/JOB                   → {"calls"}: what becomes of a job is told here too from now on, and what was told and
                                nobody has taken, in all attempts; those are the calls, counted from the job's first
                                one. An event's "job" is that of the attempt
    /close                      {"now"}: end when all is done, or at once
    /open/STREAM/PORT           connect to a server in the container
    /write/STREAM/AT            say something to it, nothing for an end → {"at"}: how much was said
    /read/STREAM/AT             {"wait_s"} → what it says from there on, behind a byte 0; a byte 1 at its end
    /shut/STREAM                end that

Whoever has not been heard for long is told again, when that one asks, what each call has come to and nobody has taken;
events may come twice so.

What was answered with 202 has been taken, and is not done twice when it is sent again: ORDER counts what a speaker has
sent, from 1 on. A container ends by itself: when there has been nothing to do for so long as the payload
says, and when nobody has been heard for so long and there is nothing to do.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import json
import os
import pickle
import threading
import time
from typing import Any, Dict, Optional, Tuple

from . import protocol, seal, stopping
from .asked import PUT, Requests, Told
from .blobs import Altered, Blobs
from .drain import Drain, Places, lanes_for
from .envelope import pack, unnamed
from .job import Job
from .opened import Opened
from .post import Hashed, Post, hashed
from .process import Worker
from .reports import entry_of
from .serve import Answer, Head, Piece, Refused, Server
from .speakers import Asked, Speaker, Speakers
from .stopping import Stopped

# Where the payload tells of no lease: for whom nothing is held any more, since it has not been heard for so long; and
# how long the first one is waited for.
SILENT_S = 120.0
# How long a session that was closed waits until its last outcomes are known to have come.
LAST_ASKED_S = 10.0
# How often it is looked whether a session shall end.
LOOK_S = 0.25
# How much of the time that is paid for is not used to linger.
BILLED_MARGIN_S = 2.0


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
        self._blobs = Blobs(os.path.join(places.folder, "blobs"))
        self._opened = Opened(places.lanes, self._blobs)
        self._post = Post(places.out, self._opened.job_of)
        self._opened.listen(self._post.failed, self._over)
        self._requests = Requests(places.folder, self._opened, self._blobs, self._post, self._state)
        self._does = {**self._requests.known(), "close": self._close}
        self._speakers = Speakers(token_sha256)
        self._closing: Optional[float] = None
        self._ended = threading.Event()
        self._server = Server(self._told["host"], self._told["port"], self)

    # Its life.

    def run(self, worker: Worker) -> Tuple[Drain, Optional[Stopped]]:
        """Take calls and have them run until it is over. Tells why the container was told to end, if it was."""
        lanes = self._requests.lanes = lanes_for(worker, self._opened, self._post.printed, self._places)
        drain = Drain(lanes, self._opened, self._post)
        self._server.start()
        threading.Thread(target=self._watch, daemon=True).start()
        stopped = drain.run()
        self._ended.set()
        for speaker in self._speakers.all:
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
            file.write(pack(header, [unnamed(pickle.dumps(None))]))
        manifest["reports"] += entry_of(path)

    def _watch(self) -> None:
        while not self._opened.close_if(self._is_over):
            self._ended.wait(LOOK_S)
            self._requests.end_calls(self._opened.unwanted)  # which no worker may have been at when they were cancelled
            self._blobs.release_awaited()
            for speaker in self._speakers.silent(self._told["lease_s"] or SILENT_S):
                if not speaker.mail.away:
                    self._post.put_away(speaker.mail)
            if stopping.age_s() > self._told["limit_s"]:
                message = f"the session has lasted as long as its timeout of {self._told['limit_s']:g} s"
                # What has not begun may do so in another session.
                self._end(protocol.STOPPED, protocol.OVER, message)

    def _end(self, running: str, waiting: str, message: str) -> None:
        """Take and give out nothing more, and end what runs; for what reason, and for which what waits does not."""
        self._opened.end(waiting, message)
        for lane in self._requests.lanes:
            lane.stop(running, message)

    def _is_over(self) -> bool:
        since, now = self._opened.idle_since(), time.monotonic()
        if since is None:
            return False
        if self._closing is not None:
            return self._post.all_taken or now - max(since, self._closing) > LAST_ASKED_S
        lease_s = self._told["lease_s"]
        if not self._speakers.all and now - self._speakers.heard < (lease_s or SILENT_S):
            return False  # its client looks now and then only whether the container is there
        if lease_s is not None and now - self._speakers.heard > lease_s and now - since > lease_s:
            return True
        return self._idle_left_s(since) <= 0

    def _idle_left_s(self, since: float) -> float:
        """Tell how long it goes on if nothing comes: until it was idle so long, and what is billed anyway is over."""
        idle_left_s = max(since, self._requests.streams.moved) + float(self._told["idle_s"]) - time.monotonic()
        return max(idle_left_s, float(self._told["billed_s"]) - BILLED_MARGIN_S - stopping.age_s())

    def _state(self) -> Dict[str, Any]:
        since, age_s = self._opened.idle_since(), stopping.age_s()
        return {
            "age_s": round(age_s, 3),
            "idle_left_s": None if since is None else round(self._idle_left_s(since), 3),
            "left_s": round(max(0.0, self._told["limit_s"] - age_s), 3),
        }

    def _over(self, job: Job) -> None:
        self._requests.orders.let_go(job.packs.name)

    # Requests.

    def admit(self, head: Head) -> Asked:
        """Tell who asks, before the body is read. Raises Refused."""
        return self._speakers.admit(head)

    def answer(self, head: Head, who: Asked, body: Piece) -> Answer:
        """Do what is asked. Raises Refused."""
        if who.speaker is None:
            self._opened.touch()
            return self._speakers.hello(head, who.name)
        status, told = self._done(who.speaker, head.path, body, who.digest)
        answered, sha256 = _hashed(told)
        mac = seal.of_answer(who.speaker.key, who.count, status, sha256, len(answered))
        return Answer(status, answered, ((seal.MAC, mac),))

    def _done(self, speaker: Speaker, path: str, body: Piece, digest: str) -> Told:
        """Do what is asked, if it is what was vouched for. Tells what is answered. Raises Refused where it is not."""
        what, *rest = path[1:].split("/")
        if what == PUT:
            rest.append(digest)  # it is compared when the pieces before this one are here
        elif seal.digest(body) != digest:
            raise Refused(400)
        if what not in self._does:
            return 404, {}
        try:
            return self._does[what](speaker, body, *rest)
        except Refused as refused:
            return refused.status, refused.told
        except Altered as error:
            raise Refused(400) from error
        except OSError as error:  # the disk is full, say
            return 507, {"message": str(error)}
        except Exception as error:  # noqa: BLE001 - whoever asks shall hear of it
            return 400, {"message": f"{type(error).__name__}: {error}"}

    def _close(self, _speaker: Speaker, body: Piece) -> Told:
        self._closing = time.monotonic()
        if json.loads(bytes(body))["now"]:
            self._end(protocol.CANCELLED, protocol.CANCELLED, protocol.WAS_CANCELLED)
        return 200, {}


def _hashed(told: Any) -> Hashed:
    if isinstance(told, Hashed):
        return told
    return hashed(told if isinstance(told, bytes) else json.dumps(told).encode())
