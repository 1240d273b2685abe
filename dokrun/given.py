"""What calls are given and travels once, however many of them are given it: `dok.put(value)`, and `dok.File(path)`.

Both go to the bucket by their content. In a call's pickle there is only what leads to them; in the container that finds
the value, unpickled once in each worker, or the file. Standard library only: this file is there too.
"""

from __future__ import annotations

import functools
import mmap
import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dokrun.errors import OptionError
from dokrun.shim import protocol
from dokrun.shim.digests import of_file


class Piece(NamedTuple):
    """Some bytes that lie in the bucket under their digest."""

    sha256: str
    size: int


class Put:
    """A value that lies in the bucket: `dok.put` makes it, and a function that is given it is given the value.

    It may be stored as a pickle, and given to calls for as long as the bucket keeps the value.
    """

    def __init__(
        self, pieces: Sequence[Piece], kind: str, modules: Sequence[str] = (), beside: Sequence[Piece] = ()
    ) -> None:
        self.pieces = tuple(pieces)
        # What it is itself given.
        self.beside = tuple(beside)
        # What its pickle refers to.
        self.modules = tuple(modules)
        self._kind = kind

    def __repr__(self) -> str:
        """Tell the value's type and size."""
        return f"<dokrun.put {self._kind}, {sum(piece.size for piece in self.pieces):,} bytes>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Put) and self.pieces == other.pieces

    def __hash__(self) -> int:
        return hash(self.pieces)

    def __reduce__(self) -> Any:
        return Put, (self.pieces, self._kind, self.modules, self.beside)


class File:
    """A file of this machine that a call is given: in the container it is a path to the same bytes, read-only.

    It is sent when a call is made with it, unless the bucket has its content already. The function gets a
    `pathlib.Path` that ends in the file's own name.

    Raises:
        OptionError: there is no such file.

    Examples:
        >>> from pathlib import Path
        >>> @dok.remote(plan="v100-32gb")
        ... def words(text: Path) -> int:
        ...     return len(text.read_text().split())
        >>> path = Path("poem.txt")
        >>> _ = path.write_text("The woods are lovely, dark and deep")
        >>> words(dok.File(path)).result()
        7
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        if not self.path.is_file():
            raise OptionError(f"there is no file {str(path)!r}")

    def piece(self) -> Piece:
        """Tell its digest and size. Raises OSError."""
        told = self.path.stat()
        return _piece(str(self.path), told.st_mtime_ns, told.st_size)

    def data(self) -> memoryview:
        """Map its bytes. Raises OSError."""
        with self.path.open("rb") as file:
            if not self.path.stat().st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        """Tell the path."""
        return f"dok.File({str(self.path)!r})"

    def __reduce__(self) -> Any:
        return File, (str(self.path),)


@functools.lru_cache(maxsize=4096)
def _piece(path: str, _changed_ns: int, _size: int) -> Piece:
    return Piece(*of_file(path))


# In the container.


# Values that many calls are given are few; each of many others may be large, and is needed once.
@functools.lru_cache(maxsize=16)
def value_of(*digests: str) -> Any:
    """Tell a value that was put: its pickle, and its buffers. The same object for one call and the next in a worker."""
    pickled, *buffers = map(_found, digests)
    return pickle.loads(pickled, buffers=buffers)  # noqa: S301 - the supervisor has verified the digests


@functools.cache
def path_of(sha256: str, name: str) -> Path:
    """Tell where a file lies, under its own name."""
    there = Path(os.environ[protocol.GIVEN_DIR], sha256)
    path = there.with_name(sha256 + protocol.NAMED) / name
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f".{os.getpid()}")
    try:
        os.link(there, aside)
    except OSError:  # the file system knows no links
        shutil.copyfile(there, aside)
    aside.chmod(0o444)
    aside.replace(path)
    return path


def _found(sha256: str) -> memoryview:
    """Map the bytes of a digest privately, so that arrays in them are writable."""
    with Path(os.environ[protocol.GIVEN_DIR], sha256).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
