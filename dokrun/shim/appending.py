"""A worker's file of reports, which grows: each report gets into it as a whole, or not at all.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import io
import os
import threading
from typing import List, Optional

from . import protocol
from .digests import digests_of
from .envelope import Buffer
from .threads import begun

# What is smaller than this is sooner copied together than written piece by piece.
JOINED_BYTES = 64 << 10
# So much is written at a time. Of a file that is mapped and was not read yet, as what a call is given is, Linux writes
# more in small steps, which takes more than twice as long.
WRITTEN_BYTES = 1 << 20


class Appending:
    """Writes to the end of a file.

    Args:
        path: which one.
        hashed: whether somebody wants to know the digests of what is large.
    """

    def __init__(self, path: str, *, hashed: bool) -> None:
        self._path = path
        self._hashed = hashed
        self._file: Optional[io.FileIO] = None

    def write(self, pieces: List[Buffer]) -> List[str]:
        """Write some pieces. Tells the digest of each `protocol.PIECE_BYTES` of them, if they are large; else nothing.

        While they are written they are hashed, so that this takes no time of its own. Raises OSError.
        """
        file, size = self._opened(), sum(map(len, pieces))
        before = file.tell()
        told: List[str] = []
        hashing: List[threading.Thread] = []
        if size < JOINED_BYTES:
            pieces = [b"".join(pieces)]
        elif self._hashed and size >= protocol.BLOB_SIZE:
            hashing = begun(lambda: told.extend(digests_of(pieces)), 1)
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[file.write(view[:WRITTEN_BYTES]) :]
        except OSError:
            file.truncate(before)
            raise
        finally:
            for thread in hashing:
                thread.join()
        return told

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _opened(self) -> io.FileIO:
        # The function may have emptied its artifact folder, and ours in it.
        if self._file is None or not os.fstat(self._file.fileno()).st_nlink:
            self.close()
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._file = io.FileIO(self._path, "a")
        return self._file
