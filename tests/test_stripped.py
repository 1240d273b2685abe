"""What `shim.pyz` leaves out of its files: no code, and no line."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import threading
import zipfile
from io import BytesIO
from pathlib import Path

import cloudpickle
import pytest

import dokrun
from dokrun.payload import pyz, shim
from dokrun.payload.strip import strip

FOLDERS = {
    "cloudpickle": Path(cloudpickle.__file__).parent,
    "dokrun": Path(dokrun.__file__).parent,
    "dokrun_shim": Path(dokrun.__file__).parent / "shim",
}
TRICKY = '''\
# -*- coding: latin-1 -*-
"""Says
what it is."""  # and why
from __future__ import annotations


class Alone:
    """Has a docstring and nothing else."""


class Crowded: "says it in one line"; number = 3


def quoting(x):
    "Has one in two" " pieces."
    # a comment
    text = """
# this is no comment
    # nor is this
    """
    return text + f"""
# nor this {x}
"""  # but this


async def later():
    """Says

    # that this is no comment
    """
    "this is no docstring"
    return "déjà", "#", lambda: """
    # text"""


def é(): "stands behind two bytes"; return 1  # behind code


long = "no comment # here"  # but é here
'''.encode("latin-1")


def code(source: bytes) -> str:
    """Tell the parser's view of a file, without docstrings."""
    tree = ast.parse(importlib.util.decode_source(source))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str()) as docstring), *_]:
                    docstring.value = ""
    return ast.dump(tree)


def lines(source: bytes) -> list[tuple[str, int]]:
    """Tell on which line each statement and expression stands."""
    tree = ast.parse(importlib.util.decode_source(source))
    return [(type(node).__name__, node.lineno) for node in ast.walk(tree) if isinstance(node, (ast.stmt, ast.expr))]


def test_every_file_of_the_archive_is_its_original_but_for_docstrings_and_comments() -> None:
    archive = zipfile.ZipFile(BytesIO(pyz.build(with_code=False).data))
    names = [name for name in archive.namelist() if "/" in name and name not in pyz._STAND_INS]
    assert len(names) > len(FOLDERS)
    for name in names:
        package, _, path = name.partition("/")
        original, stripped = (FOLDERS[package] / path).read_bytes(), archive.read(name)
        assert code(stripped) == code(original), name
        assert lines(stripped) == lines(original), name


def test_a_container_of_the_clients_python_compiles_nothing_and_another_reads_the_source(tmp_path: Path) -> None:
    data = pyz.build(with_code=True).data
    told = "import dokrun_shim.supervisor as it; print(it.__file__)"
    for number, magic in enumerate((importlib.util.MAGIC_NUMBER, b"....")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "shim.pyz").write_bytes(data.replace(importlib.util.MAGIC_NUMBER, magic))
        archive = [str(folder / "shim.pyz")]
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, sys.argv[1]); {told}", *archive],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == f"{archive[0]}/dokrun_shim/supervisor.{('pyc', 'py')[number]}"


def test_whatever_looks_like_a_comment_in_a_string_stays() -> None:
    stripped = strip(TRICKY)
    assert (code(stripped), lines(stripped)) == (code(TRICKY), lines(TRICKY))


@pytest.mark.parametrize(
    "gone",
    [
        "Says",
        "coding",
        "nothing else",
        "in one line",
        "pieces",
        "a comment",
        "two bytes",
        "and why",
        "but this",
        "behind code",
        "é here",
    ],
)
def test_docstrings_and_lines_of_comment_are_gone(gone: str) -> None:
    assert gone in TRICKY.decode("latin-1")
    assert gone not in strip(TRICKY).decode().replace("this is no comment", "")


def test_a_file_with_another_systems_line_ends_comes_out_the_same() -> None:
    assert strip(TRICKY.replace(b"\n", b"\r\n")) == strip(TRICKY)


def from_the_shim_alone(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code where there is no dokrun but the shim's."""
    archive = folder / "shim.pyz"
    archive.write_bytes(pyz.build(with_code=True).data)
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, sys.argv[1]); {code}", str(archive)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_public_name_can_be_had_from_the_shim_alone(tmp_path: Path) -> None:
    done = from_the_shim_alone(tmp_path, "import dokrun; [getattr(dokrun, it) for it in dokrun.__all__]")
    assert done.returncode == 0, done.stderr


def test_a_module_may_speak_of_executors_inside_a_task_but_not_make_one(tmp_path: Path) -> None:
    done = from_the_shim_alone(
        tmp_path, "import dokrun as dok, dokrun.joblib; it: dok.Executor = dok.Executor(4, plan='p')"
    )
    assert "OptionError: there is no dok.Executor inside a DOK task, which has no credentials\n" in done.stderr


def test_threads_that_parse_at_the_same_time_do_not_fail() -> None:
    source = Path(shim.__file__).read_bytes()
    failed: list[str] = []

    def work() -> None:
        for _ in range(10):
            # Objects that refer to themselves, so that the collector runs code in the midst of it.
            for loud in [Loud() for _ in range(5)]:
                loud.itself = loud
            try:
                strip(source)
            except SystemError as error:
                failed.append(str(error))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == [], "of CPython 3.11"


class Loud:
    """Is heard of when it goes."""

    itself: Loud

    def __del__(self) -> None:
        sum(range(10))
