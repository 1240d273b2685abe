"""Every public name has a docstring with an example, and the examples say what really comes of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("docstrings.py")


def test_every_public_name_has_an_example_that_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM)],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path),
            "DOKRUN_PROGRESS": "0",
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert re.findall(r"^(.+) has no example$", done.stderr, re.MULTILINE) == []
    told = re.search(r"^(\d+) lines of examples, (\d+) failed$", done.stdout, re.MULTILINE)
    assert told is not None, done.stderr
    assert int(told[1]) > 80
    assert told[2] == "0", done.stdout
