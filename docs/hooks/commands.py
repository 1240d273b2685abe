"""The command line's page, made from the program itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from dokrun.cli.app import app

_MARKUP = re.compile(r"\[/?[a-z ]+\]")
_INTRODUCTION = """# The command line

Made from `dokrun --help` of this version. `dokrun COMMAND --help` says the same in the terminal.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    program = typer.main.get_command(app)
    text = "\n".join([_INTRODUCTION, f"{_told(program.epilog)}\n", *_commands(program, "dokrun")])
    files.append(File.generated(config, "reference/cli.md", content=text))
    return files


def _commands(command: Any, path: str) -> Iterator[str]:
    context = typer.Context(command, info_name=path)
    if not hasattr(command, "list_commands"):
        yield from _command(command, path, context)
        return
    if path != "dokrun":
        yield f"## {path} {{#{_anchor(path)}}}\n\n{_told(command.help)}\n"
    for name in command.list_commands(context):
        one = command.get_command(context, name)
        if not one.hidden:
            yield from _commands(one, f"{path} {name}")


def _command(command: Any, path: str, context: Any) -> Iterator[str]:
    yield f"{'#' * (path.count(' ') + 1)} {path} {{#{_anchor(path)}}}\n\n{_told(command.help)}\n"
    yield f"```text\n{' '.join([path, *command.collect_usage_pieces(context)])}\n```\n"
    records = [one.get_help_record(context) for one in command.params if one.name != "help"]
    rows = [f"| {_code(name)} | {_told(told)} |".replace("\n", " ") for name, told in filter(None, records)]
    if rows:
        yield "\n".join(["| takes | which is |", "|---|---|", *rows, ""])


def _told(help_text: str | None) -> str:
    return _MARKUP.sub("", help_text or "").replace("<", "&lt;").replace("|", "\\|")


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _anchor(path: str) -> str:
    return path.replace(" ", "-")
