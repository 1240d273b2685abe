"""Find which of the user's own files a function needs, by reading them; nothing is run or imported.

From the modules that the pickles refer to, `import` statements are followed to every module that is the user's own.

- A module in a package brings the whole folder of its top-level package, with the data files in it. A folder without
  `__init__.py` that modules are imported from is a package too, as it is to Python.
- A module that lies beside others brings only the Python files that `import` statements lead to: the folder may be
  somebody's home. Its data files come by `include=`.
- `__main__` is followed and not sent: its functions travel by value. Under `python -m`, its package is sent.
- `include=` adds files, folders and glob patterns, relative to the folder that holds the top-level module: for
  `__main__` the folder of the script, and where there is no script, as in a notebook, the current one. What the Python
  files among them import comes too.
- What git ignores stays out of a package's folder; what is imported by name or included goes along all the same.
- `exclude=`, in the patterns of `.gitignore`, has the last word, but may not take away the module that the function is
  imported from. Of other modules nobody can tell: the image may have them, or the function may do without.
- `.git`, `.venv`, `__pycache__` and `*.pyc` stay out always, and so do installed packages.
"""

from __future__ import annotations

import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec

from dokrun.errors import OptionError
from dokrun.payload import imports
from dokrun.payload.folders import Found, GitIgnore, below, is_pattern
from dokrun.payload.include import find_included

# What runs as a program, and what multiprocessing makes of it in a child: nobody else can import either.
MAIN = frozenset({"__main__", "__mp_main__"})
_EXCLUDED = "exclude="


@dataclass(frozen=True)
class SourceFile:
    """A file that goes along: where the container's `import` will look for it, where it lies here, and why it goes.

    The times, in nanoseconds, change when its content does.
    """

    name: str
    path: Path
    reason: str
    size: int
    executable: bool
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class LeftOut:
    """A file or folder, or a package, that stays out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Source:
    """The files that go along, by name, and what was met and stays out."""

    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Location:
    """A function that the container can import: its module, and its name inside it."""

    module: str
    name: str


@dataclass(frozen=True)
class Origin:
    """Where a function that is called was written, and what it is called.

    With `by_name`, the container looks it up in its module, which has to go along then.
    """

    module: str
    name: str = ""
    by_name: bool = False


def origin_of(function: Callable[..., Any], name: str) -> Origin:
    """Tell where a function was written; `__main__` where that cannot be told."""
    module = getattr(getattr(function, "func", function), "__module__", None) or "__main__"
    return Origin(module, name, locate(function) is not None)


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
    if found is None or imports.file_of(module) is None:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    if getattr(found, "__dokrun_function__", found) is not function:
        return None
    return Location(module, name)


def collect(
    modules: Iterable[str],
    origins: Sequence[Origin],
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> Source:
    """List the user's own files that some modules need, their own among them.

    Args:
        modules: the names of modules that the pickles refer to.
        origins: where the functions that are called were written; `include` is relative to the first one.
        include: files, folders and glob patterns that are added.
        exclude: patterns of what stays out.

    Raises:
        OptionError: an `include` matches no file, an `exclude` is not a pattern, or it takes away a function's own
            module.
    """
    search = _Search(exclude)
    main = imports.file_of("__main__")
    wanted = set(modules)
    for origin in origins:
        if origin.module not in MAIN and origin.module in wanted:
            search.want(origin.module, f"of {origin.name or origin.module}")
    if MAIN & wanted and main is not None and not imports.is_installed(main):
        package = sys.modules["__main__"].__package__ or ""
        if package:
            search.want(package, f"of {main.name}")
        search.want_imports(main, package, main.name)
    for other in sorted(wanted - MAIN - {origin.module for origin in origins}):
        search.want(other, f"of {other}, which a value refers to")
    base = base_of(origins[0].module)
    for pattern, found in find_included(include, base):
        search.add_included(found, base, f"include={pattern!r}")
    search.follow()
    for origin in origins:
        if origin.by_name:
            search.insist(origin.module, origin.name)
    return search.result()


def base_of(module: str) -> Path:
    """Tell the folder that holds a module's top-level module: what `include=` is relative to."""
    if module not in MAIN:
        place = imports.top_level(module.partition(".")[0])
        if place is not None:
            return place.parent.parent if place.name == "__init__.py" else place.parent
    main = imports.file_of("__main__")
    if main is None or imports.is_installed(main):
        return Path.cwd()
    package = sys.modules["__main__"].__package__ or ""
    return main.parents[len(package.split(".")) if package else 0]


def main_name() -> str | None:
    """Tell where `__main__` would lie among the files that go along, which its functions' `__file__` shall say."""
    main = imports.file_of("__main__")
    if main is None or imports.is_installed(main):
        return None
    return main.relative_to(base_of("__main__")).as_posix()


class _Search:
    """Goes from module to module, nearest first, so that each file has its most direct reason."""

    def __init__(self, exclude: Iterable[str]) -> None:
        self._exclude = _excluded(exclude)
        self._pending: deque[tuple[str, str]] = deque()
        self._seen: set[str] = set()
        self._tops: set[str] = set()
        self._files: dict[str, SourceFile] = {}
        self._left_out: dict[str, str] = {}

    def want(self, module: str, reason: str) -> None:
        if module not in self._seen:
            self._seen.add(module)
            self._pending.append((module, reason))

    def want_imports(self, path: Path, package: str, name: str) -> None:
        for module in imports.imports(path, package):
            self.want(module, f"imported by {name}")

    def follow(self) -> None:
        while self._pending:
            module, reason = self._pending.popleft()
            top = module.partition(".")[0]
            if top not in self._tops:
                self._tops.add(top)
                self._add_package(top, reason)
                if top and imports.is_package_of_others(top):
                    self._left_out[top] = "an installed package, which the image must have"
            for name, path in imports.files_of(module):
                archive_name = imports.archive_name(name, path)
                self._add(archive_name, path, f"module {reason}" if reason.startswith("of ") else reason)
                if archive_name in self._files:
                    self.want_imports(path, imports.package_of(name, path), archive_name)

    def insist(self, module: str, function: str) -> None:
        for name, path in imports.files_of(module):
            file = imports.archive_name(name, path)
            if name == module and self._left_out.get(file) == _EXCLUDED:
                raise OptionError(
                    f"exclude= takes away {file}, in which {function} is defined, and the container could not import "
                    "it; write patterns that leave it in"
                )

    def add_included(self, found: Found, base: Path, reason: str) -> None:
        name = found.path.relative_to(base).as_posix()
        if found.left_out:
            self._left_out[name] = found.left_out
        elif self._add(name, found.path, reason) and found.path.suffix == ".py":
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            self.want_imports(found.path, imports.package_of(module, found.path), name)

    def _add_package(self, top: str, reason: str) -> None:
        place = imports.top_level(top) if top else None
        folder = place.parent if place is not None and place.name == "__init__.py" else place
        if folder is None or not folder.is_dir() or _is_too_wide(folder):
            return
        for found in below(folder, folder, GitIgnore(folder)):
            name = f"{top}/{found.path.relative_to(folder).as_posix()}"
            if found.left_out:
                self._left_out[name] = found.left_out
            else:
                self._add(name, found.path, f"package {reason}")

    def _add(self, name: str, path: Path, reason: str) -> bool:
        if name in self._files:
            return False
        if self._exclude.match_file(name):
            self._left_out[name] = _EXCLUDED
            return False
        try:
            state = path.stat()
        except OSError as error:
            self._left_out[name] = f"cannot be read ({error.strerror})"
            return False
        executable = bool(stat.S_IXUSR & state.st_mode)
        self._files[name] = SourceFile(
            name, path, reason, state.st_size, executable, state.st_mtime_ns, state.st_ctime_ns
        )
        return True

    def result(self) -> Source:
        files = tuple(self._files[name] for name in sorted(self._files))
        left_out = sorted((name, reason) for name, reason in self._left_out.items() if name not in self._files)
        return Source(files, tuple(LeftOut(*each) for each in left_out))


def _excluded(patterns: Iterable[str]) -> GitIgnoreSpec:
    lines = [pattern.removeprefix("./") for pattern in patterns]
    for line in lines:
        if not is_pattern(line):
            raise OptionError(
                f'exclude={line!r} is not a pattern; write it as in .gitignore: "*.bin", "data/", "a/**/b"'
            )
    return GitIgnoreSpec.from_lines(lines)


def _is_too_wide(folder: Path) -> bool:
    """Tell whether a folder holds somebody's home: it happens to be a package, and nobody means all of it."""
    home = Path(os.path.expanduser("~")).resolve()  # noqa: PTH111 - Path.home raises where there is none
    return home.is_relative_to(folder)
