"""What runs in a container to be measured there: its image has no more than Python."""

from __future__ import annotations

import subprocess
import sys

import dokrun as dok

MIB = 1 << 20
# Each of these holds as much while all of them live.
HOLD = f"data = b'x' * (60 * {MIB}); print(flush=True); input()"


@dok.remote(plan="v100-32gb", max_yen=10)
def three_at_once() -> int:
    held = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    for one in held:
        assert one.stdout is not None
        one.stdout.readline()
    for one in held:
        one.communicate(b"\n")
    return len(held)
