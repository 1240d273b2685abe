"""Who may ask a session: speakers, who have shown its token once, and what each has said already.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import json
import os
import threading
import time
from typing import Dict, List, Optional

from . import protocol, seal
from .mail import Mail
from .serve import Answer, Head, Refused

# What one request holds at most, beside what it says of itself.
LARGEST_BODY = protocol.PIECE_BYTES + (1 << 20)


class Speaker:
    """Somebody who has shown the token."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.counts = seal.Counts()
        self.mail = Mail()
        # What was answered when it sent calls, as long as it may ask again: it sends a few at the same time.
        self.answers: Dict[int, bytes] = {}
        self.orders = seal.Counts()
        # When it was heard last, by the monotonic clock.
        self.heard = time.monotonic()


class Asked:
    """A request that is known to come from a speaker; of the first one, what is said in its head."""

    def __init__(self, head: Head, name: str, speaker: Optional[Speaker], count: int) -> None:
        self.digest = head.fields.get(seal.DIGEST.lower(), "")
        self.name = name
        self.speaker = speaker
        self.count = count


class Speakers:
    """Knows who asks. For any thread.

    Args:
        token_sha256: of the token that the client shows.

    Attributes:
        heard: when somebody was heard last, by the monotonic clock.
    """

    def __init__(self, token_sha256: str) -> None:
        self._token_sha256 = token_sha256
        self._lock = threading.Lock()
        self._speakers: Dict[str, Speaker] = {}
        self.heard = time.monotonic()

    @property
    def all(self) -> List[Speaker]:
        """All that there are."""
        with self._lock:
            return list(self._speakers.values())

    def silent(self, since_s: float) -> List[Speaker]:
        """Tell who has not been heard for so long."""
        return [speaker for speaker in self.all if time.monotonic() - speaker.heard > since_s]

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
            self.heard = speaker.heard = time.monotonic()
        return asked

    def hello(self, head: Head, token: str) -> Answer:
        """Get to know somebody who has shown the token."""
        theirs, ours, name = head.fields.get(seal.NONCE.lower(), ""), os.urandom(16).hex(), os.urandom(16).hex()
        speaker = Speaker(seal.key_of(token, name, theirs, ours))
        with self._lock:
            self._speakers[name] = speaker
            self.heard = speaker.heard
        body = json.dumps({"speaker": name, "nonce": ours}).encode()
        mac = seal.of_answer(speaker.key, 0, 200, seal.digest(body), len(body))
        return Answer(200, body, ((seal.MAC, mac),))
