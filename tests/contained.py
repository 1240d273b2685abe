"""Functions that tests run in real containers, whose image has Python and nothing else: only the stdlib and dokrun."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time

import dokrun as dok

remote = dok.remote(plan="v100-32gb")


class Refusal(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@remote
def add(a: int, b: int) -> int:
    return a + b


@remote
def double(data: bytes) -> bytes:
    return data + data


@remote
def whereabouts() -> tuple[str, int, str]:
    return sys.version.split()[0], os.getuid(), os.environ["SAKURA_ARTIFACT_DIR"]


@remote
def refuse(code: int) -> None:
    raise Refusal(code)


@remote
def talk() -> None:
    print("one")
    print("two", end="")
    print(" and three", file=sys.stderr)
    subprocess.run(["sh", "-c", "echo four"], check=True)
    print("five")


@remote
def exit_with(status: int) -> None:
    sys.exit(status)


@remote
def crash() -> None:
    ctypes.string_at(0)


@remote
def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@remote
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@remote
def keep_the_lock(seconds: int) -> None:
    """Sleep without letting go of the interpreter's lock, so that no other thread of the process runs."""
    ctypes.PyDLL(None).sleep(seconds)


@remote
def use_memory(size_bytes: int) -> int:
    return len(bytearray(os.urandom(1) * size_bytes))


@remote
def leave_files() -> None:
    folder = dok.artifact_dir()
    (folder / "deep").mkdir()
    (folder / "deep" / "model.bin").write_bytes(b"weights")
    (folder / "notes.txt").write_text("fine")
    (folder / "notes.txt").chmod(0o600)


@remote
def try_to_write() -> dict[str, bool]:
    """Tell in which folders a file can be made."""
    found = {}
    for folder in ("/usr", tempfile.gettempdir(), str(dok.artifact_dir())):
        try:
            with tempfile.TemporaryFile(dir=folder):
                found[folder] = True
        except OSError:
            found[folder] = False
    return found


@remote
def read(path: str) -> tuple[str, str | None]:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - it is sent as it stands, and needs no more imports
        return file.read(), os.environ.get("MADE")
