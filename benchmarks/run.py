"""Print what the main road costs on this machine, each figure beside something that was measured in the same run.

    make bench

A noisy machine moves both figures alike, so look at the ratio first.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import dokrun as dok

ROUNDS = 11
CALLS = 20
FIRST = """
import dokrun as dok
@dok.remote(plan="v100-32gb", profile="local")
def nothing(): pass
nothing().result()
"""
# As the program `dokrun` begins, whose folder need not be on the PATH.
HELP = """
import os, sys
sys.argv, sys.stdout = ["dokrun", "--help"], open(os.devnull, "w")
from dokrun.cli import main
main()
"""


@dataclass(frozen=True)
class Row:
    """A figure, its aim, and what it is compared with."""

    what: str
    seconds: float
    aim_s: float
    beside: str
    beside_s: float

    def __str__(self) -> str:
        times = self.seconds / self.beside_s
        milliseconds, aim, beside = self.seconds * 1000, self.aim_s * 1000, self.beside_s * 1000
        return f"{self.what:<44}{milliseconds:>9.1f}{aim:>9.0f}   {times:>6.1f} x {self.beside} ({beside:.1f} ms)"


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def python(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)


def interleaved(*actions: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Run the actions in turns, and tell the median seconds of each."""
    taken = [[timed(action) for action in actions] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


@dok.remote(plan="v100-32gb", profile="local")
def nothing() -> None:
    """Do nothing, elsewhere."""


def main() -> None:
    """Measure and print."""
    bare, imported, helped = interleaved(python("pass"), python("import dokrun"), python(HELP))
    first, beside = interleaved(python(FIRST), python("pass"), rounds=5)
    nothing().result()
    call, process = interleaved(lambda: nothing().result(), python("pass"), rounds=CALLS)
    print(f"{'on profile local':<44}{'ms':>9}{'aim':>9}")
    print(Row("import dokrun, over a bare interpreter", imported - bare, 0.05, "python -c pass", bare))
    print(Row("dokrun --help", helped, 0.15, "python -c pass", bare))
    print(Row("first result in a fresh process", first, 3.0, "python -c pass", beside))
    print(Row(f"one call after that, p50 of {CALLS}", call, 0.4, "python -c pass", process))


if __name__ == "__main__":
    main()
