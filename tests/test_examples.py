"""Each example runs as a user would run it, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from optional import require

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(tmp_path: Path, name: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sweep_finds_a_setting_that_reads_digits_well_and_tells_the_cost(tmp_path: Path) -> None:
    output = run(tmp_path, "sweep_digits.py")
    accuracy = re.search(r"test accuracy (\d\.\d+)", output)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.95
    assert len(re.findall(r"^ *\d+/12  gamma=", output, re.MULTILINE)) == 12
    assert re.search(r"on v100-32gb, .* ¥\d+\.\d\d", output)
    assert "on h100-80gb, with these run times, it would have cost ¥201.60" in output, "12 calls, a minute each"


def test_a_pytorch_network_learns_the_digits_and_its_weights_come_home(tmp_path: Path) -> None:
    require("torch")
    output = run(tmp_path, "torch_digits.py")
    accuracy = re.search(r"test accuracy (\d\.\d+) on (.+); ¥\d+\.\d\d", output)
    assert accuracy is not None, output
    assert float(accuracy[1]) > 0.95
    assert re.search(r"weights\.pt: \d[\d,]+ bytes", output)
