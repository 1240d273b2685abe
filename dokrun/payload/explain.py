"""Tell which files would go along with a function, without sending anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dokrun.payload import source
from dokrun.payload.folders import below
from dokrun.payload.serialize import Serializer
from dokrun.payload.source import LeftOut, Source, SourceFile


@dataclass(frozen=True)
class Explanation:
    """What a call would send of the user's code.

    `by_value` says that the function itself is pickled with what it refers to, and imported from no file. `files` go
    along and `left_out` stays here, each with its reason.
    """

    by_value: bool
    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...]


def explain(
    function: Callable[..., Any], name: str, *, include: Iterable[str] = (), exclude: Iterable[str] = ()
) -> Explanation:
    """List the files that a call of a function would send, but for those that only its arguments need.

    Raises:
        NotSerializable: the function cannot be pickled.
        OptionError: an `include` matches no file, or `exclude` takes away what the function is defined in.
    """
    serializer = Serializer()
    where = source.locate(function)
    if where is None:
        serializer.function(function, name)
    else:
        serializer.modules.add(where.module)
    found = source.collect(serializer.modules, [source.origin_of(function, name)], include=include, exclude=exclude)
    return Explanation(where is None, found.files, tuple(_left_out(found)))


def _left_out(found: Source) -> Iterator[LeftOut]:
    """Tell folders that stay out by what does stay, where an import or `include=` brings some of their files."""
    names = {file.name for file in found.files}
    folders = dict(parent for file in found.files for parent in _parents(file))
    for each in found.left_out:
        folder = folders.get(each.name)
        if folder is None:
            yield each
            continue
        for inner in below(folder, folder, None):
            name = f"{each.name}/{inner.path.relative_to(folder).as_posix()}"
            if name not in names:
                yield LeftOut(name, inner.left_out or each.reason)


def _parents(file: SourceFile) -> Iterator[tuple[str, Path]]:
    """Yield the folders that a file lies in, by the names that they have in the container."""
    yield from zip(map(str, Path(file.name).parents), file.path.parents, strict=False)
