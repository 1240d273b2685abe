"""`dokrun explain`: what would go along, and why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOKRUN = Path(sys.executable).with_name("dokrun")
SCRIPT = """
import dokrun as dok
import numpy, helper

@dok.remote(plan="v100-32gb", include=["*.csv"], exclude=["skipped.csv"])
def train(): return helper.ONE

def plain(): ...
"""
FILES = {
    "app/script.py": SCRIPT,
    "app/helper.py": "ONE = 1",
    "app/[red]table.csv": "1," * 1000,
    "app/skipped.csv": "",
    "app/fails.py": "1 / 0",
    "app/leaves.py": "raise SystemExit",
    "app/unrelated.py": "",
    "kit/__init__.py": "",
    "kit/job.py": "import dokrun as dok\n@dok.remote(plan='v100-32gb')\ndef go(): ...\n",
    "kit/data.bin": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def explain(folder: Path, target: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DOKRUN, "explain", target],
        cwd=folder,
        env={"DOKRUN_PROFILE": "local", "HOME": str(folder), "COLUMNS": "100", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_lists_the_files_largest_first_with_their_reasons(project: Path) -> None:
    done = explain(project, "app/script.py:train")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines() if "│" in line]
    assert rows == [
        ["[red]table.csv", "2.0 KiB", "include='*.csv'"],
        ["script.py", f"{len(SCRIPT)} B", "module of train"],
        ["helper.py", "7 B", "imported by script.py"],
    ]
    assert "3 files, 2.1 KiB of 25.0 MiB at most" in done.stdout
    assert "left out, exclude=: skipped.csv" in done.stdout
    assert "left out, an installed package, which the image must have: numpy" in done.stdout


def test_a_script_in_a_package_brings_the_package(project: Path) -> None:
    done = explain(project, "kit/job.py:go")
    assert done.returncode == 0, done.stderr
    assert "kit/data.bin" in done.stdout
    assert "package of go" in done.stdout


def test_what_is_too_large_is_listed_and_then_refused(project: Path) -> None:
    with (project / "kit" / "data.bin").open("wb") as file:
        file.truncate(26 << 20)
    done = explain(project, "kit/job.py:go")
    assert "kit/data.bin" in done.stdout
    assert done.returncode == 1
    assert done.stderr.startswith("dokrun: your files that would go along are 26.0 MiB")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("app/nothing.py:train", "there is no Python file app/nothing.py"),
        ("app:train", "there is no Python file app;"),
        ("app/script.py", "names no function; write script.py:train"),
        ("app/script.py:trainn", "there is no function trainn in app/script.py; did you mean 'train'?"),
        ("app/script.py:plain", "plain in app/script.py is no remote function"),
        ("app/fails.py:train", "app/fails.py cannot be imported: ZeroDivisionError: division by zero"),
        ("app/leaves.py:train", "app/leaves.py cannot be imported: SystemExit"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_1(project: Path, target: str, said: str) -> None:
    done = explain(project, target)
    assert (done.stdout, done.returncode) == ("", 1), done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("dokrun: ")
    assert done.stderr.count("\n") == 1
