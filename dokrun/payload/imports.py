"""Which modules a file imports, and which of them are the user's own: found by reading, nothing is run.

A module is the user's own if it lies neither in the standard library nor among the installed packages. What is
installed in editable mode lies in the user's own folder, and so is the user's.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from dokrun.payload.parsing import parse

# What Debian and everybody else call the folders of installed packages, those of another environment too.
_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})
# dokrun need not be installed where an ordinary package would be; the shim has what the container needs of it.
_OURSELVES = __name__.partition(".")[0]
_IN_THE_SHIM = frozenset({_OURSELVES, "cloudpickle"})


def file_of(module: str) -> Path | None:
    """Tell the Python file of a module that has been imported, or None where it has none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    path = _resolved(os.path.abspath(file))  # noqa: PTH100 - Path's own takes ten times as long, for every call
    return path if path.suffix == ".py" and path.is_file() else None


# A folder that becomes a link to another one while a process has modules of it is nobody's.
@functools.lru_cache(maxsize=4096)
def _resolved(file: str) -> Path:
    return Path(file).resolve()


def is_installed(path: Path) -> bool:
    """Tell whether a file belongs to the standard library or to an installed package."""
    if not _PACKAGE_FOLDERS.isdisjoint(path.parts):
        return True
    return any(path.is_relative_to(folder) for folder in _installed_folders())


@functools.cache
def _installed_folders() -> tuple[Path, ...]:
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(folder).resolve() for folder in (*folders, *site.getsitepackages(), site.getusersitepackages()))


def archive_name(module: str, path: Path) -> str:
    """Tell where the container's `import` looks for a module: `a/b.py`, or `a/b/__init__.py`."""
    base = module.replace(".", "/")
    return f"{base}/__init__.py" if path.name == "__init__.py" else f"{base}.py"


def package_of(module: str, path: Path) -> str:
    """Tell the package that relative imports in a module's file begin from."""
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def files_of(module: str) -> Iterator[tuple[str, Path]]:
    """Yield the user's own files of `a.b.c`: those of `a`, `a.b` and `a.b.c`, as far as they exist."""
    top, *rest = module.split(".")
    path = top_level(top)
    if path is None:
        return
    name = top
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


def top_level(name: str) -> Path | None:
    """Find a top-level module of the user's own: its file, or its folder where it is a namespace package."""
    for path in _places(name):
        own = path.is_dir() or path.suffix in importlib.machinery.SOURCE_SUFFIXES
        if own and not is_installed(path):
            return path
    return None


def is_package_of_others(name: str) -> bool:
    """Tell whether a top-level module is there and is neither the user's own nor the standard library's."""
    if name in sys.stdlib_module_names or name in _IN_THE_SHIM:
        return False
    return bool(_places(name)) and top_level(name) is None


def _places(name: str) -> list[Path]:
    if name == _OURSELVES:
        return []
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.origin is not None and spec.has_location:
        return [Path(spec.origin).resolve()]
    return [Path(folder).resolve() for folder in spec.submodule_search_locations or ()]


def imports(path: Path, package: str) -> list[str]:
    """List the absolute names of the modules that a file may import, wherever in it the statements stand."""
    try:
        stamp = path.stat()
    except OSError:
        return []
    return _parsed_imports(path, package, stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=4096)
def _parsed_imports(path: Path, package: str, _mtime_ns: int, _size: int) -> list[str]:
    try:
        tree = parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
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
