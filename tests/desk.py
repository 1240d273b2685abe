"""The command line in this process, as a shell would have it: words in, what was written and the exit status out."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from dokrun.cli import main


@dataclass(frozen=True)
class Done:
    """What a command has written, and how it has ended."""

    out: str
    err: str
    status: int

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        assert self.status == 0, self.err
        return [line.split("\t") for line in self.out.splitlines()]


class Shell:
    """Runs commands of dokrun's, written as in a shell, in this process."""

    def __init__(self, patch: pytest.MonkeyPatch, written: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._written = written

    def __call__(self, command: str, *words: object) -> Done:
        self._written.readouterr()
        self._patch.setattr(sys, "argv", ["dokrun", *shlex.split(command), *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        told = self._written.readouterr()
        # What the function raised may be shown, and nothing of ours.
        assert "/dokrun/cli/" not in told.err, told.err
        return Done(told.out, told.err, code if isinstance(code, int) else 0)


@pytest.fixture
def dokrun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)
