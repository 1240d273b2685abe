"""Where a worker is, for its supervisor: a few bytes that both have mapped. Told so, a call costs no message.

The worker may die between any two stores, so each store leaves all of it true: it is of eight bytes that lie aligned,
which are whole whenever they are read, and the number of the call and what is done with it are said in one.

The supervisor says something there too: that the worker is to halt, before it is killed for taking too long. From then
on no function's end counts, which may come of the signal that asks where it is, and no other call begins.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import mmap
import time
from typing import NamedTuple

# What a worker is doing: nothing of a call's, unpickling one, or running its function.
IDLE, UNPICKLING, RUNNING = range(3)
_PHASE_BITS = 2
_PHASE = (1 << _PHASE_BITS) - 1

# Which eight bytes say what.
_WHERE, _SINCE, _HALT = range(3)
SIZE = 24
# The number of a call where none has begun.
NONE = -1
# How often a worker that halts looks whether it may go on, in seconds.
LOOK_S = 0.01


class Now(NamedTuple):
    """Which call a worker is at, since when (by the monotonic clock, which all processes share), and in which phase.

    Where it is idle, it is the call that has come to its end, or `NONE`.
    """

    number: int
    since: float
    phase: int


class Cell:
    """The bytes, in a file that is there for as long as the worker lives."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), SIZE))
        # Not `struct.pack_into`, which writes zeros first.
        self._words = mapped.cast("q")
        self._times = mapped.cast("d")

    def begin(self, number: int) -> None:
        """Say that a call is being unpickled."""
        self._times[_SINCE] = time.monotonic()
        self._words[_WHERE] = number << _PHASE_BITS | UNPICKLING

    def run(self, number: int) -> None:
        """Say that its function is called now."""
        self._times[_SINCE] = time.monotonic()
        self._words[_WHERE] = number << _PHASE_BITS | RUNNING

    def end(self, number: int) -> None:
        """Say that it has come to its end."""
        self._words[_WHERE] = number << _PHASE_BITS | IDLE

    def wait(self) -> None:
        """Wait as long as the worker is to halt."""
        while self._words[_HALT]:
            time.sleep(LOOK_S)

    def halt(self, *, halted: bool) -> bool:
        """Say whether the worker is to halt. Tells whether it was to before."""
        before = bool(self._words[_HALT])
        self._words[_HALT] = halted
        return before

    def clear(self) -> None:
        """Be ready for another worker."""
        self.end(NONE)
        self._times[_SINCE] = 0.0
        self.halt(halted=False)

    def now(self) -> Now:
        """Tell where the worker is."""
        where = self._words[_WHERE]
        return Now(where >> _PHASE_BITS, self._times[_SINCE], where & _PHASE)


def make(path: str) -> Cell:
    """Make the file of a cell."""
    with open(path, "wb") as file:
        file.write(bytes(SIZE))
    cell = Cell(path)
    cell.clear()
    return cell
