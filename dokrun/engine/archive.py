"""Take dokrun's own files out of an artifact's tar.gz: regular files, expected names, no more than a limit."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from dokrun.shim import protocol

# Where in the archive the artifact folder's content may begin; the service does not say.
_ROOTS = ("", "artifact/", "opt/artifact/")
_EXPECTED = re.compile(
    rf"{re.escape(protocol.MANIFEST)}|{re.escape(protocol.VALUES_DIR)}/[0-9a-f]{{32}}"
    rf"|{re.escape(protocol.BLOBS_DIR)}/[0-9a-f]{{64}}"
)
_MOST_MEMBERS = 1_000_000
_MOST_BYTES = 64 * 2**30


class ArchiveError(Exception):
    """The archive is broken, or is not one that our container would make."""


def extract(archive: Path, folder: Path) -> None:
    """Write dokrun's own files from an archive below `folder`, by their names in the artifact folder.

    Everything else is passed over: the user's files, links, devices, whatever lies elsewhere.

    Raises:
        ArchiveError: it is cut or broken, holds a name twice, or holds too much.
    """
    count = written = 0
    try:
        with tarfile.open(archive, "r|gz") as members:
            for member in members:
                name = _expected_name(member)
                if name is None:
                    continue
                count += 1
                written += member.size
                if count > _MOST_MEMBERS:
                    raise ArchiveError(f"more than {_MOST_MEMBERS} members")
                if written > _MOST_BYTES:
                    raise ArchiveError(f"more than {_MOST_BYTES} bytes")
                source = members.extractfile(member)
                if source is not None:
                    _write(folder / name, source)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ArchiveError(str(error) or type(error).__name__) from error


def _expected_name(member: tarfile.TarInfo) -> str | None:
    if not member.isreg():
        return None
    path = PurePosixPath(member.name).as_posix()  # without a leading "./"
    for root in _ROOTS:
        name = path[len(root) :]
        if path.startswith(root) and _EXPECTED.fullmatch(name):
            return name
    return None


def _write(path: Path, source: IO[bytes]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
