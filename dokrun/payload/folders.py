"""Which files below a folder go along: all but what git ignores, and what no program needs of another machine's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

_NEVER = frozenset({".git", ".venv", "__pycache__"})
_NEVER_SUFFIX = ".pyc"


@dataclass(frozen=True)
class Found:
    """A file, or a folder as a whole that stays out; `left_out` says why, and is empty for what goes along."""

    path: Path
    left_out: str = ""


class GitIgnore:
    """What the `.gitignore` files say about a folder: those in it, and those above it up to the top of its repository.

    Where there is no repository, one beside the folder counts too. The nearest file that says anything about a path
    decides, as git has it.
    """

    def __init__(self, folder: Path) -> None:
        self._top = next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder.parent)
        self._rules: dict[Path, GitIgnoreSpec | None] = {}

    def ignores(self, path: Path, *, is_folder: bool) -> bool:
        """Tell whether git would ignore a path below the folder."""
        for folder in path.parents:
            rules = self._rules_of(folder)
            if rules is not None:
                name = path.relative_to(folder).as_posix()
                ignored = rules.check_file(f"{name}/" if is_folder else name).include
                if ignored is not None:
                    return ignored
            if folder == self._top:
                break
        return False

    def _rules_of(self, folder: Path) -> GitIgnoreSpec | None:
        if folder not in self._rules:
            try:
                text = (folder / ".gitignore").read_text(errors="replace")
            except OSError:
                self._rules[folder] = None
            else:
                self._rules[folder] = GitIgnoreSpec.from_lines(filter(is_pattern, text.splitlines()))
        return self._rules[folder]


def is_pattern(line: str) -> bool:
    """Tell whether a line of a `.gitignore` can be read; git passes over one that cannot."""
    try:
        GitIgnoreSpec.from_lines([line])
    except (ValueError, re.error):
        return False
    return True


def goes_never(path: Path) -> bool:
    """Tell whether a path stays out whatever else is said: `.git`, `.venv`, `__pycache__`, `*.pyc`."""
    return path.suffix == _NEVER_SUFFIX or not _NEVER.isdisjoint(path.parts)


def below(folder: Path, root: Path, rules: GitIgnore | None) -> Iterator[Found]:
    """Yield the files below a folder, in order. A link to a file inside `root` is a file; other links are left out."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        yield Found(folder, f"cannot be read ({error.strerror})")
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name in _NEVER or path.suffix == _NEVER_SUFFIX:
            continue
        is_folder = entry.is_dir(follow_symlinks=False)
        if rules is not None and rules.ignores(path, is_folder=is_folder):
            yield Found(path, ".gitignore")
        elif not is_folder:
            yield from one(path, root)
        elif (path / "pyvenv.cfg").exists():
            yield Found(path, "a virtual environment")
        else:
            yield from below(path, root, rules)


def one(path: Path, root: Path) -> Iterator[Found]:
    """Yield a file, or why it stays out; of pipes and sockets, nothing."""
    if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(root.resolve())):
        yield Found(path, "a link to a folder, to nothing, or out of the folder")
    elif path.is_file():
        yield Found(path)
