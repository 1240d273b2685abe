"""`dokrun explain script.py:train`: which files would go along, and why."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from dokrun import config
from dokrun.errors import OptionError, suggest
from dokrun.function import RemoteFunction
from dokrun.payload.bundle import LIMIT_BYTES, check_size
from dokrun.payload.explain import explain as explained
from dokrun.payload.source import LeftOut, Source

# How many names one line of what was left out has.
_NAMED = 5


def explain(
    target: Annotated[str, typer.Argument(metavar="FILE:FUNCTION", help="As in script.py:train.")],
    profile: Annotated[Optional[str], typer.Option(help="Whose defaults, in place of the one that is chosen.")] = None,  # noqa: UP045 - typer reads it at run time
) -> None:
    """List the files that would go along with a call, largest first, and why. Imports the script, and sends nothing."""
    function, name = _load(target)
    # A remote function shows its options to nobody else: they may hold the container's environment.
    written = function._options  # noqa: SLF001
    options = written.over(config.load(profile or written.profile).defaults)
    found = explained(function.__dokrun_function__, name, include=options.include, exclude=options.exclude)
    _show(found)
    check_size(found.files)


def _load(target: str) -> tuple[RemoteFunction[..., Any], str]:
    file, colon, name = target.rpartition(":")
    if not colon or not file or not name:
        raise OptionError(f"{target!r} names no function; write script.py:train")
    path = Path(file).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise OptionError(f"there is no Python file {file}; write the path of a script, as in script.py:{name}")
    module = _imported(path, file)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, RemoteFunction):
        known = [key for key, value in vars(module).items() if isinstance(value, RemoteFunction)]
        if found is not None:
            raise OptionError(f"{name} in {file} is no remote function; put @dok.remote(plan=…) on it")
        raise OptionError(f"there is no function {name} in {file}{suggest(name, known)}")
    return found, name.rpartition(".")[2]


def _imported(path: Path, file: str) -> Any:
    """Import a file by the name that other modules would import it by, from the folder that holds its top package."""
    parts = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(".".join(parts))
    except (Exception, SystemExit) as error:
        raise OptionError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    if Path(getattr(module, "__file__", None) or "").resolve() != path:
        raise OptionError(f"{file} cannot be imported, since another module is called {module.__name__}; rename it")
    return module


def _show(found: Source) -> None:
    console = Console(markup=False, highlight=False)  # a file may be called [red].txt
    table = Table("path", "size", "why")
    table.columns[0].overflow = "fold"
    table.columns[1].justify = "right"
    for file in sorted(found.files, key=lambda file: (-file.size, file.name)):
        table.add_row(file.name, _size(file.size), file.reason)
    console.print(table)
    total = sum(file.size for file in found.files)
    console.print(
        f"{len(found.files)} file{chr(115) * (len(found.files) != 1)}, {_size(total)} of {_size(LIMIT_BYTES)} at most"
    )
    for reason in Counter(each.reason for each in found.left_out):
        console.print(f"left out, {reason}: {_names(found.left_out, reason)}", soft_wrap=True)


def _names(left_out: tuple[LeftOut, ...], reason: str) -> str:
    names = [each.name for each in left_out if each.reason == reason]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _size(size: int) -> str:
    if size >= 1 << 20:
        return f"{size / 2**20:,.1f} MiB"
    return f"{size / 1024:,.1f} KiB" if size >= 1 << 10 else f"{size} B"
