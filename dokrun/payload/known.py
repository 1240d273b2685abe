"""What many calls of a session have in common, their files and functions: found and pickled once, until it changes."""

from __future__ import annotations

import operator
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dokrun.payload.cached import constants_of
from dokrun.payload.serialize import Serializer
from dokrun.payload.source import Origin, Source, SourceFile, collect, main_name
from dokrun.shim.envelope import Segment

# How long a file may be there, which was not there before, until it is seen: so long; or longer, where looking for them
# would take more than this part of the time.
GOOD_FOR_S = 0.5
_PART = 0.03
_MOST = 64


class Known:
    """Both, for all the calls of a session."""

    def __init__(self, good_for_s: float = 0.0) -> None:
        self.sources = Sources(good_for_s)
        self.pickles = Pickles()


@dataclass
class Sources:
    """Finds files as `source.collect` does, but looks for others no more often than that. For any thread.

    Changes of those that were found are seen at once. With `good_for_s` of 0, so is everything.
    """

    good_for_s: float = 0.0

    # Until when they are good.
    _found: dict[tuple[object, ...], tuple[float, Source, str | None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def collect(
        self, modules: Iterable[str], origins: Iterable[Origin], *, include: Iterable[str], exclude: Iterable[str]
    ) -> tuple[Source, str | None]:
        """List the files, and tell where `__main__` would lie among them. Raises as `source.collect` does."""
        key = wanted, written, added, left_out = frozenset(modules), tuple(origins), tuple(include), tuple(exclude)
        with self._lock:
            until, found, main = self._found.get(key, (0.0, None, None))
        if found is not None and time.monotonic() < until and all(map(_is_as_it_was, found.files)):
            return found, main
        began = time.monotonic()
        found = collect(wanted, written, include=added, exclude=left_out)
        main, now = main_name(), time.monotonic()
        good_for_s = max(self.good_for_s, (now - began) / _PART) if self.good_for_s else 0.0
        with self._lock:
            if len(self._found) == _MOST:
                self._found.clear()
            self._found[key] = (now + good_for_s, found, main)
        return found, main


class Pickle(NamedTuple):
    """A function's pickle, which modules it refers to, and what it was made of."""

    segments: list[Segment]
    modules: frozenset[str]
    made_of: list[object]
    # A package may have one more submodule by now that goes along.
    imported: int


@dataclass
class Pickles:
    """Pickles functions as `Serializer.function` does; once, as long as it cannot have changed. For any thread."""

    _known: dict[int, Pickle] = field(default_factory=dict)

    def function(self, serializer: Serializer, function: Callable[..., Any], name: str) -> list[Segment]:
        """Pickle a function by value. Raises NotSerializable."""
        made_of, imported = constants_of(function), len(sys.modules)
        known = self._known.get(id(function))
        if known is None or made_of is None or not _are_same(made_of, known.made_of) or imported != known.imported:
            before, serializer.modules = serializer.modules, set()
            segments = serializer.function(function, name)
            known = Pickle(segments, frozenset(serializer.modules), made_of or [], imported)
            serializer.modules |= before
            if made_of is not None:
                if len(self._known) == _MOST:
                    self._known.clear()
                self._known[id(function)] = known
        serializer.modules |= known.modules
        return known.segments


def _are_same(some: list[object], others: list[object]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _is_as_it_was(file: SourceFile) -> bool:
    try:
        state = file.path.stat()
    except OSError:
        return False
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns) == (file.size, file.mtime_ns, file.ctime_ns)
