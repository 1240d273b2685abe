"""What stands in a task's command: it brings the shim, compares its digest, and starts it.

It comes as text, so it is short, and asks for little. The archive's digest stands in the task definition, which only
the client writes; its bytes are run only if they match it, wherever they came from. The first worker's interpreter
starts meanwhile.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

from __future__ import annotations

import sys

# No file of the folder that it is started in shall stand for a module.
sys.path[:] = [folder for folder in sys.path if folder]

import os  # noqa: E402

# What a worker is at first, while there is no shim yet: it loads what it will need of Python's own, which takes longer
# than the shim itself. Then it is told where the archive lies.
WAITING = """\
import sys
sys.path[:]=[p for p in sys.path if p]
import base64,bisect,dataclasses,faulthandler,fcntl,hashlib,inspect,io,itertools,json,logging,mmap,os
import pickle,platform,select,signal,struct,traceback,typing,uuid,weakref,zipimport,zlib
ends=[*map(int,sys.argv[1:])]
archive=io.FileIO(ends[0],closefd=False).readline()
if archive:
 del sys.argv[1:]
 sys.path.insert(0,os.fsdecode(archive[:-1]))
 from dokrun_shim import worker
 sys.exit(worker.main(*ends))
"""
LARGEST = 1 << 22


def spawn(hidden: tuple[str, ...]) -> tuple[int, int, int, int]:
    """Start a worker's interpreter: its number, and the ends of its pipes: for commands, for answers, and its lifeline.

    Not with `subprocess`, which takes as long to load as the interpreter to start. `hidden` are variables of the
    environment that are no business of the user's code.
    """
    commands, told = os.pipe()
    answered, answers = os.pipe()
    # Nothing is written to it; see `lifeline`.
    lifeline, held = os.pipe()
    ends = commands, answers, lifeline
    # Copies, that no other child inherits: each has another number than what it is a copy of.
    copies = range(max(ends) + 1, max(ends) + 1 + len(ends))
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-u", "-c", WAITING, *map(str, copies)],
        {name: value for name, value in os.environ.items() if name not in hidden},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            # Through one pipe, so that what a function prints stays in order; the service joins both anyway.
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_DUP2, end, copy) for end, copy in zip(ends, copies)),  # noqa: B905 - Python 3.9
        ],
    )
    for end in ends:
        os.close(end)
    return pid, told, answered, held


def run(hidden: tuple[str, ...], baked: str, elsewhere: str, patience_s: float) -> None:
    """Bring the shim and run it; the arguments of the program are `protocol`'s.

    Args:
        hidden: see `spawn`.
        baked: where an image may have the archive.
        elsewhere: what stands in place of a shim that the command does not carry.
        patience_s: how long one try to fetch it may take, in seconds.
    """
    spawned = spawn(hidden)
    import base64
    import hashlib
    import tempfile

    sha256, carried = sys.argv[1:3]
    data = read(baked)
    if hashlib.sha256(data).hexdigest() != sha256:
        data = unpacked(fetched(patience_s) if carried == elsewhere else base64.b64decode(carried))
    if hashlib.sha256(data).hexdigest() != sha256:
        sys.exit("dokrun: the shim does not match its digest; nothing was run")
    with tempfile.TemporaryDirectory(prefix="dokrun-") as folder:
        path = os.path.join(folder, "shim.pyz")
        with open(path, "wb") as file:
            file.write(data)
        sys.path.insert(0, path)
        from dokrun_shim.__main__ import main  # type: ignore[import-not-found]  # as this package is called there

        status = main(sys.argv[3:], spawned)
    sys.exit(status)


def read(path: str) -> bytes:
    """Tell what a file holds, if it is there."""
    try:
        with open(path, "rb") as file:
            return file.read(LARGEST)
    except OSError:
        return b""


def unpacked(data: bytes) -> bytes:
    """Unpack what has travelled, unless it is something else."""
    import zlib

    try:
        return zlib.decompressobj().decompress(data, LARGEST)
    except zlib.error:
        return b""


def fetched(patience_s: float) -> bytes:
    """Fetch the shim, or end this process."""
    import time

    for pause_s in (1, 2, 4, 8, 0):
        try:
            return fetched_once(patience_s)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is told, or tried again
            code = getattr(error, "code", 500)
            if not pause_s or (code // 100 == 4 and code not in (408, 429)):  # noqa: PLR2004
                sys.exit(f"dokrun: the shim could not be fetched: {getattr(error, 'reason', error)}")
            time.sleep(pause_s)
    return b""


def fetched_once(patience_s: float) -> bytes:
    """Try once to fetch it. Raises OSError."""
    import json
    import time
    from urllib.request import urlopen

    until, data = time.monotonic() + patience_s, b""
    with urlopen(json.loads(sys.argv[4])["shim"], timeout=patience_s) as answer:
        told = answer.length
        most = min(told or LARGEST, LARGEST)
        while len(data) < most:
            part = answer.read1(most - len(data))
            if (not part and told) or time.monotonic() > until:
                raise OSError("it was cut, or came too slowly")
            if not part:
                break
            data += part
    return data
