"""What the pages tell a new user to type works as it stands there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer import Context
from typer.main import get_command
from typist import PROMPT, Block, Typist, blocks, is_shown

from dokrun.cli.app import app

TOP = Path(__file__).parent.parent
PAGES = sorted(
    [path for path in (TOP / "docs").rglob("*.md") if path.name != "grid.md"]
    + [TOP / "README.md", TOP / "README.ja.md"],
    key=str,
)
# These are held to the English ones, word by word, so it is enough that those are typed.
JAPANESE = [page for page in PAGES if TOP / "docs/ja" in page.parents]
# Commands that need what a test has not, and why. What a line begins with counts.
NOT_HERE = {
    "pip install": "it needs a package index; `make test` installs the checkout itself",
    "export DOKRUN_ACCESS_TOKEN=…": "a real API key",
    "export DOKRUN_BUCKET=": "a real bucket",
    "export DOKRUN_S3_": "a real bucket's key",
    "export DOKRUN_REGISTRY=": "a real registry",
    "docker login": "a real registry",
    "dokrun registry add": "a real registry",
    "make demo": "`tests/test_examples.py` runs it",
    "make test": "it is this",
}
# Pages that go on where a real account has begun. Their commands are only held to what the program takes.
REAL = ("first-run.md", "README.md", "README.ja.md")
# Blocks that nobody types.
SHOWN = {"text", "toml", "dockerfile", ""}


def _parts(page: Path) -> tuple[list[Block], list[Block], list[Block]]:
    found = blocks(page.read_text(encoding="utf-8"))
    files = [block for block in found if block.title]
    code = [block for block in found if block.kind in ("python", "ipython") and not block.title]
    typed = [block for block in found if block.kind == "console" and block.text.startswith(PROMPT)]
    return files, code, typed


@pytest.fixture
def typist(tmp_path: Path) -> Iterator[Typist]:
    someone = Typist(tmp_path)
    yield someone
    someone.leave()


def _name(page: Path) -> str:
    return str(page.relative_to(TOP))


@pytest.mark.parametrize("page", [page for page in PAGES if page not in JAPANESE], ids=_name)
def test_what_a_page_says_to_type_works_as_it_stands_there(page: Path, typist: Typist) -> None:
    files, code, typed = _parts(page)
    for block in files:
        typist.save(block)
    for block in typed:
        for command, shown in block.commands:
            if any(command.startswith(begins) for begins in NOT_HERE) or (page.name in REAL and "dokrun " in command):
                continue
            seen = typist.type(command)
            assert is_shown(shown, seen), f"{command}\n{seen}"
    if page.name == "README.md":
        return  # its code is looked at more closely in test_readme.py, and such cells in test_notebook_cell.py
    if any(block.kind == "ipython" for block in code):
        typist.cells([block.text for block in code])
    elif code:
        typist.run("\n".join(block.text for block in code))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_each_block_of_a_page_is_typed_or_is_of_a_kind_that_nobody_types(page: Path) -> None:
    found = blocks(page.read_text(encoding="utf-8"))
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(found)
    files, code, typed = _parts(page)
    assert [block for block in found if block not in (*files, *code, *typed) and block.kind not in SHOWN] == []
    saved = {block.title for block in files}
    commands = " ".join(command for block in typed for command, _ in block.commands)
    assert all(name in commands or f"from {Path(name).stem} import" in str(files) for name in saved)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_program_takes_each_command_that_a_page_shows(page: Path) -> None:
    for block in _parts(page)[2]:
        for line, _ in block.commands:
            name, *words = shlex.split(line)
            if name == "dokrun":
                command: Any = get_command(app)
                while hasattr(command, "list_commands"):
                    name = words.pop(0)
                    command = command.get_command(Context(command), name)
                    assert command is not None, line
                command.make_context(name, words)  # reads the words, and runs nothing


def test_a_reason_that_nothing_needs_any_more_is_taken_away() -> None:
    commands = [command for page in PAGES for block in _parts(page)[2] for command, _ in block.commands]
    assert [begins for begins in NOT_HERE if not any(command.startswith(begins) for command in commands)] == []


@pytest.mark.parametrize("page", JAPANESE, ids=_name)
def test_a_japanese_page_has_the_code_and_commands_of_the_english_one(page: Path) -> None:
    english = TOP / "docs" / page.relative_to(TOP / "docs/ja")
    for ours, theirs in zip(_parts(page), _parts(english), strict=True):
        assert [block.text.replace("WorkerDied --lang ja", "WorkerDied") for block in ours] == [
            block.text for block in theirs
        ]
