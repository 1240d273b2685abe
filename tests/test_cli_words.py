"""What stands behind `dokrun run script.py:f` is read as the function's annotations say, and shown as it is."""

from __future__ import annotations

import enum
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from emulated import request

from dokrun.api import Client
from dokrun.cli import arguments, render
from dokrun.cli.completion import handles, plans
from dokrun.cli.drawing import draw
from dokrun.emulator import Emulator
from dokrun.engine.journal import Journal, Record
from dokrun.errors import OptionError

ID = "523ba5e4-db30-4e72-8ee2-d9bd1af519b6"
COMMAND = str(Path(sys.executable).with_name("dokrun"))


class Kind(enum.Enum):
    """Members are said by their values, or by their names."""

    LARGE = 1
    SMALL = "s"


@dataclass
class Point:
    """Is read from JSON."""

    x: int
    y: float = 0.0


def typed(  # noqa: PLR0917 - it has one of each
    text: str,
    number: int = 0,
    share: float = 0.0,
    path: Optional[Path] = None,  # noqa: UP045 - as people write it
    kind: Kind = Kind.LARGE,
    size: Literal["s", "m", 3] = "s",
    many: list[int] | None = None,
    pair: tuple[int, str] = (0, ""),
    point: Point | None = None,
    table: dict[str, list[float]] | None = None,
    day: date | None = None,
    exact: Decimal | None = None,
    either: int | str = 0,
    deep: bool = False,  # noqa: FBT001, FBT002 - it is one of each
    noted: Annotated[int, "a note"] = 0,
) -> None:
    """Take one of each."""


def untyped(first, second=None, *rest, loud=False, **more):  # type: ignore[no-untyped-def]
    """Take anything."""


def read(function: Callable[..., Any], *words: str) -> arguments.Arguments:
    return arguments.read(function, "f", words)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--text", "3"], "text", "3"),
        (["--text=--x=y"], "text", "--x=y"),
        (["--text", ""], "text", ""),
        (["--number", "-3"], "number", -3),
        (["--share", "1e-3"], "share", 0.001),
        (["--path", "a/b"], "path", Path("a/b")),
        (["--path", "None"], "path", None),
        (["--kind", "s"], "kind", Kind.SMALL),
        (["--kind", "LARGE"], "kind", Kind.LARGE),
        (["--size", "3"], "size", 3),
        (["--many", "1", "--many=2"], "many", [1, 2]),
        (["--many", "[3, 4]"], "many", [3, 4]),
        (["--many", "5"], "many", [5]),
        (["--pair", "1", "--pair", "b"], "pair", (1, "b")),
        (["--pair", '[1, "b"]'], "pair", (1, "b")),
        (["--point", '{"x": 1}'], "point", Point(1)),
        (["--table", '{"a": [1]}'], "table", {"a": [1.0]}),
        (["--day", "2026-11-26"], "day", date(2026, 11, 26)),
        (["--exact", "0.10"], "exact", Decimal("0.10")),
        (["--either", "7"], "either", 7),
        (["--either", "x7"], "either", "x7"),
        (["--deep"], "deep", True),
        (["--no-deep"], "deep", False),
        (["--deep=false"], "deep", False),
        (["--noted", "4"], "noted", 4),
    ],
)
def test_a_value_is_of_the_type_that_its_annotation_says(words: list[str], name: str, value: object) -> None:
    args, kwargs = read(typed, *words)
    assert (args, kwargs) == ((), {name: value})
    assert type(kwargs[name]) is type(value)


def test_words_without_a_name_are_the_parameters_in_their_order() -> None:
    assert read(typed, "a", "-3", "--share", "2") == (("a", -3), {"share": 2.0})
    assert read(untyped, "1", "[2]", "x", "null", "--loud", "--other-thing", "{}") == (
        (1, [2], "x", None),
        {"loud": True, "other_thing": {}},
    )
    assert read(typed, "--", "--text") == (("--text",), {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--number", "1.5"], "--number of f cannot be '1.5': write a whole number"),
        (["--share", "much"], "write a number"),
        (["--kind", "medium"], "write one of 1, s, LARGE, SMALL"),
        (["--size", "l"], "write one of s, m, 3"),
        (["--many", "1", "--many", "b"], "--many of f cannot be '1', 'b': write a whole number"),
        (["--pair", "1", "--pair", "b", "--pair", "c"], "write 2 values"),
        (["--point", "{}"], "write Point as JSON"),
        (["--deep=perhaps"], "write true or false"),
        (["--nubmer", "1"], "f has no parameter 'nubmer'; did you mean 'number'?"),
        (["--number"], "--number of f has no value; write --number VALUE"),
        (["--no-number"], "f has no parameter 'no-number'"),
        (["--rehearse"], "dokrun's own options stand before the function"),
        ([*"abcdefghijklmnop"], "cannot be 'b'"),
    ],
)
def test_what_cannot_be_read_is_told_with_what_can(words: list[str], said: str) -> None:
    with pytest.raises(OptionError) as refused:
        read(typed, *words)
    assert said in str(refused.value)


def test_a_functions_help_tells_its_parameters_and_no_default() -> None:
    def secretive(token: str = "hush-hush", size: int = 3, kind: Kind = Kind.LARGE, to: Literal["a", 2] = "a") -> None:
        """Keep it."""

    told = arguments.told(secretive, "secretive")
    assert "  --token  str  (optional)" in told
    assert "  --kind  1|s  (optional)" in told
    assert "  --to  a|2  (optional)" in told
    assert "Keep it." in told
    assert "hush" not in told


# What is shown.


def test_what_others_write_moves_no_cursor_and_makes_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "a\tb\nc\x1b[31m[red]\u202e", "count": 3, "share": Decimal("0.10"), "none": None, "more": True}]
    render.table(rows, ("name", "count", "share", "none", "more"), as_json=False)
    assert capsys.readouterr().out == "a\\tb\\nc\\x1b[31m[red]\\u202e\t3\t0.10\t\tyes\n"
    render.table(rows, ("name",), as_json=True)
    assert '"share": "0.10"' in capsys.readouterr().out


def test_a_terminal_gets_a_table_without_markup_and_whole_words(tmp_path: Path) -> None:
    with Emulator() as service, Client(service.token, service.secret, base_url=service.api_url) as client:
        made = client.tasks.create(request("pass"))
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path),
            "DOKRUN_ACCESS_TOKEN": service.token,
            "DOKRUN_ACCESS_TOKEN_SECRET": service.secret,
            "DOKRUN_API_URL": service.api_url,
            "COLUMNS": "200",
            "TERM": "xterm",
        }
        master, slave = pty.openpty()
        done = subprocess.run([COMMAND, "tasks", "list"], env=environ, stdout=slave, stderr=slave, check=False)
        os.close(slave)
        seen = os.read(master, 1 << 16).decode()
        os.close(master)
        assert done.returncode == 0, seen
        assert made.id in seen
        assert "status" in seen


@pytest.mark.parametrize(("columns", "task"), [(100, ID), (80, ID[:8])])
def test_what_is_copied_out_of_a_table_stays_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int, task: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    draw(["handle", "plan", "task", "before it"], [["train-7f3a7f3a7f3a", "h100-8gpu-80gb", ID, "3"]], ["before it"])
    *_, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["train-7f3a7f3a7f3a", "h100-8gpu-80gb", task, "3"]
    monkeypatch.setenv("COLUMNS", "40")
    draw(["handle", "image", "why"], [["train-7f3a7f3a7f3a", "registry.example/" + "x" * 99, "as " * 30]], [])
    assert "train-7f3a7f3a7f3a" in capsys.readouterr().out, "what is too long is folded, not what stands beside it"


def test_where_nothing_fits_a_table_still_tells_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    draw(["handle", "plan", "count"], [["train-7f3a7f3a7f3a", "h100-8gpu-80gb", "3"]], ["count"])
    lines = capsys.readouterr().out.splitlines()
    assert "".join(line[: line.find(" ")] for line in lines[1:]) == "train-7f3a7f3a7f3a", lines


# What a shell completes.


def test_a_shell_completes_plans_and_the_handles_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert plans("h1") == ["h100-2g.20gb", "h100-80gb", "h100-8gpu-80gb"]
    monkeypatch.setenv("DOKRUN_PROFILE", "local")
    monkeypatch.setenv("DOKRUN_STATE_DIR", str(tmp_path / "state"))
    assert handles("") == [], "there is no journal"
    journal = Journal(tmp_path / "state", "local")
    for number, name in enumerate(("train", "test")):
        journal.begin(Record(f"{number}" * 32, name, "v100-32gb", 1, "d" * 64, "tag"))
    journal.close()
    assert handles("tes") == ["test-111111111111"]
    assert handles("t") == ["test-111111111111", "train-000000000000"]
    (tmp_path / "state" / "local.sqlite").write_bytes(b"no database")
    assert handles("") == []


def test_a_shell_is_told_commands_and_their_options() -> None:
    environ = {**os.environ, "_DOKRUN_COMPLETE": "complete_bash", "COMP_WORDS": "dokrun re", "COMP_CWORD": "1"}
    done = subprocess.run([COMMAND], env=environ, capture_output=True, text=True, check=False)
    assert {"result", "rescue", "registry"} <= set(done.stdout.split())
    environ |= {"COMP_WORDS": "dokrun result --no", "COMP_CWORD": "2"}
    done = subprocess.run([COMMAND], env=environ, capture_output=True, text=True, check=False)
    assert "--no-wait" in done.stdout.split()
