"""What a function saves for its next attempt: a folder, kept in the bucket from time to time and brought back.

The folder is packed into one tar, which is put into one of two places by turns: while one is being written, the other
holds the last whole one. Each is announced with its digest in the log, which only this container writes, and in the
manifest; a later attempt is told the digest in its task definition and takes nothing else.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import os
import shutil
import tarfile
import threading
import time
from typing import Any, Dict, List, Optional, Tuple

from . import digests, fetch, output, protocol

# Saving takes at most this part of the time, however large the folder is.
LEAST_REST = 10

# Of each file: its name, its size, and when it was changed.
State = List[Tuple[str, int, int]]


class Checkpoints:
    """Saves a folder when it has changed: every so often, and once more at the end.

    Args:
        folder: what is saved.
        aside: a folder for the archive.
        addresses: where it is put, by turns; empty where there is no next attempt to save it for.
        every_s: how often it is looked at, in seconds.
        word: what the supervisor's lines in the log bear.
    """

    def __init__(self, folder: str, aside: str, addresses: List[str], every_s: float, word: str) -> None:
        self._folder = folder
        self._archive = os.path.join(aside, "checkpoint.tar")
        self._addresses = addresses
        self._every_s = every_s
        self._word = word
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._saved: State = []
        self._count = 0
        # What the manifest tells of the last one.
        self.last: Optional[Dict[str, Any]] = None

    def start(self) -> None:
        """Begin to save every so often, in a thread."""
        if self._addresses:
            self._saved = state_of(self._folder)
            threading.Thread(target=self._run, daemon=True).start()

    def finish(self) -> None:
        """Save what has changed since the last time. Nothing writes to the folder any more."""
        self._ended.set()
        if self._addresses:
            self._save(state_of(self._folder))

    def _run(self) -> None:
        pause_s = self._every_s
        while not self._ended.wait(pause_s):
            before, started = state_of(self._folder), time.monotonic()
            self._save(before)
            pause_s = max(self._every_s, LEAST_REST * (time.monotonic() - started))

    def _save(self, now: State) -> None:
        """Save the folder, unless it is as it was. What is being written meanwhile waits for the next time."""
        with self._lock:
            if now == self._saved:
                return
            try:
                sha256, size = pack(self._folder, self._archive)
                if state_of(self._folder) != now:
                    return
                slot = self._count % len(self._addresses)
                fetch.send_file(self._addresses[slot], self._archive, size, "application/x-tar")
            except (OSError, tarfile.TarError) as error:
                output.say(f"[dokrun] a checkpoint could not be saved: {_shown(error)}")
                return
            self._saved, self._count = now, self._count + 1
            self.last = {"slot": slot, "sha256": sha256, "size": size}
            output.say(protocol.CHECKPOINT.format(self._word, slot, sha256, size))


def state_of(folder: str) -> State:
    """Tell what files there are, and how they are; the same again means that nothing was written meanwhile."""
    found: State = []
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            try:
                told = os.lstat(path)
            except OSError:  # it has just been renamed
                continue
            found.append((os.path.relpath(path, folder), told.st_size, told.st_mtime_ns))
    return sorted(found)


def pack(folder: str, archive: str) -> Tuple[str, int]:
    """Write the regular files of a folder into a tar. Returns its digest and its size in bytes."""
    with tarfile.open(archive, "w") as packed:
        for name, _, _ in state_of(folder):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                packed.add(path, arcname=name, recursive=False)
    return digests.of_file(archive)


def restore(address: str, sha256: str, size: int, folder: str, aside: str) -> None:
    """Bring a former attempt's folder back.

    Raises:
        OSError: it cannot be had, or is not what the task definition says.
    """
    archive = os.path.join(aside, "restored.tar")
    fetch.fetch(address, archive, sha256, size)
    with tarfile.open(archive) as packed:
        for member in packed:
            path = os.path.normpath(os.path.join(folder, member.name))
            content = packed.extractfile(member) if member.isreg() else None
            if content is None or not path.startswith(folder + os.sep):
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                shutil.copyfileobj(content, file, fetch.CHUNK)
            os.chmod(path, (member.mode & 0o777) | 0o600)
    os.unlink(archive)


def _shown(error: Exception) -> str:
    return str(error).partition("?")[0]
