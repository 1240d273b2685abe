"""How a session's client and its container know each other: what both sides reckon, written once.

The container knows the SHA-256 of a token, from its environment; whoever shows the token, once, is heard. From then on
both have a key, made of the token and of something new from each side, and the token is not shown again: every request
and every answer bears a MAC with that key, a request also a number that counts once. So nothing that was said before,
to this container or to another, can be said again.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import hashlib
import hmac
from typing import Set, Union

# The headers of a request, and of its answer.
TOKEN = "Authorization"  # noqa: S105 - the header's name
BEARER = "Bearer "
NONCE = "Dokrun-Nonce"
SPEAKER = "Dokrun-Speaker"
COUNT = "Dokrun-Count"
DIGEST = "Dokrun-Digest"
MAC = "Dokrun-Mac"

# How far numbers may come out of order: requests go over several connections.
WINDOW = 4096


def digest(data: Union[bytes, bytearray, memoryview]) -> str:
    """Tell the SHA-256 of some bytes, as text."""
    return hashlib.sha256(data).hexdigest()


def is_token(shown: str, sha256: str) -> bool:
    """Tell whether a token is the one whose SHA-256 is known; takes as long for each."""
    return hmac.compare_digest(digest(shown.encode()), sha256)


def key_of(token: str, speaker: str, theirs: str, ours: str) -> bytes:
    """Make the key of one speaker, from the token and a nonce of each side."""
    return hmac.digest(token.encode(), f"dokrun session\n{speaker}\n{theirs}\n{ours}".encode(), "sha256")


def of_request(key: bytes, path: str, count: int, body_sha256: str, size: int) -> str:
    """Tell the MAC of a request."""
    return hmac.digest(key, f"request\n{path}\n{count}\n{body_sha256}\n{size}".encode(), "sha256").hex()


def of_answer(key: bytes, count: int, status: int, body_sha256: str, size: int) -> str:
    """Tell the MAC of the answer to the request of a number."""
    return hmac.digest(key, f"answer\n{count}\n{status}\n{body_sha256}\n{size}".encode(), "sha256").hex()


def alike(one: str, other: str) -> bool:
    """Tell whether two MACs are the same; takes as long wherever they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


class Counts:
    """Numbers that count once each, and not long after later ones. Not for several threads at once."""

    def __init__(self) -> None:
        self._highest = 0
        self._seen: Set[int] = set()

    def take(self, count: int) -> bool:
        """Tell whether a number is a new one; from then on it is not."""
        if count <= self._highest - WINDOW or count in self._seen:
            return False
        self._seen.add(count)
        self._highest = max(self._highest, count)
        if len(self._seen) > 2 * WINDOW:
            self._seen = {one for one in self._seen if one > self._highest - WINDOW}
        return True
