"""Rows for people in a terminal, and for other programs in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Column, Table


def show(names: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """Show a table; in a pipe there are tabs between, and every row is whole, however narrow what reads it may be.

    Args:
        names: the columns'.
        rows: what is in them.
        numbers: which columns are numbers.
    """
    console = Console()
    if not console.is_terminal:
        for row in rows:
            print(*row, sep="\t")
        return
    table = Table(*(Column(name, justify="right" if name in numbers else "left", overflow="fold") for name in names))
    for row in rows:
        table.add_row(*row)
    console.print(table)
