"""Which files would go along with a call, and why: what `dokrun explain script.py:train` shows.

A script is explained as `python script.py` would send it: its functions are those of `__main__`, and go by value. A
module, `package.module:train` or a file in a package, is imported by its name, as others would.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from dokrun.errors import OptionError, suggest
from dokrun.function import LOOKING, RemoteFunction
from dokrun.payload.bundle import LIMIT_BYTES, check_size, size_text
from dokrun.payload.explain import Explanation
from dokrun.payload.source import LeftOut

T = TypeVar("T")
# How many names one line of what was left out has.
_NAMED = 5


def show(target: str, profile: str | None) -> None:
    """List the files that would go along with a call of the function that is meant by FILE:FUNCTION."""
    file, colon, name = target.rpartition(":")
    if not colon or not file or not name:
        raise OptionError(f"{target!r} names no function; write script.py:train")
    function = _function(_load(file, name), file, name)
    found = (function.options(profile=profile) if profile else function).explain()
    _show(found, name, file)
    check_size(found.files)


def _function(module: ModuleType, file: str, name: str) -> RemoteFunction[..., Any]:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, RemoteFunction):
        return found
    if found is not None:
        raise OptionError(f"{name} in {file} is no remote function; put @dok.remote(plan=…) on it")
    known = [key for key, value in vars(module).items() if isinstance(value, RemoteFunction)]
    raise OptionError(f"there is no function {name} in {file}{suggest(name, known)}")


def _load(file: str, name: str) -> ModuleType:
    if all(part.isidentifier() for part in file.split(".")) and not file.endswith(".py"):
        return _imported(file, Path.cwd(), file)
    path = Path(file).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise OptionError(f"there is no Python file {file}; write the path of a script, as in script.py:{name}")
    if not (path.parent / "__init__.py").is_file():
        return _started(path, file)
    module, folder = _in_package(path)
    found = _imported(module, folder, file)
    if Path(getattr(found, "__file__", None) or "").resolve() != path:
        raise OptionError(f"{file} cannot be imported, since another module is called {module}; rename it")
    return found


def _in_package(path: Path) -> tuple[str, Path]:
    """Tell the name that others import a file by, and the folder that holds its top package."""
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def _imported(module: str, folder: Path, file: str) -> ModuleType:
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    return _run(lambda: importlib.import_module(module), file)


def _started(path: Path, file: str) -> ModuleType:
    """Make a script `__main__` and leave out what it does as a program, as multiprocessing does in its children."""
    sys.path.insert(0, str(path.parent))
    sys.argv = [file]
    module = ModuleType("__mp_main__")
    vars(module).update(_run(lambda: runpy.run_path(str(path), run_name=module.__name__), file))
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    return module


def _run(load: Callable[[], T], file: str) -> T:
    looking = LOOKING.set(True)
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise OptionError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        LOOKING.reset(looking)


def _show(found: Explanation, name: str, file: str) -> None:
    console = Console(markup=False, highlight=False)  # a file may be called [red].txt
    if found.by_value:
        console.print(f"{name} goes by value: pickled with what it refers to, not imported from {file}", soft_wrap=True)
    table = Table("path", "size", "why")
    table.columns[0].overflow = "fold"
    table.columns[1].justify = "right"
    for each in sorted(found.files, key=lambda each: (-each.size, each.name)):
        table.add_row(each.name, size_text(each.size), each.reason)
    if found.files:
        console.print(table)
    total = sum(file.size for file in found.files)
    console.print(
        f"{len(found.files)} file{chr(115) * (len(found.files) != 1)}, "
        f"{size_text(total)} of {size_text(LIMIT_BYTES)} at most"
    )
    for reason in Counter(each.reason for each in found.left_out):
        console.print(f"left out, {reason}: {_names(found.left_out, reason)}", soft_wrap=True)


def _names(left_out: tuple[LeftOut, ...], reason: str) -> str:
    names = [each.name for each in left_out if each.reason == reason]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
