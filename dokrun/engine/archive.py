"""Read an artifact's tar.gz: dokrun's own files, what else is there, and the user's files when they are asked for.

The archive comes from a container, where anybody's code ran: only regular files are taken, by checked names, no more of
them than a limit, into a folder that is new.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from dokrun.future import ArtifactFile
from dokrun.shim import protocol

# Where in the archive the artifact folder's content may begin; the service does not say.
_ROOTS = ("", "artifact/", "opt/artifact/")
_OWN = re.compile(
    rf"{re.escape(protocol.MANIFEST)}|{re.escape(protocol.VALUES_DIR)}/[0-9a-f]{{32}}"
    rf"|{re.escape(protocol.BLOBS_DIR)}/[0-9a-f]{{64}}"
)
_MOST_MEMBERS = 1_000_000
_MOST_BYTES = 64 * 2**30


class ArchiveError(Exception):
    """The archive is broken, or is not one that our container would make."""


@dataclass(frozen=True)
class Content:
    """What an archive holds beside dokrun's own files, and where in it the artifact folder begins."""

    root: str
    files: Sequence[ArtifactFile]


def extract_own(archive: Path, folder: Path) -> Content:
    """Write dokrun's own files from an archive below `folder`, and tell which other regular files it holds.

    Links, devices and whatever else lies in it are passed over; of a million files and more, a million are told.

    Raises:
        ArchiveError: it is cut or broken, holds one of our names twice, or holds too much.
    """
    root = ""
    count = total = 0
    others: dict[str, int] = {}
    with _members(archive) as members:
        for name, size, read in members:
            own = next((r for r in _ROOTS if name.startswith(r) and _OWN.fullmatch(name[len(r) :])), None)
            if own is None:
                if len(others) < _MOST_MEMBERS:
                    others[name] = size
                continue
            root, count, total = own, count + 1, total + size
            if count > _MOST_MEMBERS or total > _MOST_BYTES:
                raise ArchiveError(f"more than {_MOST_MEMBERS} results, or {_MOST_BYTES} bytes of them")
            _write(folder / name[len(own) :], read())
    users = [(name[len(root) :], size) for name, size in others.items() if name.startswith(root)]
    theirs = [(name, size) for name, size in sorted(users) if not name.startswith(f"{protocol.OWN_DIR}/")]
    return Content(root, [ArtifactFile(name, size) for name, size in theirs])


def extract_files(archive: Path, root: str, folder: Path, names: set[str]) -> None:
    """Write some of the user's files, by their names in the artifact folder, below `folder`, which is new.

    Raises:
        ArchiveError: it is cut or broken, does not hold them, or holds too much.
    """
    missing = set(names)
    total = 0
    with _members(archive) as members:
        for name, size, read in members:
            found = name[len(root) :]
            if name.startswith(root) and found in missing:
                missing.remove(found)
                total += size
                if total > _MOST_BYTES:
                    raise ArchiveError(f"more than {_MOST_BYTES} bytes")
                _write(folder / found, read())
    if missing:
        raise ArchiveError(f"{min(missing)!r} is not in it")


Member = tuple[str, int, Callable[[], IO[bytes]]]


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    try:
        with tarfile.open(archive, "r|gz") as opened:
            yield _regular(opened)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ArchiveError(str(error) or type(error).__name__) from error


def _regular(opened: tarfile.TarFile) -> Iterator[Member]:
    """Yield each regular file's name, its size in bytes, and how to read it while it is its turn."""
    for member in opened:
        path = PurePosixPath(member.name)
        if not member.isreg() or path.is_absolute() or ".." in path.parts or "\0" in member.name:
            continue

        def read(member: tarfile.TarInfo = member) -> IO[bytes]:
            source = opened.extractfile(member)
            assert source is not None  # noqa: S101 - regular files have content
            return source

        yield path.as_posix(), member.size, read  # without a leading "./"


def _write(path: Path, source: IO[bytes]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
