"""Find which of the user's own files a function needs, by reading them; nothing is run or imported.

From the modules that the pickles refer to, `import` statements are followed to every module that is the user's own,
which is one that lies neither in the standard library nor among the installed packages. A package's `__init__` goes
along with its modules.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import site
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What runs as a program, and what multiprocessing makes of it in a child: nobody else can import either.
MAIN = frozenset({"__main__", "__mp_main__"})


@dataclass(frozen=True)
class SourceFile:
    """A file that goes along: where it lies here, and where the container's `import` will look for it."""

    name: str
    path: Path


@dataclass(frozen=True)
class Location:
    """A function that the container can import: its module, and its name inside it."""

    module: str
    name: str


def locate(function: Callable[..., Any]) -> Location | None:
    """Tell where a function can be imported from, or None where it must travel by value.

    By value go lambdas, functions inside functions, and those of `__main__` and notebooks; also what a name no longer
    stands for, as when it was decorated by something that is not dokrun's.
    """
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if module is None or name is None or module in MAIN or "<" in name:
        return None
    found: Any = sys.modules.get(module)
    if found is None or _module_file(module) is None:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    if getattr(found, "__dokrun_function__", found) is not function:
        return None
    return Location(module, name)


def collect(modules: Iterable[str]) -> list[SourceFile]:
    """List the user's own files that some modules need, their own among them; `__main__` is followed, not sent."""
    files: dict[str, Path] = {}
    pending = [name for name in modules if name not in MAIN]
    main = _module_file("__main__")
    if MAIN.intersection(modules) and main is not None and not _is_installed(main):
        pending += _imports(main, package=sys.modules["__main__"].__package__ or "")
    seen: set[str] = set()
    while pending:
        wanted = pending.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        for name, path in _with_parents(wanted):
            archive_name = _archive_name(name, path)
            if archive_name not in files:
                files[archive_name] = path
                pending += _imports(path, package=name if path.name == "__init__.py" else name.rpartition(".")[0])
    return [SourceFile(name, files[name]) for name in sorted(files)]


def _module_file(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    return path if path.suffix == ".py" and path.is_file() else None


def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _installed_folders())


@functools.cache
def _installed_folders() -> tuple[Path, ...]:
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(folder).resolve() for folder in (*folders, *site.getsitepackages(), site.getusersitepackages()))


def _archive_name(module: str, path: Path) -> str:
    base = module.replace(".", "/")
    return f"{base}/__init__.py" if path.name == "__init__.py" else f"{base}.py"


def _with_parents(module: str) -> Iterator[tuple[str, Path]]:
    """Yield the user's own files of `a.b.c`: those of `a`, `a.b` and `a.b.c`, as far as they exist."""
    top, *rest = module.split(".")
    folder = _top_level(top)
    if folder is None:
        return
    name, path = top, folder
    if path.is_file():
        yield name, path
        path = path.parent if path.name == "__init__.py" else path
    for part in rest:
        name = f"{name}.{part}"
        found = _in_folder(path, part)
        if found is None:
            return
        if found.is_file():
            yield name, found
        path = found.parent if found.name == "__init__.py" else found


def _in_folder(folder: Path, name: str) -> Path | None:
    for candidate in (folder / name / "__init__.py", folder / f"{name}.py", folder / name):
        if candidate.exists():
            return candidate
    return None


def _top_level(name: str) -> Path | None:
    """Find a top-level module of the user's own: its file, or its folder where it is a namespace package."""
    if name == __name__.partition(".")[0]:
        return None  # dokrun itself, which need not be installed where an ordinary package would be
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin is not None and spec.has_location:
        path = Path(spec.origin).resolve()
    elif spec.submodule_search_locations:
        path = Path(next(iter(spec.submodule_search_locations))).resolve()
    else:
        return None
    if _is_installed(path) or (path.is_file() and path.suffix not in importlib.machinery.SOURCE_SUFFIXES):
        return None
    return path


# Python 3.11 keeps the depth of a tree that it builds in one place for all threads, and dies of a SystemError when two
# build one at once (https://github.com/python/cpython/issues/106905).
_parsing = threading.Lock()


def _imports(path: Path, package: str) -> list[str]:
    """List the absolute names of the modules that a file may import, wherever in it the statements stand."""
    stamp = path.stat()
    with _parsing:
        return _parsed_imports(path, package, stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=4096)
def _parsed_imports(path: Path, package: str, _mtime_ns: int, _size: int) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]) if base else ".".join(parents)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names
