"""Each error has a page in both languages, which `dokrun explain` shows."""

from __future__ import annotations

import ast
import builtins
import difflib
import json
import os
import pty
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer import Context
from typer.main import get_command
from typer.testing import CliRunner

import dokrun as dok
from dokrun import errors
from dokrun.cli import pages
from dokrun.cli.app import app

DOKRUN = Path(sys.executable).with_name("dokrun")
TOP = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
HEADINGS = {
    "en": ["Usual causes", "What to do", "In code"],
    "ja": ["よくある原因", "対処", "コードでの扱い"],
}
ASKED = {
    "en": ["**Did the function run?**", "**Does it cost money now?**"],
    "ja": ["**関数は実行されましたか。**", "**今も料金がかかりますか。**"],
}


def explained(*arguments: str, **environ: str) -> str:
    done = CliRunner().invoke(
        app, ["explain", *arguments], env={"LC_ALL": "", "LC_MESSAGES": "", "LANG": "", **environ}
    )
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.mark.parametrize("lang", HEADINGS)
@pytest.mark.parametrize("name", errors.__all__)
def test_the_page_of_an_error_answers_what_a_user_asks(name: str, lang: str) -> None:
    text = pages.page(name, lang)
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS[lang]
    assert all(question in text for question in ASKED[lang])
    assert 15 <= text.count("\n") <= 45
    for other in re.findall(r"`dokrun explain (\w+)`", text):
        assert other in errors.__all__
        assert other != name
    commands = get_command(app).list_commands(Context(get_command(app)))  # type: ignore[attr-defined]
    assert set(re.findall(r"`dokrun ([a-z-]+)", text)) <= set(commands)


@pytest.mark.parametrize("lang", HEADINGS)
def test_there_is_no_page_of_what_is_no_error(lang: str) -> None:
    assert sorted(path.stem for path in (TOP / "dokrun/pages" / lang).iterdir()) == sorted(errors.__all__)


def _made(name: str) -> errors.DokrunError:
    kind: type[errors.DokrunError] = getattr(errors, name)
    return kind("…", ran="no") if issubclass(kind, errors.CallFailed) else kind("…")


@pytest.mark.parametrize("name", errors.__all__)
def test_the_example_of_a_page_is_the_same_in_both_languages_and_uses_what_there_is(name: str) -> None:
    (code,) = BLOCK.findall(pages.page(name, "en"))
    assert BLOCK.findall(pages.page(name, "ja")) == [code]
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dok":
            assert node.attr in dok.__all__
        if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Attribute) and node.name is not None:
            error = _made(node.type.attr)
            for used in ast.walk(node):
                if isinstance(used, ast.Attribute) and isinstance(used.value, ast.Name) and used.value.id == node.name:
                    assert hasattr(error, used.attr)
        if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name):
            assert hasattr(builtins, node.type.id)


@pytest.mark.parametrize(
    ("environ", "lang"),
    [
        ({}, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LC_MESSAGES": "ja_JP.eucJP", "LANG": "de_DE.UTF-8"}, "ja"),
        ({"LC_ALL": "C", "LANG": "ja_JP.UTF-8"}, "en"),
        ({"LC_ALL": "ja"}, "ja"),
        ({"LANG": "jam_JM"}, "en"),
    ],
)
def test_a_page_is_in_the_language_of_the_terminal(environ: dict[str, str], lang: str) -> None:
    assert explained("TaskFailed", **environ) == pages.page("TaskFailed", lang)


def test_a_language_that_is_asked_for_stands_above_that_of_the_terminal() -> None:
    assert explained("TaskFailed", "--lang", "en", LANG="ja_JP.UTF-8") == pages.page("TaskFailed", "en")
    assert explained("TaskFailed", "--lang", "ja", LANG="en_US.UTF-8") == pages.page("TaskFailed", "ja")


@pytest.mark.parametrize("written", ["taskfailed", "dokrun.errors.TaskFailed", "dok.TaskFailed"])
def test_an_error_may_be_written_as_it_is_seen(written: str) -> None:
    assert explained(written) == pages.page("TaskFailed", "en")


def test_a_slip_is_told_what_was_meant() -> None:
    with pytest.raises(dok.OptionError, match=r"there is no error 'TaskFaild'; did you mean 'TaskFailed'\? A function"):
        pages.show("TaskFaild", "en", as_json=False)
    with pytest.raises(dok.OptionError, match=r"'xyz'; dokrun explain DokrunError lists them\. A function is"):
        pages.show("xyz", "en", as_json=False)


def test_other_programs_get_a_page_as_json() -> None:
    told = {"error": "TaskFailed", "language": "ja", "page": pages.page("TaskFailed", "ja")}
    assert json.loads(explained("taskfailed", "--json", LANG="ja_JP.UTF-8")) == told


def test_a_page_is_drawn_in_a_terminal_and_left_as_it_is_in_a_pipe() -> None:
    command = [str(DOKRUN), "explain", "Tampered"]
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm", "COLUMNS": "80"}
    piped = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert piped.stdout == pages.page("Tampered", "en")
    here, there = pty.openpty()
    with subprocess.Popen(command, env=environ, stdout=there, stderr=there) as process:
        os.close(there)
        drawn = b""
        try:
            while part := os.read(here, 1 << 16):
                drawn += part
        except OSError:  # so Linux says that nobody writes any more
            pass
    os.close(here)
    assert process.returncode == 0
    assert b"```" not in drawn
    assert b"\x1b[" in drawn
    told = re.sub(r"\x1b\[[0-9;]*m|[^\w]", "", drawn.decode())
    plain = re.sub(r"python|[^\w]", "", piped.stdout)
    assert difflib.SequenceMatcher(None, told, plain, autojunk=False).ratio() > 0.95


def test_showing_a_page_loads_nothing_that_talks_to_the_world() -> None:
    code = "import sys; from dokrun.cli import pages; pages.show('TaskFailed', 'en', as_json=False)"
    code += "; print(sorted({'boto3', 'cloudpickle', 'docker', 'httpx', 'msgspec', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")


def test_the_pages_are_in_the_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=TOP, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"dokrun/pages/{lang}/{name}.md" for lang in HEADINGS for name in errors.__all__} <= set(names)
