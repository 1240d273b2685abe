"""What `include=` names: files, folders and glob patterns, relative to one folder."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dokrun.errors import OptionError
from dokrun.payload.folders import Found, below, goes_never, one


def find_included(patterns: Iterable[str], base: Path) -> Iterator[tuple[str, Found]]:
    """Yield each pattern with the files that it names; a folder stands for all files below it.

    Raises:
        OptionError: a pattern leads out of the folder, or matches no file.
    """
    for pattern in patterns:
        matched = False
        for path in _matching(pattern, base):
            is_folder = path.is_dir() and not path.is_symlink()
            for found in below(path, base, None) if is_folder else one(path, base):
                matched = matched or not found.left_out
                yield pattern, found
        if not matched:
            raise OptionError(
                f"include={pattern!r} matches no file that could go along below {base}, which it is relative to"
                f"{_near(pattern, base)}"
            )


def _matching(pattern: str, base: Path) -> list[Path]:
    relative = Path(os.path.normpath(base / pattern))
    if not relative.is_relative_to(base):
        raise OptionError(
            f"include={pattern!r} leads out of {base}, which it is relative to; put the file there, or pass its "
            "content as an argument"
        )
    text = relative.relative_to(base).as_posix()
    try:
        paths = [relative] if relative.exists() else sorted(base.glob(text))
    except (ValueError, NotImplementedError) as error:
        raise OptionError(f"include={pattern!r} is not a glob pattern: {error}") from error
    # A link to a folder is not followed, wherever in the path it stands.
    return [path for path in paths if not goes_never(path.relative_to(base)) and _is_below(path, base)]


def _is_below(path: Path, base: Path) -> bool:
    if path == base:
        return True
    return path.parent.resolve() == base.resolve() / path.parent.relative_to(base)


def _near(pattern: str, base: Path) -> str:
    first = Path(pattern).parts[0] if Path(pattern).parts else ""
    try:
        names = [path.name for path in base.iterdir() if not goes_never(Path(path.name))]
    except OSError:
        return ""
    near = difflib.get_close_matches(first, [name for name in names if name != first], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
