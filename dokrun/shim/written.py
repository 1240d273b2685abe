"""How far a worker has come with a file of reports: those of them that are whole.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import mmap
import os
from typing import IO, Optional, Tuple

from . import envelope


def whole(path: str, first: int) -> int:
    """Tell up to which call, from the first on, a file has whole reports that a worker was writing when it ended.

    What is behind them goes.
    """
    try:
        with open(path, "r+b") as file:
            reached, size = _whole(file, first)
            file.truncate(size)
    except FileNotFoundError:
        return first
    return reached


def copied(path: str) -> Optional[str]:
    """Copy the whole reports of a file that a worker still writes. Tells where to, if there are any and room."""
    try:
        with open(path, "rb") as file:
            _, size = _whole(file, 0)
            data = os.pread(file.fileno(), size, 0)
        with open(f"{path}-so-far", "wb") as copy:
            copy.write(data)
    except OSError:
        return None
    return f"{path}-so-far" if data else None


def _whole(file: IO[bytes], first: int) -> Tuple[int, int]:
    """Tell up to which call a file has whole reports, and how long they are."""
    reached, size = first, 0
    if not os.fstat(file.fileno()).st_size:
        return reached, size
    try:
        for end, header, _ in envelope.unpack_all(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))):
            reached, size = int(header["call"]) + 1, end
    except envelope.EnvelopeError:
        pass
    return reached, size
