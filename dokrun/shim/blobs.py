"""What a session's calls are given, under its digests: it comes piece by piece, or from the bucket, and stays a while.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import contextlib
import hashlib
import os
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple

from . import digests, fetch, protocol
from .serve import Piece

# How much may lie here that no call is given any more.
ROOM_BYTES = 8 << 30
STREAMS = 4
# How long it is kept for a job that has not come itself, from its last piece on.
WAITED_S = 600.0
# How long a piece waits for those before it, which are on their way at the same time.
TURN_S = 5.0
CHANGED = "it is not what was announced; nobody may change it while it is being sent"


class Altered(Exception):
    """What has come is not what was vouched for."""


class Blob:
    """Some bytes: how many, how many of them are here, and for which jobs. `failed` says why no more will come."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.at = 0
        # Of what was put so far: the SHA-256 of each `protocol.PIECE_BYTES`, and how that of the last ones stands.
        self.digests: List[str] = []
        self.last = hashlib.sha256()
        # Where the next piece was to begin when what came was not what was vouched for.
        self.refused = -1
        self.jobs: Set[str] = set()
        self.fetching = False
        self.failed = ""
        # Where pieces lie that are being written, or wait for those before them.
        self.writing: List[Tuple[int, int]] = []

    def is_written(self, at: int, end: int) -> bool:
        """Tell whether somebody writes there."""
        return any(first < end and at < last for first, last in self.writing)

    @property
    def whole(self) -> bool:
        """Whether all of it is here."""
        return self.at == self.size and not self.fetching


class Blobs:
    """Keeps bytes in a folder. For any thread.

    Args:
        folder: which one.
        room: how many bytes may lie there that no call is given any more.
        waited_s: how long bytes lie there for a job that has not come itself.
        turn_s: how long a piece waits for those before it.
    """

    def __init__(self, folder: str, room: int = ROOM_BYTES, waited_s: float = WAITED_S, turn_s: float = TURN_S) -> None:
        self._folder = folder
        self._room = room
        self._waited_s = waited_s
        self._turn_s = turn_s
        self._came: Callable[[], None]
        self._lock = threading.RLock()
        self._turn = threading.Condition(self._lock)
        self._streams = threading.BoundedSemaphore(STREAMS)
        # The one that was needed last is the last.
        self._blobs: Dict[str, Blob] = {}
        # What each job is given; and how much lies here for none.
        self._jobs: Dict[str, Set[str]] = {}
        self._idle = 0
        # The jobs that have not come themselves, and when something was brought for each, by the monotonic clock.
        self._awaited: Dict[str, float] = {}

    def listen(self, came: Callable[[], None]) -> None:
        """Have it told whenever one is whole, or will not come."""
        self._came = came

    def need(self, job: str, wanted: Dict[str, Any]) -> List[str]:
        """Keep some for a job: those that are here, and those that will come. Tells which have to be put.

        `wanted` tells of each how large it is, and the address that it can be had from, if there is any.
        """
        missing = []
        for sha256, (size, address) in wanted.items():
            with self._lock:
                blob = self._kept(job, sha256, int(size))
                if blob.failed:
                    blob.failed, blob.at = "", 0
                if not blob.size:
                    open(self._path(sha256), "wb").close()
                if blob.whole or blob.fetching:
                    continue
                blob.fetching = bool(address)
            if address:
                threading.Thread(target=self._fetch, args=(sha256, blob, address), daemon=True).start()
            else:
                missing.append(sha256)
        return missing

    def add(self, job: str, sha256: str, data: Piece) -> None:
        """Keep one for a job that has come with it. Raises OSError."""
        with self._lock:
            blob = self._kept(job, sha256, len(data))
            if not blob.whole or not blob.size:
                with open(self._path(sha256), "wb") as file:
                    file.write(data)
                blob.at = blob.size

    def put(self, sha256: str, at: int, piece: Piece, digest: str) -> int:
        """Take the next piece of one. Tells how much of it is here.

        A piece that comes before the one that it follows is written, and counts when that one does; one that is not the
        next then changes nothing.

        Args:
            sha256: which one.
            at: where the piece begins.
            piece: its bytes.
            digest: the SHA-256 of all bytes up to its end, from the last place on that is a multiple of
                `protocol.PIECE_BYTES`: the whole one's is made of those. No piece goes beyond such a place.

        Raises:
            KeyError: nobody needs it.
            Altered: the piece is not what the digest is of; it does not count.
            OSError: there is no room for it.
        """
        end, rest = at + len(piece), at % protocol.PIECE_BYTES
        if rest + len(piece) > protocol.PIECE_BYTES:
            raise Altered
        with self._lock:
            blob = self._blobs[sha256]
            # What is written must be what is hashed: the same place is not written to by two at the same time.
            self._turn.wait_for(lambda: not blob.is_written(at, end), self._turn_s)
            if at < blob.at or end > blob.size or blob.fetching or blob.is_written(at, end):
                return blob.at
            # Opened now: what takes the file's place meanwhile, fetched and whole, is not written to.
            file = os.open(self._path(sha256), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            blob.writing.append((at, end))
        try:
            _write(file, at, piece)
            begun = None if rest else hashlib.sha256(piece)  # here, where others can do so at the same time
            with self._lock:
                self._turn.wait_for(lambda: blob.at >= at or blob.fetching or blob.failed, self._turn_s)
                if at != blob.at or blob.fetching:
                    return blob.at
                whole = self._count(sha256, blob, piece, digest, begun)
                reached = blob.size if whole else blob.at
        finally:
            os.close(file)
            with self._lock:
                blob.writing.remove((at, end))
                self._turn.notify_all()
        if whole:
            self._came()
        return reached

    def _count(self, sha256: str, blob: Blob, piece: Piece, digest: str, begun: Optional[Any]) -> bool:
        """Take note of the next piece, which was written. Tells whether it is the last. Raises Altered.

        `begun` is its hash, unless it goes on with another one's.
        """
        number, rest = divmod(blob.at, protocol.PIECE_BYTES)
        if begun is None:
            begun = blob.last.copy()
            begun.update(piece)
        if begun.hexdigest() != digest:
            again, blob.refused = blob.refused == blob.at, blob.at
            if again:  # maybe what came before it, from somebody else, is not what it should be
                blob.at -= rest
            raise Altered
        if not blob.at:
            blob.failed = ""
        blob.digests[number:], blob.last = [digest], begun
        blob.at, blob.refused = blob.at + len(piece), -1
        whole = blob.whole
        if whole and digests.whole(blob.digests) != sha256:
            blob.failed, blob.at = CHANGED, 0
        self._turn.notify_all()
        self._awaited.update((job, time.monotonic()) for job in blob.jobs if job in self._awaited)
        return whole

    def trouble(self, needed: Iterable[str]) -> str:
        """Tell why some will not be whole; empty where nothing says so."""
        with self._lock:
            return next((self._blobs[it].failed for it in needed if it in self._blobs and self._blobs[it].failed), "")

    def have(self, needed: Iterable[str]) -> bool:
        """Tell whether some are all whole."""
        with self._lock:
            return all(it in self._blobs and self._blobs[it].whole for it in needed)

    def taken(self, job: str) -> None:
        """Take note that a job has come, so that bytes are kept for it until they are released."""
        with self._lock:
            self._awaited.pop(job, None)

    def release(self, job: str) -> None:
        """Keep none any longer for a job."""
        with self._lock:
            self._awaited.pop(job, None)
            for sha256 in self._jobs.pop(job, ()):
                self._blobs[sha256].jobs.discard(job)
                self._let_go(sha256)

    def release_awaited(self) -> None:
        """Keep none any longer for jobs that do not come."""
        with self._lock:
            until = time.monotonic() - self._waited_s
            for job in [job for job, brought in self._awaited.items() if brought < until]:
                if not any(self._blobs[sha256].fetching for sha256 in self._jobs[job]):
                    self.release(job)

    def _let_go(self, sha256: str) -> None:
        """Take note that one may be needed by nobody, and make room."""
        blob = self._blobs[sha256]
        if blob.jobs or blob.fetching:
            return
        self._idle += blob.size
        while self._idle > self._room:
            oldest = next(sha256 for sha256, blob in self._blobs.items() if not blob.jobs and not blob.fetching)
            self._idle -= self._blobs.pop(oldest).size
            with contextlib.suppress(OSError):  # a function may have removed it
                os.unlink(self._path(oldest))

    def _kept(self, job: str, sha256: str, size: int) -> Blob:
        blob = self._blobs.pop(sha256, None)
        if blob is None:
            blob = Blob(size)
        elif not blob.jobs and not blob.fetching:
            self._idle -= blob.size
        self._blobs[sha256] = blob  # last in line to go
        if job not in blob.jobs:
            blob.jobs.add(job)
            self._jobs.setdefault(job, set()).add(sha256)
            self._awaited[job] = time.monotonic()
        return blob

    def _fetch(self, sha256: str, blob: Blob, address: str) -> None:
        failed = ""
        with self._streams:
            try:
                fetch.fetch(address, self._path(sha256), sha256, blob.size)
            except Exception as error:  # noqa: BLE001 - it is told to whoever needs it
                failed = str(error)
        with self._lock:
            blob.fetching, blob.failed = False, failed
            blob.at = 0 if failed else blob.size
            self._let_go(sha256)
        self._came()

    def _path(self, sha256: str) -> str:
        return os.path.join(self._folder, sha256)


def _write(file: int, at: int, piece: Piece) -> None:
    view = memoryview(piece)
    while view:
        count = os.pwrite(file, view, at)
        view, at = view[count:], at + count
