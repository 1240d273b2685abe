"""The command line itself: what it loads, what it lists, and how it ends whatever is typed, and whoever reads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from places import Place, place

from dokrun import errors, keys
from dokrun.cli.app import ENTRIES, Desk, app
from dokrun.cli.ends import NotYet, Status, status_of

__all__ = ["place"]

DOKRUN = Path(sys.executable).with_name("dokrun")
# What each takes to load is told where it is used.
HEAVY = (
    "httpx",
    "boto3",
    "botocore",
    "docker",
    "cloudpickle",
    "msgspec",
    "rich",
    "websockets",
    "tomlkit",
    "asyncio",
    "pydantic",
)
# What has no --json, and why.
WITHOUT_JSON = {
    "logs": "a task's own words, as they come",
    "tasks logs": "likewise",
    "attach": "likewise, until the call ends as its exit status says",
    "shell": "a dialogue, between a person and the container's shell",
    "init": "a dialogue, which ends in a file",
}


def test_help_loads_no_command_and_nothing_that_is_slow() -> None:
    script = (
        "import sys\nsys.argv = ['dokrun', '--help']\nfrom dokrun.cli import main\n"
        "try: main()\nexcept SystemExit as ended: assert ended.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "print(sorted(name for name in sys.modules if name.startswith('dokrun.')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *told, heavy, ours = done.stdout.splitlines()
    assert heavy == "[]"
    own = ["cli", "cli.app", "cli.ends", "errors"]
    assert ours == str([f"dokrun.{name}" for name in own])
    for name in ("run", "rescue", "doctor", "tasks"):
        assert any(line.split()[:1] == [name] for line in told), name


def test_the_list_of_commands_says_of_each_what_its_own_help_says_first() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, Desk)
    for name, command in group.commands.items():
        summary = ENTRIES[name].summary
        told = " ".join(str(command.help).split())
        # `explain` has a help that is longer than a line.
        assert told.startswith(summary) or name == "explain", (name, told)
        assert command.get_help(typer.Context(command, info_name=name))


def leaves(command: Any, *name: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands that are no groups of others, each with its whole name."""
    if hasattr(command, "commands"):
        for each, below in command.commands.items():
            yield from leaves(below, *name, each)
    else:
        yield " ".join(name), command


def test_every_command_tells_other_programs_what_it_tells_but_streams_and_dialogues() -> None:
    found = dict(leaves(typer.main.get_command(app)))
    assert {"show", "tasks cancel", "notify endpoint add"} <= set(found)
    without = {name for name, each in found.items() if not any("--json" in option.opts for option in each.params)}
    assert without == set(WITHOUT_JSON)


def test_every_usage_is_written_alike() -> None:
    usages = {
        name: " ".join(each.collect_usage_pieces(typer.Context(each, info_name=name)))
        for name, each in leaves(typer.main.get_command(app))
    }
    name = r"[A-Z:|]+(\.\.\.)?"
    assert [one for one in usages.values() if not re.fullmatch(rf"\[OPTIONS\]( {name}| \[{name}\])*", one)] == []
    assert usages["download"] == "[OPTIONS] HANDLE [NAME...]"
    assert usages["cancel"] == "[OPTIONS] HANDLE..."
    assert usages["run"] == usages["quote"] == "[OPTIONS] FILE:FUNCTION [ARGUMENT...]"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ServerError("x"), Status.FAILED),
        (errors.StorageError("x"), Status.FAILED),
        (errors.SubmitFailed("x", ran="no"), Status.FAILED),
        (errors.ResultNotFetched("x", ran="maybe"), Status.FAILED),
        (errors.OptionError("x"), Status.USAGE),
        (errors.MissingCredentials("x"), Status.USAGE),
        (errors.NotSerializable("x"), Status.USAGE),
        (errors.NotFound("x"), Status.NOT_FOUND),
        (keys.UnknownHandle("x"), Status.NOT_FOUND),
        (errors.WorkerDied("x", ran="yes"), Status.CALL_FAILED),
        (errors.TaskFailed("x", ran="maybe"), Status.CALL_FAILED),
        (NotYet("x"), Status.NOT_YET),
    ],
)
def test_the_exit_status_says_what_is_wrong(error: errors.DokrunError, status: Status) -> None:
    assert status_of(error) == status


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("nonsense", 2, "No such command"),
        ("ls --nonsense", 2, "No such option"),
        ("ls -n many", 2, "-n"),
        ("show", 2, "HANDLE"),
        ("cost --since yesterday", 2, "yesterday"),
        ("tasks show", 2, "ID"),
        ("ls --profile nobody", 2, "there is no profile 'nobody'"),
        ("tasks create --file /no/such/file", 2, "/no/such/file cannot be read"),
        ("ssh-key add /no/such/file", 2, "/no/such/file cannot be read"),
        ("gc --older-than soon", 2, "--older-than='soon' is not a duration"),
        ("rescue", 2, "say --all"),
        ("account agree", 2, "say --yes"),
        ("image shim /no/such/folder/shim.pyz", 2, "cannot be written"),
        ("run nothing.py:f", 2, "there is no Python file nothing.py"),
        ("init", 2, "DOKRUN_ACCESS_TOKEN"),
        ("emulator --data /proc/x", 2, "cannot keep its data in /proc/x"),
        ("emulator --port 1 --data /dev/null", 2, "cannot keep its data in /dev/null"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(place: Place, command: str, status: int, said: str) -> None:
    done = place.dokrun(*command.split())
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("access_token = ", 0o600, "is not valid TOML"),
        ("access_token = 'a'\naccess_token_secret = 'b'\n", 0o644, "can be read by others; run: chmod 600"),
    ],
)
def test_a_file_of_settings_that_cannot_be_used_is_told(place: Place, content: str, mode: int, said: str) -> None:
    folder = place.folder / "dokrun"
    folder.mkdir()
    (folder / "config.toml").write_text(content)
    (folder / "config.toml").chmod(mode)
    for command, status in (("ls", 2), ("doctor", 1)):
        done = place.dokrun(command)
        assert done.returncode == status
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_every_setting_is_told_with_where_it_came_from_and_none_that_may_be_secret(place: Place) -> None:
    folder = place.folder / "dokrun"
    folder.mkdir()
    (folder / "config.toml").write_text(
        "access_token = 'a'\naccess_token_secret = 'hush'\n[defaults]\nplan = 'h100-80gb'\ntimeout = '1h30m'\n"
        "retries = 2\ntags = ['a', 'b']\ndetach = false\nhttp = 8000\nenv = { TOKEN = 'hush' }\n"
    )
    (folder / "config.toml").chmod(0o600)
    told = place.dokrun("config", "show", DOKRUN_HUB_MIRROR="mirror.example").stdout
    rows = [tuple(line.split("\t")) for line in told.splitlines()]
    assert ("registry.hub_mirror", "mirror.example", "DOKRUN_HUB_MIRROR") in rows
    assert {row[0]: row[1] for row in rows if row[0].startswith("defaults.") and row[2] == "config.toml"} == {
        "defaults.plan": "h100-80gb",
        "defaults.timeout": "5400s",
        "defaults.retries": "2",
        "defaults.tags": "a, b",
        "defaults.detach": "no",
        "defaults.http": "8000",
        "defaults.env": "TOKEN",
    }
    assert "hush" not in told


@pytest.mark.parametrize("command", ["--help", "prices", "config show --json", "explain {script}:add"])
def test_nobody_has_to_read_to_the_end(place: Place, command: str) -> None:
    script = place.folder / "script.py"
    script.write_text("import dokrun as dok\n@dok.remote(plan='v100-32gb')\ndef add(a, b): return a + b\n")
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [DOKRUN, *command.format(script=script).split()],
        env=place.environ,
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writes)
    assert done.stderr == ""
    assert done.returncode in (1, 141)
    closed = subprocess.run(
        ["/bin/sh", "-c", f"exec {DOKRUN} {command.format(script=script)} >&-"],
        env=place.environ,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert "Traceback" not in closed.stderr
