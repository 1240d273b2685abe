"""The digest that bytes are known by: their SHA-256; of what is larger than a piece, a digest of its pieces' SHA-256s.

So all processors reckon it at the same time, and of what is sent in pieces each is vouched for on its own.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import collections
import hashlib
import os
from typing import Any, Callable, List, Sequence, Tuple, Union

from . import protocol
from .threads import begun, processors

# More would take the processors from whatever else is done there.
THREADS = 4
CHUNK = 1 << 20

Buffer = Union[bytes, bytearray, memoryview]


def digest_of(data: Buffer) -> str:
    """Tell the digest of some bytes."""
    return whole(digests_of([data]))


def digests_of(buffers: Sequence[Buffer]) -> List[str]:
    """Tell the SHA-256 of each piece of some bytes, which follow one another; of nothing, that of one empty piece."""
    pieces = _cut(buffers)
    return _of_each(len(pieces), lambda number, digest: [digest.update(part) for part in pieces[number]])


def of_file(path: str) -> Tuple[str, int]:
    """Tell the digest of a file, and its size. Raises OSError."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size

        def read(number: int, digest: Any) -> None:
            at = number * protocol.PIECE_BYTES
            end = min(at + protocol.PIECE_BYTES, size)
            while at < end:
                some = os.pread(file.fileno(), min(CHUNK, end - at), at)
                if not some:
                    raise OSError("it has become shorter meanwhile")
                digest.update(some)
                at += len(some)

        return whole(_of_each(max(1, -(-size // protocol.PIECE_BYTES)), read)), size


def whole(digests: Sequence[str]) -> str:
    """Tell the digest of what has pieces with these SHA-256s.

    Of several it is another function than of one, so that no piece can be made to have it.
    """
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha512("".join(digests).encode()).hexdigest()[: len(digests[0])]


class Digest:
    """Reckons the digest of bytes as they come."""

    def __init__(self) -> None:
        self._digests: List[str] = []
        self._last = hashlib.sha256()
        self._room = protocol.PIECE_BYTES

    def update(self, data: Buffer) -> None:
        """Take the next bytes."""
        view = memoryview(data).cast("B")
        while view:
            if not self._room:
                self._digests.append(self._last.hexdigest())
                self._last, self._room = hashlib.sha256(), protocol.PIECE_BYTES
            self._last.update(view[: self._room])
            view, self._room = view[self._room :], self._room - min(self._room, len(view))

    def hexdigest(self) -> str:
        """Tell the digest of all that came."""
        return whole([*self._digests, self._last.hexdigest()])


def _cut(buffers: Sequence[Buffer]) -> List[List[memoryview]]:
    """Tell what each piece is made of."""
    pieces: List[List[memoryview]] = [[]]
    room = protocol.PIECE_BYTES
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        while view:
            if not room:
                pieces.append([])
                room = protocol.PIECE_BYTES
            pieces[-1].append(view[:room])
            view, room = view[room:], room - min(room, len(view))
    return pieces


def _of_each(count: int, feed: Callable[[int, Any], object]) -> List[str]:
    """Tell the SHA-256 of each of some pieces, in several threads. Raises what `feed` does."""
    told: List[str] = [""] * count
    left = collections.deque(range(count))
    trouble: List[BaseException] = []

    def reckon() -> None:
        while left:
            try:
                number = left.popleft()
            except IndexError:  # another thread has taken the last one
                return
            digest = hashlib.sha256()
            try:
                feed(number, digest)
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
                trouble.append(error)
                left.clear()
            told[number] = digest.hexdigest()

    helpers = begun(reckon, min(THREADS, processors()) - 1) if count > 1 else []
    reckon()
    for helper in helpers:
        helper.join()
    if trouble:
        raise trouble[0]
    return told
