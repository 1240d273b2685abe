"""Functions that count their starts in a file and then do as they are told. They are sent, and need nothing else."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

import dokrun as dok

remote = dok.remote(plan="v100-32gb")


def begin(starts: Path) -> None:
    with starts.open("a") as file:
        file.write(dok.current().call_id + "\n")


def started(starts: Path) -> int:
    """Tell how often a function was started, by its own count."""
    return len(starts.read_text().splitlines()) if starts.exists() else 0


@remote
def answer(starts: Path, value: Any = 42, said: str = "") -> Any:
    begin(starts)
    print(said, flush=True)
    return value


@remote
def fail(starts: Path, said: str = "") -> None:
    """Say something, and end the worker, so that there is no value and the log is read."""
    begin(starts)
    print(said, flush=True)
    os._exit(3)


@remote
def vanish(starts: Path, said: str = "") -> None:
    """Let the whole container go, as the kernel does where its memory is used up."""
    begin(starts)
    print(said, flush=True)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


@remote
def stay(starts: Path, gate: Path) -> int:
    begin(starts)
    while not gate.exists():
        time.sleep(0.01)
    return 42


@remote
def overfill(starts: Path) -> bytes:
    """Return what the disk does not take."""
    begin(starts)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    return bytes(3 << 20)


@remote
def swell(starts: Path, number: int, large: int) -> Any:
    """Return a number; at one of them what the disk does not take."""
    begin(starts)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    return bytes(3 << 20) if number == large else number


@remote
def leave(starts: Path, size: int) -> int:
    """Leave a file of noise."""
    begin(starts)
    (dok.artifact_dir() / "noise").write_bytes(os.urandom(size))
    return 42


@remote
def newer(starts: Path) -> Any:
    """Return an object of a class that only the container's version of a library has."""
    begin(starts)
    module = types.ModuleType("newer_library")
    exec("class Thing:\n    size = 42\n", module.__dict__)
    module.Thing.__module__ = "newer_library"
    sys.modules["newer_library"] = module
    return module.Thing()


@remote
def opened(starts: Path, what: str, where: Path) -> Any:
    """Return what does something when it is opened: in the client, since here nothing is."""
    begin(starts)
    return Opened(what, where)


class Opened:
    """Does something when it is unpickled, and becomes 42."""

    def __init__(self, what: str, where: Path) -> None:
        self.what, self.where = what, where

    def __reduce__(self) -> Any:
        return open_it, (self.what, self.where)


def open_it(what: str, where: Path) -> Any:
    """Do what an object of `Opened` does."""
    if what == "touch":
        where.touch()
    if what == "die once" and not where.exists():
        where.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fill memory":
        return len(bytearray(3 << 30))
    if what == "wait":
        where.with_suffix(".waits").touch()
        while not where.exists():
            time.sleep(0.01)
    return 42


class Mute(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise TypeError("no text")


@remote
def mute(starts: Path) -> Any:
    begin(starts)
    return Raises()


class Raises:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return raise_mute, ()


def raise_mute() -> None:
    raise Mute


@remote
def hoard(starts: Path) -> int:
    """Want more memory than there may be."""
    begin(starts)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    return len(bytearray(16 << 30))


@remote
def talk(starts: Path, gate: Path) -> int:
    """Say something, and something else when the gate is there."""
    begin(starts)
    print("one", flush=True)
    while not gate.exists():
        time.sleep(0.01)
    print("two", flush=True)
    return 42


@remote
def vanish_once(starts: Path, said: str) -> int:
    """Let the first container go, and return what the second one finds in its checkpoint folder."""
    begin(starts)
    print(said, flush=True)
    if dok.current().attempt == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return len(list(dok.checkpoint_dir().iterdir()))


@remote
def size_of(starts: Path, value: Any) -> int:
    begin(starts)
    return len(value)


@remote
def pass_on(starts: Path, number: int, gate: Path | None = None) -> int:
    """Return a number; where there is a gate, when it is there."""
    begin(starts)
    while gate is not None and not gate.exists():
        time.sleep(0.01)
    return number


@remote
def halve(number: int) -> int:
    """Return the half of an even number."""
    if number % 2:
        raise ValueError(number)
    return number // 2


@remote
def meet(mine: Path, others: Path) -> str:
    """Stay until another call is there at the same time."""
    mine.touch()
    while not others.exists():
        time.sleep(0.01)
    return mine.name


@remote
def perish(starts: Path, number: int, deadly: int) -> int:
    """Return a number; one of them kills the process."""
    begin(starts)
    if number == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@remote
def lose(starts: Path, number: int, deadly: int, pace_s: float = 0.0, gate: Path | None = None) -> int:
    """Return a number after a time; at one of them the first container goes, when there is a gate if one is named."""
    begin(starts)
    time.sleep(pace_s)
    if number == deadly and dok.current().attempt == 1:
        while gate is not None and not gate.exists():
            time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return number
