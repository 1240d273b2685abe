"""What stands in a task's command: it brings the shim, compares its digest, and starts it.

It comes as text, so it is short, and asks for little. The archive's digest stands in the task definition, which only
the client writes; its bytes are run only if they match it, wherever they came from. Meanwhile the first worker loads
what it will need.

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


def pipes() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Make the pipes of a worker: for commands, for answers, and its lifeline. Tells its ends, and ours."""
    commands, told = os.pipe()
    answered, answers = os.pipe()
    # Nothing is written to it; see `lifeline`.
    lifeline, held = os.pipe()
    return (commands, answers, lifeline), (told, answered, held)


def spawn(hidden: tuple[str, ...]) -> tuple[int, int, int, int]:
    """Start a worker's interpreter. Tells its number, and our ends of its pipes.

    Not with `subprocess`, which takes as long to load as the interpreter to start. `hidden` are variables of the
    environment that are no business of the user's code.
    """
    ends, ours = pipes()
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
    return (pid, *ours)


def fork(hidden: tuple[str, ...]) -> tuple[int, int, int, int]:
    """Make the first worker of this process, which is an interpreter already and has no other thread yet; as `spawn`.

    Only on Linux: what macOS has of its own does not work in a process that was not started anew.
    """
    if sys.platform != "linux":
        return spawn(hidden)
    ends, ours = pipes()
    pid = os.fork()
    for end in ends if pid else ours:
        os.close(end)
    if pid:
        return (pid, *ours)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null:  # unless it was closed, and has become that
        os.close(null)
    os.dup2(1, 2)
    for name in hidden:
        os.environ.pop(name, None)
    # It is to look like one that was started anew, also to what the user's code may look at.
    sys.argv[1:] = map(str, ends)
    del getattr(sys, "orig_argv", [])[1:]  # which Python 3.9 does not have
    main = sys.modules["__main__"] = type(sys)("__main__")
    exec(WAITING, vars(main))  # noqa: S102 - as it stands above
    sys.exit()


def run(spawned: tuple[int, int, int, int], baked: str, elsewhere: str, patience_s: float) -> None:
    """Bring the shim and run it; the arguments of the program are `protocol`'s.

    Args:
        spawned: the first worker; see `spawn`.
        baked: where an image may have the archive.
        elsewhere: what stands in place of a shim that the command does not carry.
        patience_s: how long one try to fetch it may take, in seconds.
    """
    import base64
    import hashlib

    sha256, carried = sys.argv[1:3]
    data = read(baked)
    if hashlib.sha256(data).hexdigest() != sha256:
        data = unpacked(fetched(patience_s) if carried == elsewhere else base64.b64decode(carried))
    if hashlib.sha256(data).hexdigest() != sha256:
        sys.exit("dokrun: the shim does not match its digest; nothing was run")
    folder = make_folder()
    path = os.path.join(folder, "shim.pyz")
    try:
        with open(path, "wb") as file:
            file.write(data)
        sys.path.insert(0, path)
        from dokrun_shim.__main__ import main  # type: ignore[import-not-found]  # as this package is called there

        status = main(sys.argv[3:], spawned)
    finally:
        remove_folder(folder)
    # All is told, and what an interpreter does at its end takes a while.
    os._exit(status)


def make_folder() -> str:
    """Make a folder for this process alone, as `tempfile` does, which takes as long to load as an interpreter to start.

    Raises:
        OSError: there is no place for one.
    """
    for place in (os.environ.get("TMPDIR") or "/tmp", "/tmp", "/var/tmp", "."):  # noqa: S108
        folder = os.path.join(os.path.abspath(place), f"dokrun-{os.urandom(8).hex()}")
        try:
            os.mkdir(folder, 0o700)
        except OSError as error:
            trouble = error
        else:
            return folder
    raise trouble


def remove_folder(path: str) -> None:
    """Remove a folder with all that is in it, as far as that can be removed."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_folder(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(path)
    except OSError:
        pass  # what a function has left there may not be ours


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
    import json
    import time

    for pause_s in (1, 2, 4, 8, 0):
        try:
            return fetched_once(json.loads(sys.argv[4])["shim"], patience_s)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is told, or tried again
            status = getattr(error, "status", 500)
            if not pause_s or (status // 100 == 4 and status not in (408, 429)):  # noqa: PLR2004
                sys.exit(f"dokrun: the shim could not be fetched: {error}")
            time.sleep(pause_s)
    return b""


def fetched_once(url: str, patience_s: float) -> bytes:
    """Try once to fetch it. Raises OSError."""
    with ask(url, patience_s) as answer:
        return bytes(answer.whole(LARGEST))


# In the command, that module's text and `reply`'s stand in place of this line, and before it the first worker starts.
from .web import ask  # noqa: E402
