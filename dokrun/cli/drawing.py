"""A table for people in a terminal, who copy handles and ids out of it: those stay in one piece."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_GAP = 2
# A longer word, as an image's name or an address, may be broken for want of room.
_LONGEST_UNBROKEN = 32
_NARROWEST = 8
_ID = re.compile(r"([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Column(NamedTuple):
    heading: str
    cells: Sequence[str]
    is_number: bool

    @property
    def width(self) -> int:
        return max(cell_len(line) for each in (self.heading, *self.cells) for line in each.split("\n"))

    @property
    def is_of_words(self) -> bool:
        return all(" " not in cell and cell_len(cell) <= _LONGEST_UNBROKEN for cell in self.cells)

    def narrower(self) -> _Column:
        """Cut ids to their beginning, which every command takes, and let a heading be no wider than what it is of."""
        cells = [_ID.sub(r"\1", cell) for cell in self.cells]
        is_wide = cell_len(self.heading) > max(map(cell_len, cells), default=0)
        return self._replace(heading=self.heading.replace(" ", "\n") if is_wide else self.heading, cells=cells)


def draw(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str]) -> None:
    """Draw a table; `numbers` are the headings of columns of numbers."""
    console, rows = Console(), list(rows)
    columns = [_Column(one, [row[at] for row in rows], one in numbers) for at, one in enumerate(headings)]
    if _together(column.width for column in columns) > console.width:
        columns = [column.narrower() for column in columns]
    least = (column.width if column.is_of_words else _NARROWEST for column in columns)
    is_room = _together(least) <= console.width
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for column in columns:
        side: Literal["left", "right"] = "right" if column.is_number else "left"
        unbroken = is_room and column.is_of_words
        table.add_column(Text(column.heading), justify=side, overflow="fold", no_wrap=unbroken)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)


def _together(widths: Iterable[int]) -> int:
    return sum(width + _GAP for width in widths) - _GAP
