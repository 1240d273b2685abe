"""Bring bytes into the container: to a file, no more of them than announced, and only if their digest is right.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from typing import Callable, Iterator, TypeVar

T = TypeVar("T")

ATTEMPTS = 5
FIRST_PAUSE_S = 0.5
READ_TIMEOUT_S = 60.0
CHUNK = 1 << 20
LARGEST_TABLE = 64 << 20
PASSING = frozenset({408, 429, 500, 502, 503, 504})
# A disk that is full stays so.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# The service's line is rated 200 Mbps, best effort; a transfer slower than a fiftieth of that is tried again.
SLOWEST_BYTES_PER_S = 500_000


class FetchError(OSError):
    """The bytes could not be had."""


class DigestError(FetchError):
    """The bytes are not the ones that were announced."""


def fetch(url: str, path: str, sha256: str, size: int, timeout_s: float = READ_TIMEOUT_S) -> None:
    """Download `size` bytes to `path`, written aside and renamed once their SHA-256 is right.

    A refused connection, a cut body, one that is slower than `SLOWEST_BYTES_PER_S` after `timeout_s`, 408, 429 and 5xx
    are tried again; any other answer, a full disk and a wrong digest are final.

    Raises:
        FetchError: its message never holds the URL's query, which is a signature.
    """
    repeated(url, lambda: _fetch_once(url, path, sha256, size, timeout_s))


def repeated(url: str, once: Callable[[], T]) -> T:
    """Do something at an address, again where that may help. Raises FetchError, without the address's query."""
    pause_s = FIRST_PAUSE_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return once()
        except FetchError:
            raise
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}"
            if error.code not in PASSING:
                break
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
            if getattr(error, "errno", None) in FULL:
                break
        if attempt < ATTEMPTS:
            time.sleep(pause_s)
            pause_s *= 2
    raise FetchError(f"{url.partition('?')[0]}: {problem}")


def read(url: str, limit: int = LARGEST_TABLE, timeout_s: float = READ_TIMEOUT_S) -> bytes:
    """Read what nobody has announced the digest of, at most `limit` bytes. Raises FetchError."""
    return repeated(url, lambda: read_once(urllib.request.Request(url), limit, timeout_s))


def read_once(request: urllib.request.Request, limit: int, timeout_s: float) -> bytes:
    """Read a whole answer of at most `limit` bytes, within `timeout_s`. Raises OSError and HTTPException."""
    data = bytearray()
    deadline = time.monotonic() + timeout_s
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        for chunk in _chunks(response, deadline):
            data += chunk
            if len(data) > limit:
                raise FetchError(f"{request.full_url.partition('?')[0]}: more than {limit} bytes")
    return bytes(data)


def _chunks(response: http.client.HTTPResponse, deadline: float) -> Iterator[bytes]:
    """Yield a body as it comes. A byte a second is no timeout of the socket's, so the clock is looked at each time."""
    left = getattr(response, "length", None)  # a rehearsal's payload is a file of this machine
    while left is None or left > 0:
        if time.monotonic() > deadline:
            raise TimeoutError("the answer comes too slowly")
        # Not `read`, which waits for all that it is asked for.
        chunk = response.read1(CHUNK if left is None else min(CHUNK, left))
        if not chunk:
            if left:
                raise http.client.IncompleteRead(b"", left)
            return
        left = None if left is None else left - len(chunk)
        yield chunk


def _fetch_once(url: str, path: str, sha256: str, size: int, timeout_s: float) -> None:
    aside = f"{path}.{os.getpid()}.part"
    digest = hashlib.sha256()
    received = 0
    deadline = time.monotonic() + timeout_s + size / SLOWEST_BYTES_PER_S
    with urllib.request.urlopen(url, timeout=timeout_s) as response, open(aside, "wb") as file:
        for chunk in _chunks(response, deadline):
            digest.update(chunk)
            file.write(chunk)
            received += len(chunk)
            if received > size:
                break
    if received < size:
        raise http.client.IncompleteRead(b"", size - received)
    if received > size or digest.hexdigest() != sha256:
        os.unlink(aside)
        raise DigestError(f"{url.partition('?')[0]}: the bytes do not match the digest in the task definition")
    os.replace(aside, path)
