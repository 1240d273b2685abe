"""Print how large the shim is, and how long it takes from a container's first process to the user's function.

    make bench

The container's own start is the same for every program in it, so both are measured as processes of this machine.
"""

from __future__ import annotations

import inspect
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dokrun.engine import Target
from dokrun.engine.images import Ready
from dokrun.engine.prepare import Preparing
from dokrun.engine.stage import Attempt, stage
from dokrun.options import Options
from dokrun.payload import pyz

ROUNDS = 15
SIZE_AIM_KIB = 64
START_AIM_MS = 150


def tell_time() -> None:
    """Print this machine's monotonic clock, which all of its processes share."""
    print(time.monotonic())


def seconds_until_it_runs(command: list[str], environment: dict[str, str]) -> float:
    """Start a program that prints the time, and tell how long it took to get there."""
    started = time.monotonic()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1]) - started  # the shim has said before that it starts


def main() -> None:
    """Measure and print."""
    preparing = Preparing(Target(tell_time, inspect.signature(tell_time), "tell_time"), "v100-32gb", Options())
    preparing.add((), {})
    definition = stage(preparing.job(), None, Ready("any"), "bench", Attempt()).containers[0]
    code = "import time; print(time.monotonic())"
    taken = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bin").mkdir()
        (folder / "bin" / "python3").symlink_to(sys.executable)
        environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            **definition.environment,
            "SAKURA_TASK_ID": "bench",
            "SAKURA_ARTIFACT_DIR": str(folder / "artifact"),
        }
        for _ in range(ROUNDS):
            bare = seconds_until_it_runs([*definition.entrypoint, code], environment)
            whole = seconds_until_it_runs([*definition.entrypoint, *definition.command], environment)
            taken.append((bare, whole))
    bare, whole = (statistics.median(column) * 1000 for column in zip(*taken, strict=True))
    size = pyz.build(with_code=True).packed.size / 1024
    print(f"{'the shim':<44}{'':>9}{'aim':>9}")
    print(f"{'size of shim.pyz as it travels, KiB':<44}{size:>9.1f}{SIZE_AIM_KIB:>9}")
    what = "until the function runs, over python3, ms"
    print(f"{what:<44}{whole - bare:>9.1f}{START_AIM_MS:>9}   {whole / bare:>6.1f} x python3 -c … ({bare:.1f} ms)")


if __name__ == "__main__":
    main()
