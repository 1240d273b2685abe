"""The options and arguments that many commands have, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from dokrun.cli.completion import handles, plans

Profile = Annotated[Optional[str], typer.Option(help="Whose account, in place of the one that is chosen.")]  # noqa: UP045 - typer reads it at run time
Json = Annotated[bool, typer.Option("--json", help="For other programs.")]
_A_HANDLE = "What future.handle tells, its beginning, or a task's id or the beginning of one."
Handle = Annotated[str, typer.Argument(metavar="HANDLE", help=_A_HANDLE, autocompletion=handles)]
Handles = Annotated[list[str], typer.Argument(metavar="HANDLE", help=_A_HANDLE, autocompletion=handles)]
Plan = Annotated[Optional[str], typer.Option(help="The plan that it runs on.", autocompletion=plans)]  # noqa: UP045 - typer reads it at run time
Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it, if no other begins so.")]
Folder = Annotated[Path, typer.Option("--output", "-o", help="The folder to write to; made if it is not there.")]
