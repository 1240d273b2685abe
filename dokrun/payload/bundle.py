"""Make of the user's files what travels: small ones as one compressed bundle, large ones as segments of their own.

The same files make the same bytes, so what is unchanged has the digest it had, and is not sent again.
"""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from dokrun.errors import OptionError, SourceTooLarge
from dokrun.payload.source import SourceFile
from dokrun.shim.envelope import Segment, pack, segment_of
from dokrun.shim.protocol import BLOB_SIZE

LIMIT_BYTES = 25 << 20
# From this size on a bundle is kept in the bucket by its content; a smaller one is sooner sent than looked for.
OBJECT_BYTES = 32 << 10
_NAMED = 5
# A file is worth naming from this share of them all on.
_MATTERS = 0.01


@dataclass(frozen=True)
class Bundle:
    """The segments of some files, and what the payload's header says of them.

    `objects` are the numbers of those segments that are better kept by their content than sent with each call.
    """

    segments: tuple[Segment, ...]
    objects: frozenset[int]
    files: tuple[SourceFile, ...]

    def entries(self, first: int) -> list[dict[str, Any]]:
        """Say which segment is what, where they are numbered from `first` on."""
        bundles = len(self.segments) - len(self.files)
        return [
            *({"bundle": first + number} for number in range(bundles)),
            *(_entry(file, first + number) for number, file in enumerate(self.files, bundles)),
        ]


def bundle(files: Sequence[SourceFile]) -> Bundle:
    """Read the files, unless they are those of a call before, unchanged, and make their segments.

    Raises:
        SourceTooLarge: they are more than what goes along.
        OptionError: one of them cannot be read.
    """
    check_size(files)
    return _bundled(tuple(files))


def check_size(files: Sequence[SourceFile]) -> None:
    """Refuse files that are too much to be sent along.

    Raises:
        SourceTooLarge: names the largest of them, or the folders that hold most where all of them are small.
    """
    total = sum(file.size for file in files)
    if total <= LIMIT_BYTES:
        return
    largest = _largest(files, total)
    names = ", ".join(f"{name} ({size_text(size)})" for name, size in largest)
    raise SourceTooLarge(
        f"your files that would go along are {size_text(total)}, and {LIMIT_BYTES >> 20} MiB may; the largest are "
        f'{names}. Write exclude=["{largest[0][0]}", …] for what the function does not need; put data into object '
        "storage or the image"
    )


def size_text(size: int) -> str:
    """Tell a number of bytes in a fitting unit: `12 B`, `3.4 KiB`, `5.6 MiB`."""
    if size >= 1 << 20:
        return f"{size / 2**20:,.1f} MiB"
    return f"{size / 1024:,.1f} KiB" if size >= 1 << 10 else f"{size} B"


def _largest(files: Sequence[SourceFile], total: int) -> list[tuple[str, int]]:
    sizes = Counter({file.name: file.size for file in files if file.size >= total * _MATTERS})
    if not sizes:
        for file in files:
            folder = str(PurePosixPath(file.name).parent)
            sizes[file.name if folder == "." else f"{folder}/"] += file.size
    return sizes.most_common(_NAMED)


# Few: each may hold as much as goes along.
@functools.lru_cache(maxsize=4)
def _bundled(files: tuple[SourceFile, ...]) -> Bundle:
    small = [file for file in files if file.size < BLOB_SIZE]
    large = tuple(file for file in files if file.size >= BLOB_SIZE)
    segments = [segment_of(_read(file)) for file in large]
    if small:
        header = {"files": [_entry(file, number) for number, file in enumerate(small)]}
        packed = zlib.compress(pack(header, [segment_of(_read(file)) for file in small]))
        segments.insert(0, segment_of(packed))
    objects = frozenset(number for number, segment in enumerate(segments) if segment.size >= OBJECT_BYTES)
    return Bundle(tuple(segments), objects, large)


def _entry(file: SourceFile, segment: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": file.name, "segment": segment}
    return {**entry, "executable": True} if file.executable else entry


def _read(file: SourceFile) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise OptionError(
            f'{file.name} goes along and cannot be read ({error.strerror}); write exclude=["{file.name}"] if the '
            "function does not need it"
        ) from error
