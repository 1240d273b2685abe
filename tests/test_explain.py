"""`dokrun explain`: what would go along, and why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

import dokrun as dok


@dok.remote
def by_name() -> None: ...


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
    "kit/loses.py": "import dokrun as dok\n@dok.remote(exclude=['kit/*.py', 'x'])\ndef go(): ...\n",
    "kit/picks.py": """
import dokrun as dok
@dok.remote(include=['kit/ignored', 'kit/other/wanted.txt'])
def go(): ...
""",
    "kit/.gitignore": "ignored/\nother/\n",
    "kit/ignored/all.txt": "",
    "kit/other/wanted.txt": "",
    "kit/other/unwanted.txt": "",
    "run/program.py": """
import argparse
import dokrun as dok
from run_helper import sent

@dok.remote(plan="v100-32gb", include=["*.csv"], exclude=["*.py", "!run_helper.py"])
def train(): return sent()

argparse.ArgumentParser().parse_args()
if __name__ == "__main__":
    print("sent", *train().result(timeout=60))
""",
    "run/run_helper.py": """
import pathlib, sys
def sent():
    folder = pathlib.Path(sys.path[0])
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return sorted(path.relative_to(folder).as_posix() for path in found)
""",
    "run/table.csv": "",
    "run/unrelated.txt": "",
    "run/parcel/__init__.py": "",
    "run/parcel/go.py": """
import dokrun as dok
from run_helper import sent

@dok.remote(plan="v100-32gb")
def train(): return sent()

if __name__ == "__main__":
    print("sent", *train().result(timeout=60))
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def explain(folder: Path, target: str, *options: str) -> subprocess.CompletedProcess[str]:
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")}
    return subprocess.run(
        [DOKRUN, "explain", target, *options],
        cwd=folder,
        env={"DOKRUN_PROFILE": "local", "COLUMNS": "100", "PATH": "", **home},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]


def test_it_lists_the_files_largest_first_with_their_reasons(project: Path) -> None:
    done = explain(project, "app/script.py:train")
    assert rows(done) == [
        ["[red]table.csv", "2.0 KiB", "include='*.csv'"],
        ["helper.py", "7 B", "imported by script.py"],
    ]
    assert done.stdout.startswith(
        "train goes by value: pickled with what it refers to, not imported from app/script.py"
    )
    assert "2 files, 2.0 KiB of 25.0 MiB at most" in done.stdout
    assert "left out, exclude=: skipped.csv" in done.stdout
    assert "left out, an installed package, which the image must have: numpy" in done.stdout


@pytest.mark.parametrize(
    ("program", "target"),
    [(["program.py"], "program.py:train"), (["-m", "parcel.go"], "parcel/go.py:train")],
    ids=["script", "module"],
)
def test_it_lists_the_very_files_that_running_the_program_sends(project: Path, program: list[str], target: str) -> None:
    folder = project / "run"
    ran = subprocess.run(
        [sys.executable, *program],
        cwd=folder,
        env={**os.environ, "DOKRUN_PROFILE": "local", "DOKRUN_STATE_DIR": str(project / "state")},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ran.stdout.startswith("sent "), ran.stderr
    explained = explain(folder, target)
    assert sorted(row[0] for row in rows(explained)) == ran.stdout.split()[1:]
    assert "sent" not in explained.stdout


@pytest.mark.parametrize("target", ["kit/job.py:go", "kit.job:go"])
def test_a_module_in_a_package_goes_as_a_file_with_its_package(project: Path, target: str) -> None:
    done = explain(project, target)
    assert ["kit/data.bin", "0 B", "package of go"] in rows(done)
    assert "kit/job.py" in [row[0] for row in rows(done)]
    assert "by value" not in done.stdout


def test_a_file_that_makes_a_package_is_imported_as_that_package(project: Path) -> None:
    (project / "kit" / "__init__.py").write_text((project / "kit" / "job.py").read_text())
    done = explain(project, "kit/__init__.py:go")
    assert [row[0] for row in rows(done) if "__init__" in row[0]] == ["kit/__init__.py"]


def test_what_include_brings_of_an_ignored_folder_is_shown_once(project: Path) -> None:
    done = explain(project, "kit.picks:go")
    assert {"kit/ignored/all.txt", "kit/other/wanted.txt"} <= {row[0] for row in rows(done)}
    assert "left out, .gitignore: kit/other/unwanted.txt\n" in done.stdout


def test_the_defaults_of_the_profile_count_and_another_profile_has_others(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project / "config"))
    config = platformdirs.user_config_path("dokrun") / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        "[defaults]\nexclude = ['*.csv']\n[profiles.lab]\naccess_token = 't'\naccess_token_secret = 's'\n"
    )
    config.chmod(0o600)
    assert [row[0] for row in rows(explain(project, "app/script.py:train"))] == ["helper.py"]
    of_lab = explain(project, "app/script.py:train", "--profile", "lab")
    assert [row[0] for row in rows(of_lab)] == ["[red]table.csv", "helper.py"]


def test_a_remote_function_explains_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOKRUN_PROFILE", "local")
    found = by_name.explain()
    assert (found.by_value, [file.name for file in found.files]) == (False, ["test_explain.py"])
    assert dok.remote(lambda: None).options(include=["conftest.py"]).explain().by_value


def test_what_is_too_large_is_listed_and_then_refused(project: Path) -> None:
    with (project / "kit" / "data.bin").open("wb") as file:
        file.truncate(26 << 20)
    done = explain(project, "kit/job.py:go")
    assert "kit/data.bin" in done.stdout
    assert done.returncode == 2
    assert done.stderr.startswith("dokrun: your files that would go along are 26.0 MiB")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("app/nothing.py:train", "there is no Python file app/nothing.py"),
        ("app/:train", "there is no Python file app/;"),
        ("app:train", "there is no function train in app"),
        ("no_such:train", "no_such cannot be imported: ModuleNotFoundError: No module named 'no_such'"),
        ("kit/loses.py:go", "exclude= takes away kit/loses.py, in which go is defined"),
        ("app/script.py", "names no function; write script.py:train"),
        ("app/script.py:trainn", "there is no function trainn in app/script.py; did you mean 'train'?"),
        ("app/script.py:plain", "plain in app/script.py is no remote function"),
        (
            "app/fails.py:train",
            "app/fails.py cannot be imported: ZeroDivisionError: division by zero (fails.py, line 1)",
        ),
        ("app/leaves.py:train", "app/leaves.py cannot be imported: SystemExit"),
    ],
)
def test_a_mistake_is_a_line_with_its_page_and_exit_status_2(project: Path, target: str, said: str) -> None:
    done = explain(project, target)
    assert (done.stdout, done.returncode) == ("", 2), done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("dokrun: ")
    assert done.stderr.count("\n") == 2
    assert done.stderr.endswith("\n  dokrun explain OptionError tells more\n")
