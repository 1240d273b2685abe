"""The README's code runs as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_code_in_the_readme_runs_in_one_go(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 11
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *lines, starred, warm, popped, powers, searched, quote, many, billed, advice, address = done.stdout.splitlines()
    lines, doubled = lines[:-100], lines[-100:]
    first, receipt, sweep, *dockerfile, rehearsed, files, plans, handle, attached = lines
    assert [int(number) for number in doubled] == [2 * number for number in range(100)]
    assert sorted(json.loads(starred)) == [2, 4]
    assert warm == "42 [0, 2, 4]"
    assert popped == "3 0"
    assert powers == "[1, 2, 4, 8]"
    assert searched == "{'C': 10}"
    assert dockerfile[0].startswith("FROM docker.io/library/python:3.")
    assert rehearsed == "2"
    assert files == "[ArtifactFile(name='words.txt', size_bytes=10)]"
    assert "'cloud': 5" in first
    assert re.fullmatch(r"¥0\.\d\d \(\d+ s billed on v100-32gb, \d+ s run\)", receipt)
    assert re.fullmatch(r"long_run-[0-9a-f]{32}\.[0-9a-f]{32}", handle)
    assert attached == "3"
    assert quote == many == "¥16.80 at least, never called before, ¥100.00 at most; ¥16.80 a minute on h100-80gb"
    assert re.fullmatch(r"¥16\.80 \(60 s billed on h100-80gb, \d+ s run\)", billed)
    assert advice.endswith("and on v100-32gb one alone costs less if it takes less than 1,050 s there")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
    assert plans == "['v100-32gb', 'h100-80gb', 'h100-8gpu-80gb']"
    assert sweep == "[{'one': 3, 'line': 4}, {'another': 7, 'line': 4}]"
