"""Read an artifact's tar.gz: dokrun's own files, what else is there, and the user's files when they are asked for.

The archive comes from a container, where anybody's code ran: only regular files are written, by checked names, no more
than a limit, into a folder that is new. A link to one of them becomes a second name of what was written; links to
folders are made last, when nothing more is written that could go through them.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dokrun.engine.members import Content, Members, safe_name
from dokrun.shim import protocol

if TYPE_CHECKING:
    from typing_extensions import Self

# Where in the archive the artifact folder's content may begin; the service does not say.
_ROOTS = ("", "artifact/", "opt/artifact/")
_OWN = re.compile(rf"{re.escape(protocol.MANIFEST)}|{re.escape(protocol.REPORTS_DIR)}/[a-z0-9-]{{1,40}}")
_MOST_RESULTS = 1_000_000
_MOST_MEMBERS = 4_000_000
_MOST_BYTES = 64 * 2**30
# How much is read at a time; tarfile's own 10 KiB take longer.
_READ_BYTES = 256 << 10
# tarfile holds all that belongs to one header in memory: long names, attributes, where the holes of a file are.
_LONGEST_HEADER_BYTES = 256 << 10
# What a header says of all members after it is kept to the end.
_MOST_GLOBAL_FIELDS = 1000


class ArchiveError(Exception):
    """The archive is broken, or is not one that our container would make."""


class Pieces(io.RawIOBase):
    """What comes piece by piece, to be read as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = memoryview(b"")

    def readable(self) -> bool:
        """It is for nothing else."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what came next, as much as there is room for; nothing at the end."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._held = memoryview(piece)
        count = min(len(buffer), len(self._held))
        buffer[:count], self._held = self._held[:count], self._held[count:]
        return count


def extract_own(archive: IO[bytes], folder: Path) -> Content:
    """Write dokrun's own files from an archive below `folder`, which is new, and tell what else there is.

    Raises:
        ArchiveError: it is cut or broken, holds one of our names twice, or holds too much.
        OSError: this machine could not write them.
    """
    root, total = "", 0
    written: set[str] = set()
    others = Members()
    with _opened(archive) as opened:
        for member in _each(opened):
            name = safe_name(member.name) or ""
            own = next((r for r in _ROOTS if name.startswith(r) and _OWN.fullmatch(name[len(r) :])), None)
            if own is None or not member.isreg():
                others.add(member)
                continue
            root, name, total = own, name[len(own) :], total + member.size
            if name in written:
                raise ArchiveError(f"it holds {name!r} twice")
            written.add(name)
            if len(written) > _MOST_RESULTS:
                raise ArchiveError(f"more than {_MOST_RESULTS} results")
            _check_total(total)
            _write(folder / name, _read(opened, member), 0o600)
    return others.content(root)


def extract_files(archive: IO[bytes], content: Content, folder: Path, names: set[str]) -> None:
    """Write some of the user's files, by their names in the artifact folder, below `folder`, which is new.

    They keep the permissions that they had, less what this process's umask takes away. Links to folders are made where
    all files are asked for.

    Raises:
        ArchiveError: it is cut or broken, does not hold them, or holds too much.
        OSError: this machine could not write them.
    """
    missing: dict[str, list[str]] = {}
    for name in sorted(names):
        missing.setdefault(content.links.get(name, name), []).append(name)
    total = 0
    with _opened(archive) as opened:
        for member in _each(opened):
            name = safe_name(member.name) or ""
            found = name[len(content.root) :]
            if not member.isreg() or not name.startswith(content.root) or found not in missing:
                continue
            first, *others = (folder / wanted for wanted in missing.pop(found))
            mode = member.mode & 0o777 | 0o600
            _check_total(total := total + member.size)
            _write(first, _read(opened, member), mode)
            for other in others:
                if not _link(first, other):
                    _check_total(total := total + member.size)
                    with first.open("rb") as source:
                        _write(other, source, mode)
    if missing:
        raise ArchiveError(f"{min(missing)!r} is not in it")
    if len(names) == len(content.files):
        _link_folders(content, folder)


class _Header(tarfile.TarInfo):
    """A member whose header, with all that belongs to it, is short and whole."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """Read the next header; where several make up one, this is called for each of them, by the one before."""
        whole: Any = tarfile.fileobj
        if isinstance(whole, _Short):
            return super().fromtarfile(tarfile)
        tarfile.fileobj = _Short(whole)  # type: ignore[assignment] # it has what a header needs
        try:
            return super().fromtarfile(tarfile)
        except _BROKEN as error:
            # It would be taken for the archive's end, unless it is at its beginning.
            raise ArchiveError(str(error)) from error
        finally:
            tarfile.fileobj = whole


_BROKEN = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined] # typeshed lacks them


class _Short:
    """Reads no more from a file than a header may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _LONGEST_HEADER_BYTES

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise ArchiveError(f"a member's header is longer than {_LONGEST_HEADER_BYTES} bytes")
        return self._file.read(size)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def _opened(archive: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """Read an archive once, from its beginning to its end; an OSError is this machine's, and never the archive's."""
    try:
        # tarfile's own way to read gzip would look neither for its end nor at its checksum.
        with (
            gzip.open(archive) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|", tarinfo=_Header, bufsize=_READ_BYTES) as opened,
        ):
            yield opened
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise ArchiveError(str(error) or type(error).__name__) from error
    except RecursionError as error:
        raise ArchiveError("one of its headers has too many parts") from error


def _each(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    count = 0
    while (member := opened.next()) is not None:
        # It would remember all of them, however many there are.
        opened.members.clear()  # type: ignore[attr-defined] # typeshed lacks it
        _check_total(member.offset)
        if (count := count + 1) > _MOST_MEMBERS or len(opened.pax_headers) > _MOST_GLOBAL_FIELDS:
            raise ArchiveError(f"more than {_MOST_MEMBERS} members, or {_MOST_GLOBAL_FIELDS} fields for all of them")
        yield member
    _read_to_end(opened)


def _read_to_end(opened: tarfile.TarFile) -> None:
    """See that the archive is whole: its checksum is behind the padding."""
    padding = 0
    while chunk := opened.fileobj.read(_READ_BYTES):
        _check_total(padding := padding + len(chunk))
        if chunk.strip(b"\0"):
            raise ArchiveError("something follows its end")


def _check_total(size_bytes: int) -> None:
    if size_bytes > _MOST_BYTES:
        raise ArchiveError(f"more than {_MOST_BYTES} bytes")


def _read(opened: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    source = opened.extractfile(member)
    assert source is not None  # noqa: S101 - regular files have content
    return source


def _write(path: Path, source: IO[bytes], mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        shutil.copyfileobj(source, file, _READ_BYTES)


def _link(first: Path, other: Path) -> bool:
    """Give a file that was just written a second name. Tells whether there is one now; not every disk can do so."""
    other.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(first, other)
    except OSError:
        return False
    return True


def _link_folders(content: Content, folder: Path) -> None:
    """Make the links to folders. No folder on the way from a link to its end is a link, so none of them leads out."""
    for name, target in content.folder_links.items():
        path = folder / name
        (folder / target).mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(folder / target, path.parent), target_is_directory=True)
