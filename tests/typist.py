"""Reads a page as a new user does: saves its files, types its commands, runs its code."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^( *)```(\w+)?(?: title=\"(.+?)\")?[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
PROMPT = "$ "


class Block(NamedTuple):
    """A fenced block of a page, without the indentation that a list gives it."""

    kind: str
    title: str
    text: str

    @property
    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """What is typed at a prompt, each with the lines that are shown below it."""
        typed, shown = "", list[str]()
        for line in self.text.splitlines():
            if line.startswith(PROMPT):
                if typed:
                    yield typed, shown
                typed, shown = line.removeprefix(PROMPT).partition("  # ")[0].strip(), []
            else:
                shown.append(line)
        yield typed, shown


def blocks(page: str) -> list[Block]:
    """Find the fenced blocks of a page, in order."""
    found = []
    for indent, kind, title, text in _FENCE.findall(page):
        lines = [line.removeprefix(indent) for line in text.splitlines()]
        found.append(Block(kind, title, "\n".join(lines) + "\n"))
    return found


class Typist:
    """Somebody at a terminal: a home and a folder of their own, and no settings but those that they type."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        home = folder / "home"
        home.mkdir()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environ = {"PATH": path, "HOME": str(home), "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        self._served: list[subprocess.Popen[str]] = []

    def save(self, block: Block) -> None:
        """Save a block under its title."""
        (self.folder / block.title).write_text(block.text, encoding="utf-8")

    def run(self, script: str) -> str:
        """Run pieces of code in one go."""
        return self.type(f"python -c {shlex.quote(script)}")

    def cells(self, cells: list[str]) -> str:
        """Run the cells of a notebook, one after the other, and stop at the first that raises."""
        script = (
            "from IPython.core.interactiveshell import InteractiveShell\n"
            "shell = InteractiveShell.instance()\n"
            f"for cell in {cells!r}: shell.run_cell(cell).raise_error()"
        )
        return self.run(script)

    def type(self, command: str) -> str:
        """Type a command and tell what is seen; a service stays, and what it says to export is exported."""
        if command.startswith("dokrun emulator"):
            return self._serve(command)
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def _serve(self, command: str) -> str:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"], cwd=self.folder, env=self.environ, stdout=subprocess.PIPE, text=True
        )
        self._served.append(process)
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                self.environ[name] = value
            if line.startswith("export DOKRUN_ACCESS_TOKEN_SECRET"):
                break
        return seen

    def leave(self) -> None:
        """End what was left running."""
        for process in self._served:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def is_shown(expected: list[str], seen: str) -> bool:
    """Tell whether the lines of a page are seen, in order; «…» stands for what differs each time."""
    at = 0
    for line in filter(str.strip, expected):
        found = re.compile(".*".join(re.escape(part) for part in line.split("…"))).search(seen, at)
        if found is None:
            return False
        at = found.end()
    return True
