"""The user's files that a session's calls need: what was found is good for a moment, as long as it has not changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from dokrun.payload.source import Origin, Source, SourceFile, collect, main_name

# How long a file may be there, which was not there before, until it is seen.
GOOD_FOR_S = 0.5
_MOST = 64


@dataclass
class Sources:
    """Finds files as `source.collect` does, but looks for others no more often than that. For any thread.

    Changes of those that were found are seen at once. With `good_for_s` of 0, so is everything.
    """

    good_for_s: float = 0.0

    _found: dict[tuple[object, ...], tuple[float, Source, str | None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def collect(
        self, modules: Iterable[str], origins: Iterable[Origin], *, include: Iterable[str], exclude: Iterable[str]
    ) -> tuple[Source, str | None]:
        """List the files, and tell where `__main__` would lie among them. Raises as `source.collect` does."""
        key = wanted, written, added, left_out = frozenset(modules), tuple(origins), tuple(include), tuple(exclude)
        with self._lock:
            at, found, main = self._found.get(key, (0.0, None, None))
        if found is not None and time.monotonic() - at < self.good_for_s and all(map(_is_as_it_was, found.files)):
            return found, main
        found = collect(wanted, written, include=added, exclude=left_out)
        main = main_name()
        with self._lock:
            if len(self._found) == _MOST:
                self._found.clear()
            self._found[key] = (time.monotonic(), found, main)
        return found, main


def _is_as_it_was(file: SourceFile) -> bool:
    try:
        state = file.path.stat()
    except OSError:
        return False
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns) == (file.size, file.mtime_ns, file.ctime_ns)
