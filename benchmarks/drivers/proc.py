"""What Linux tells of processes, memory and the network; elsewhere nothing of it is known.

    python proc.py PID

Watches a process and its children until its own standard input ends, and prints the most MiB that they held.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_LOOK_EVERY_S = 0.05
# A look takes milliseconds of a processor that the measured ones need: not more than this part of its time.
_PART = 0.03
_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of all grandchildren whose own parent ends, so that they are counted and ended, too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children() -> None:
    """End at once whatever this process has started, and what that has."""
    for pid in family(os.getpid())[1:]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def family(pid: int) -> list[int]:
    """Tell a process and all that it has started and that still run, the eldest first."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if sys.platform == "linux" else ():  # noqa: PTH208 - no time for paths, twenty times a second
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - the same
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue  # it has ended
            children.setdefault(parent, []).append(int(name))
    found = [pid]
    for one in found:
        found += children.get(one, ())
    return found


class Watching:
    """Watches this process and its children from a process of its own, which takes none of this one's time."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it looks by now

    def most_mib(self) -> float | None:
        """End it, and tell the most MiB that they held at once; each shared page counts once."""
        told, _ = self._process.communicate()
        return float(told) or None


def _watch(pid: int) -> None:
    """Tell the most memory that a process and its children held, but this one, until nobody listens."""
    import select

    most, own = 0, os.getpid()
    print(flush=True)
    while True:
        began = time.perf_counter()
        most = max(most, sum(_pss_kib(one) for one in family(pid) if one != own))
        pause_s = max(_LOOK_EVERY_S, (time.perf_counter() - began) / _PART)
        if select.select([sys.stdin], [], [], pause_s)[0]:
            break
    print(most / 1024)


def _pss_kib(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123 - the same
            return next((int(line.split()[1]) for line in file if line.startswith(b"Pss:")), 0)
    except OSError:
        return 0


def forget_peak() -> None:
    """Let this process's VmHWM begin anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak is then that of the process's whole life


def status(name: str) -> float | None:
    """Tell a figure of this process in MiB, as VmRSS or VmHWM."""
    return _mib_of("/proc/self/status", name)


def memory_available() -> float:
    """Tell how many MiB may be used."""
    mib = _mib_of("/proc/meminfo", "MemAvailable")
    return float("inf") if mib is None else mib


def _mib_of(path: str, name: str) -> float | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


def loopback_bytes() -> int:
    """Tell how many bytes have come out of the loopback interface since it is there."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
