"""The last lines of a log that grows, as a terminal would show them at the end, without its colours."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable

_log = logging.getLogger("dokrun")

LINES = 8
_LONGEST_LINE = 300
# Colours and movements of the cursor, titles of windows, and whatever else is no text.
_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


class Tail:
    """Keeps the last lines of what comes piece by piece. For any thread."""

    def __init__(self, lines: int = LINES) -> None:
        self._last: deque[str] = deque(maxlen=lines)
        self._open = ""
        self._lock = threading.Lock()

    def add(self, piece: str) -> None:
        """Take more of it."""
        with self._lock:
            *whole, rest = (self._open + piece).split("\n")
            self._last.extend(map(plain, whole))
            # What a progress bar has written over is seen no more, however long its line grows.
            self._open = rest[rest.rstrip("\r").rfind("\r") + 1 :][-64 * _LONGEST_LINE :]

    @property
    def lines(self) -> tuple[str, ...]:
        """What they are now."""
        with self._lock:
            return tuple([*self._last, plain(self._open)] if self._open else self._last)[-(self._last.maxlen or 0) :]


class Following:
    """Reads a log in a thread of its own, until it ends."""

    def __init__(self, name: str, log: Callable[[], Iterable[str]], take: Callable[[str], object]) -> None:
        self._name = name
        self._log = log
        self._take = take
        self._stopped = False
        self.ended = threading.Event()
        threading.Thread(target=self._follow, name="dokrun-log", daemon=True).start()

    def stop(self) -> None:
        """Take no more of it."""
        self._stopped = True

    def _follow(self) -> None:
        try:
            for piece in self._log():
                if self._stopped:
                    break
                self._take(piece)
        except Exception as error:  # noqa: BLE001 - a log that cannot be had is no reason for anything to fail
            _log.info("the log of %s is not shown: %s", self._name, error)
        finally:
            self.ended.set()


def plain(line: str) -> str:
    """Tell a line as text alone: what was written over is gone, and so are colours."""
    shown = _CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2])
    return shown if len(shown) <= _LONGEST_LINE else f"{shown[:_LONGEST_LINE]}…"
