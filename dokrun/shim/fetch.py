"""Bring bytes into the container: to a file, no more of them than announced, and only if their digest is right.

What breaks goes on where it broke, and what takes long is fetched in several parts at once. And out of it, to where the
client has said.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import contextlib
import errno
import functools
import io
import os
import threading
import time
import zlib
from typing import Any, Callable, ContextManager, List, TypeVar

from . import protocol, reply, web
from .digests import Digest, of_file

T = TypeVar("T")

ATTEMPTS = 5
FIRST_PAUSE_S = 0.5
READ_TIMEOUT_S = 60.0
# For what can do without.
SHORT_TIMEOUT_S = 5.0
CHUNK = 1 << 20
LARGEST_TABLE = 64 << 20
PARTIAL = 206
PASSING = frozenset({408, 429, 500, 502, 503, 504})
# A disk that is full stays so.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# The service's line is rated 200 Mbps, best effort; a transfer slower than a fiftieth of that is tried again.
SLOWEST_BYTES_PER_S = 500_000
# A file that one request brings in about so many seconds needs no others.
ALONE_S = 1.0
PARTS = 4
SMALLEST_PART = 8 << 20
OTHERS = "the bytes do not match the digest in the task definition"


class FetchError(OSError):
    """The bytes could not be had."""


class DigestError(FetchError):
    """The bytes are not the ones that were announced."""


def fetch(
    url: str, path: str, sha256: str, size: int, *, timeout_s: float = READ_TIMEOUT_S, alone_s: float = ALONE_S
) -> None:
    """Download `size` bytes to `path`, written aside and renamed once their digest is right.

    A refused connection, a cut body, one that is slower than `SLOWEST_BYTES_PER_S` after `timeout_s`, 408, 429 and 5xx
    are tried again, from where it broke; any other answer, a full disk and a wrong digest are final. What has not come
    after `alone_s`, and would take as long again, is asked for in several parts at once.

    Raises:
        FetchError: its message never holds the URL's query, which is a signature.
    """
    aside = f"{path}.{os.getpid()}.part"
    with open(aside, "wb"):
        pass
    begun = _Begun()
    try:
        if url.startswith(protocol.HERE):
            with open(url[len(protocol.HERE) :], "rb") as source, open(aside, "wb") as file:
                file.write(source.read(size))
        else:
            download = _Download(url, aside, size, timeout_s, alone_s)
            download.run()
            if download.packed:
                _unpack(url, aside, size)
            else:
                begun = download.begun
        _compare(url, begun.of_all(aside), sha256)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


def _unpack(url: str, path: str, size: int) -> None:
    """Unpack a file where it lies, to no more than so many bytes."""
    packed = f"{path}.packed"
    os.replace(path, packed)
    unpacker, left = zlib.decompressobj(), size
    try:
        with open(packed, "rb") as source, open(path, "wb") as file:
            while chunk := unpacker.unconsumed_tail or source.read(CHUNK):
                data = unpacker.decompress(chunk, CHUNK)
                left -= len(data)
                if left < 0:
                    break
                file.write(data)
    except zlib.error:
        left = -1
    finally:
        os.unlink(packed)
    if left < 0:
        raise _another(url)


def _compare(url: str, found: str, sha256: str) -> None:
    if found != sha256:
        raise _another(url)


def _another(url: str) -> DigestError:
    return DigestError(f"{url.partition('?')[0]}: {OTHERS}")


class _Begun:
    """The digest of a file's beginning, reckoned while the rest is still on its way.

    Attributes:
        at: how many bytes it is of.
    """

    def __init__(self) -> None:
        self.at = 0
        self._digest = Digest()

    def go_on(self, at: int, data: Any) -> None:
        """Take what was written at a place, if it is the next, or the first."""
        if at == 0:
            self.at, self._digest = 0, Digest()
        if at == self.at:
            self._digest.update(data)
            self.at += len(data)

    def of_all(self, path: str) -> str:
        """Tell that of the whole file, which is read where it did not come in one go."""
        return self._digest.hexdigest() if self.at == os.path.getsize(path) else of_file(path)[0]


def repeated(url: str, once: Callable[[], T], attempts: int = ATTEMPTS) -> T:
    """Do something at an address, again where that may help. Raises FetchError, without the address's query."""
    pause_s = FIRST_PAUSE_S
    for attempt in range(1, attempts + 1):
        try:
            return once()
        except FetchError:
            raise
        except web.HttpError as error:
            problem = str(error)
            if error.status not in PASSING:
                break
        except OSError as error:
            problem = str(error) or type(error).__name__
            if error.errno in FULL or isinstance(error, reply.TooLarge):
                break
        if attempt < attempts:
            time.sleep(pause_s)
            pause_s *= 2
    raise FetchError(f"{url.partition('?')[0]}: {problem}")


def read(url: str, limit: int = LARGEST_TABLE, timeout_s: float = READ_TIMEOUT_S) -> bytes:
    """Read what nobody has announced the digest of, at most `limit` bytes. Raises FetchError."""

    def once() -> bytes:
        with web.ask(url, timeout_s) as answer:
            return bytes(answer.whole(limit))

    return repeated(url, once)


def send(url: str, data: bytes, kind: str) -> None:
    """PUT some bytes of a content type. Raises FetchError."""
    _send(url, lambda: contextlib.nullcontext(data), len(data), kind)


def send_file(url: str, path: str, size: int, kind: str, *, once: bool = False) -> None:
    """PUT a file of a content type, or try to for a little while. Raises FetchError."""
    opened = functools.partial(io.FileIO, path)
    if once:
        _send(url, opened, size, kind, attempts=1, timeout_s=SHORT_TIMEOUT_S)
    else:
        _send(url, opened, size, kind)


def _send(
    url: str,
    opened: Callable[[], ContextManager[Any]],
    size: int,
    kind: str,
    *,
    attempts: int = ATTEMPTS,
    timeout_s: float = READ_TIMEOUT_S,
) -> None:
    def once() -> None:
        with opened() as body:
            fields = ("Content-Length", str(size)), ("Content-Type", kind)
            with web.ask(url, timeout_s, method="PUT", fields=fields, body=body):
                pass

    repeated(url, once, attempts)


class _Part:
    """Some bytes of a file, which one request at a time fetches: those before `at` are there."""

    def __init__(self, start: int, end: int) -> None:
        self.at = start
        self.end = end


class _Download:
    """Fetches a file. Where that takes long, it is cut into parts, which come at the same time.

    Not from the start: many a store brings one answer as fast as the line is, and some read all of an object for each.
    """

    def __init__(self, url: str, path: str, size: int, timeout_s: float, alone_s: float) -> None:
        self._url = url
        self._path = path
        self._size = size
        self._timeout_s = timeout_s
        self._alone_s = alone_s
        self._started = time.monotonic()
        self._shared = False
        # Whether what lies there is compressed, which its answer tells; its size is another one then.
        self.packed = False
        self.begun = _Begun()
        self._helpers: List[threading.Thread] = []
        self._trouble: List[BaseException] = []

    def run(self) -> None:
        """Fetch all of it. Raises FetchError."""
        try:
            self._fetch(_Part(0, self._size))
        except BaseException as error:
            self._trouble.append(error)
            raise
        for helper in self._helpers:
            helper.join()
        if self._trouble:
            raise self._trouble[0]

    def _fetch(self, part: _Part) -> None:
        repeated(self._url, lambda: self._go_on(part))

    def _help(self, part: _Part) -> None:
        try:
            self._fetch(part)
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self._trouble.append(error)

    def _go_on(self, part: _Part) -> None:
        """Fetch what is missing of a part."""
        missing = part.end - part.at
        fields = (("Range", f"bytes={part.at}-{part.end - 1}"),) if missing < self._size else ()
        deadline = time.monotonic() + self._timeout_s + missing / SLOWEST_BYTES_PER_S
        with web.ask(self._url, self._timeout_s, fields=fields) as answer, open(self._path, "r+b") as file:
            answer.until = deadline
            if not self.packed and protocol.UNPACKED_FIELD in answer.fields:
                self._see_packed(answer, part)
            self._check(answer, part)
            file.seek(part.at)
            chunk = memoryview(bytearray(min(CHUNK, part.end - part.at)))
            while part.at < part.end and not self._trouble:
                count = answer.read_into(chunk)
                if not count:
                    raise reply.Cut("the answer is cut")
                some = chunk[: min(count, part.end - part.at)]
                file.write(some)
                self.begun.go_on(part.at, some)
                part.at += len(some)
                if not self._shared and answer.fields.get("accept-ranges") == "bytes":
                    self._share(part)

    def _see_packed(self, answer: web.Answer, part: _Part) -> None:
        """Take note of how much there is to be fetched, where that is compressed: no more than what it unpacks to."""
        if answer.status == PARTIAL or answer.left is None or answer.left > self._size:
            raise _another(self._url)
        self.packed, part.at = True, 0
        self._size = part.end = answer.left

    def _check(self, answer: web.Answer, part: _Part) -> None:
        """See that an answer is what was asked for, before any of it is written."""
        where = self._url.partition("?")[0]
        if part.end - part.at < self._size and answer.status != PARTIAL:
            if self._shared:
                raise FetchError(f"{where}: the store knows no ranges")
            part.at = 0  # then it begins again
        missing = part.end - part.at
        if answer.left is not None and answer.left < missing:
            raise reply.Cut("the answer is cut")
        if answer.left is not None and answer.left > missing:
            raise _another(self._url)

    def _share(self, part: _Part) -> None:
        """Leave the other parts to other requests, if this one would take long."""
        passed_s, missing = time.monotonic() - self._started, part.end - part.at
        others = min(PARTS, missing // SMALLEST_PART) - 1
        if others < 1 or passed_s < self._alone_s or passed_s * missing < self._alone_s * part.at:
            return
        self._shared = True
        size, end = missing // (others + 1), part.end
        part.end = end - others * size
        for start in range(part.end, end, size):
            helper = threading.Thread(target=self._help, args=(_Part(start, start + size),), daemon=True)
            self._helpers.append(helper)
            helper.start()
