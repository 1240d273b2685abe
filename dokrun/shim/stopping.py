"""What ends a container before its calls are done: the service's signal, or the end of what somebody pays for.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import os
import signal
import time
from typing import Any, Optional

from . import protocol

# What is kept of a limit for the stacks, the outcomes and the last checkpoint: a part of it, within bounds.
ENDING = 0.1
LEAST_ENDING_S = 1.0
MOST_ENDING_S = 10.0
LONGEST_BEFORE_S = 600.0


class Stopped(Exception):
    """The container is to end. `reason` is one of the protocol's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def listen() -> None:
    """Let the main thread raise Stopped when the container is told to end, or its limit is near."""
    signal.signal(signal.SIGTERM, _told)
    limit_s = limit()
    if limit_s is not None:
        ending_s = min(MOST_ENDING_S, max(LEAST_ENDING_S, ENDING * limit_s))
        signal.signal(signal.SIGALRM, _spent)
        _ring_at(limit_s - ending_s)


def ignore() -> None:
    """Let nothing raise any more: what has been done is told from here on, however long that takes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)


def leave_in_time() -> None:
    """Exit at the limit whatever is under way, since every outcome is written: sending may take as long as it likes."""
    limit_s = limit()
    if limit_s is not None:
        signal.signal(signal.SIGALRM, _leave)
        _ring_at(limit_s)


def limit() -> Optional[float]:
    """Tell for how many seconds this container may run, from its start on."""
    told = os.environ.get(protocol.LIMIT_S)
    return float(told) if told else None


def age_s() -> float:
    """Tell how long this process has run, in seconds: it is the container's first, from which on the service counts."""
    return time.monotonic() - _started


def _age_at_import_s() -> float:
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            # The program's name, in parentheses, may hold spaces. Of what follows, the twentieth is the start.
            ticks = float(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0  # not Linux
    # A sandbox may make it up. Fetching the shim, which comes before, takes no longer than that.
    return age if 0 < age < LONGEST_BEFORE_S else 0.0


_started = time.monotonic() - _age_at_import_s()


def _ring_at(age: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, max(0.001, age - age_s()))


def _told(_number: int, _frame: Any) -> None:
    ignore()
    raise Stopped(protocol.STOPPED, protocol.WAS_STOPPED)


def _spent(_number: int, _frame: Any) -> None:
    ignore()
    raise Stopped(protocol.TOO_DEAR, protocol.WAS_TOO_DEAR.format(limit() or 0.0))


def _leave(_number: int, _frame: Any) -> None:
    os._exit(0)
