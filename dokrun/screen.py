"""One line at the end of a terminal, which is gone when it is cleared. Beside the commands, rich is used here alone."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dokrun.progress import Far, Pace, duration

_LEAST_BAR, _LONGEST_BAR = 8, 40
_LEAST_TEXT = 4


class Part(NamedTuple):
    """A piece of the line; where there is no room for all, those of the highest rank go first.

    `part_done` is how much of a bar is full, of 1; None for text.
    """

    text: str
    style: str
    rank: int
    part_done: float | None = None


class _Cursor(Console):
    """A console that leaves the cursor alone: a process that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002 - rich's own
        return False


class Screen:
    """A line that is drawn over and over. What is printed meanwhile, by other threads, goes above it."""

    def __init__(self) -> None:
        self._console = _Cursor(stderr=True, soft_wrap=True)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            # What goes to a file must go there.
            redirect_stdout=_same_terminal(),
        )
        self._live.start()
        self._drawn: tuple[Part, ...] = ()

    def draw(self, name: str, far: Far, pace: Pace, seconds: float) -> None:
        """Draw the line anew, where it has changed."""
        parts = fitting(parts_of(name, far, pace, seconds), self._console.width - 1)
        if parts != self._drawn:
            self._drawn = parts
            self._live.update(_line(parts), refresh=True)

    def clear(self) -> None:
        """Take it away, and leave the cursor where the line began."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "rich_proxied_file"):
                stream.flush()  # half a line that somebody has printed
        self._live.update(Group())
        self._live.stop()


def parts_of(name: str, far: Far, pace: Pace, seconds: float) -> tuple[Part, ...]:
    """Tell what the line is made of."""
    many = far.total != 1
    bar = bool(many and far.total and far.told)
    told = [
        Part(name, "bold", 0),
        Part("" if bar and far.state == "running" else far.state, "cyan", 1),
        Part("bar" if bar else "", "", 4, part_done=far.told / (far.total or 1)),
        Part(far.count if many else "", "", 1),
        Part(far.failures if many else "", "red", 2),
        Part(pace.rate if many else "", "dim", 7),
        Part(pace.left(far) if many else "", "", 3),
        Part(far.note or far.cost, "yellow", 5),
        Part(f"for {duration(seconds)}", "dim", 6),
    ]
    return tuple(part for part in told if part.text)


def fitting(parts: tuple[Part, ...], width: int) -> tuple[Part, ...]:
    """Leave out and cut what has no room in so many columns."""
    bar_width = max(_LEAST_BAR, min(width // 4, _LONGEST_BAR))
    left = [part if part.part_done is None else part._replace(text="-" * bar_width) for part in parts]
    while _width(left) > width and max(part.rank for part in left) > 1:
        left.remove(max(left, key=lambda part: part.rank))
    for number, part in enumerate(left):
        over = _width(left) - width
        if over > 0:
            left[number] = part._replace(text=_cut(part.text, max(_LEAST_TEXT, cell_len(part.text) - over)))
    return tuple(left)


def _line(parts: tuple[Part, ...]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in parts:
        grid.add_column(no_wrap=True)
    grid.add_row(
        *(
            Text(part.text, style=part.style, no_wrap=True, overflow="crop")
            if part.part_done is None
            else ProgressBar(total=1.0, completed=part.part_done, width=len(part.text))
            for part in parts
        )
    )
    return grid


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"


def _width(parts: list[Part]) -> int:
    return sum(cell_len(part.text) for part in parts) + 2 * (len(parts) - 1)


def _same_terminal() -> bool:
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
