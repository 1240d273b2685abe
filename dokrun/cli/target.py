"""From `script.py:train`, or `package.module:train`, to the remote function that is meant.

A script is taken as `python script.py` would send it: its functions are those of `__main__`, and go by value. A module,
`package.module:train` or a file in a package, is imported by its name, as others would.
"""

from __future__ import annotations

import contextlib
import importlib
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from dokrun.errors import OptionError, suggest
from dokrun.function import LOOKING, RemoteFunction

T = TypeVar("T")


class Target(NamedTuple):
    """A function, its name, and the file or module that it was looked for in, as the user has written both."""

    function: RemoteFunction[..., Any]
    name: str
    file: str


def find(text: str) -> Target:
    """Import what a target names, and tell the function. Nothing is sent, even by a script that calls at its import.

    Raises:
        OptionError: there is no such function, or its file cannot be imported.
    """
    file, colon, name = text.rpartition(":")
    if not colon or not file or not name:
        raise OptionError(f"{text!r} names no function; write script.py:train")
    return Target(_function(_load(file, name), file, name), name, file)


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
    return _run(lambda: importlib.import_module(module), file, folder)


def _started(path: Path, file: str) -> ModuleType:
    """Make a script `__main__` and leave out what it does as a program, as multiprocessing does in its children."""
    sys.path.insert(0, str(path.parent))
    sys.argv = [file]
    module = ModuleType("__mp_main__")
    vars(module).update(_run(lambda: runpy.run_path(str(path), run_name=module.__name__), file, path.parent))
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    return module


def _run(load: Callable[[], T], file: str, folder: Path) -> T:
    looking = LOOKING.set(True)
    try:
        # What the output is for is what the command tells.
        with contextlib.redirect_stdout(sys.stderr):
            return load()
    except (Exception, SystemExit) as error:
        where = _where(error, folder)
        raise OptionError(f"{file} cannot be imported: {type(error).__name__}: {error}{where}") from error
    finally:
        LOOKING.reset(looking)


def _where(error: BaseException, folder: Path) -> str:
    """Tell the last line of the user's own that an error went through, as the text of a SyntaxError does by itself."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if folder in Path(frame.filename).parents]
    if not own or isinstance(error, SyntaxError):
        return ""
    return f" ({Path(own[-1].filename).relative_to(folder)}, line {own[-1].lineno})"
