"""Write the user's source files where the worker will import them from.

The payload's header names them: `{"path": …, "segment": 3, "executable": false}` is a file of its own, `{"bundle": 4}`
is an envelope, compressed by zlib, whose header has such a list of its own under `files`.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import os
import zlib
from typing import Any, Dict, Iterator, List, Tuple

from . import envelope

# The client sends no more than 25 MiB of source; whatever unfolds to much more is not its bundle.
LARGEST_BUNDLE = 64 << 20


def lay_out(source: List[Dict[str, Any]], segments: List[envelope.Segment], folder: str) -> List[str]:
    """Write the files that the header lists to `folder`/source; what was fetched lies in `folder`/blobs.

    Returns:
        Those that were there before, and were others.

    Raises:
        EnvelopeError: a file would lie outside of the folder, or a bundle is broken.
    """
    root, changed = os.path.join(folder, "source"), []
    os.makedirs(root, exist_ok=True)
    for entry, data in _files(source, segments, folder):
        if _write(root, entry, data):
            changed.append(str(entry["path"]))
    return changed


def _files(
    source: List[Dict[str, Any]], segments: List[envelope.Segment], folder: str
) -> Iterator[Tuple[Dict[str, Any], envelope.Buffer]]:
    for entry in source:
        if "bundle" in entry:
            header, files = envelope.unpack(_unfolded(_bytes(segments[entry["bundle"]], folder)))
            for inner in header["files"]:
                yield inner, _bytes(files[inner["segment"]], folder)
        else:
            yield entry, _bytes(segments[entry["segment"]], folder)


def lay_out_given(segments: List[envelope.Segment], folder: str) -> None:
    """Write what calls are given, and came with the payload, to where the rest of it was fetched to."""
    for segment in segments:
        if segment.data is not None:
            with open(os.path.join(folder, segment.sha256), "wb") as file:
                file.write(segment.data)


def _bytes(segment: envelope.Segment, folder: str) -> envelope.Buffer:
    if segment.data is not None:
        return segment.data
    with open(os.path.join(folder, "blobs", segment.sha256), "rb") as file:
        return file.read()


def _unfolded(data: envelope.Buffer) -> bytes:
    unfolding = zlib.decompressobj()
    whole = unfolding.decompress(data, LARGEST_BUNDLE)
    if not unfolding.eof:
        raise envelope.EnvelopeError("the bundle of source files is cut, or too large")
    return whole


def _write(root: str, entry: Dict[str, Any], data: envelope.Buffer) -> bool:
    """Write a file. Tells whether another was in its place."""
    path = os.path.normpath(os.path.join(root, entry["path"]))
    if not path.startswith(root + os.sep):
        raise envelope.EnvelopeError(f"a source file lies outside of its folder: {entry['path']}")
    there = os.path.lexists(path)
    if there:
        with open(path, "rb") as file:
            if file.read() == data:
                return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    mode = 0o700 if entry.get("executable") else 0o600
    aside = f"{path}.{os.getpid()}.part"
    with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
        file.write(data)
    os.replace(aside, path)
    return there
