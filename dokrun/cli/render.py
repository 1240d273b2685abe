"""What commands show: tables for people in a terminal, tabs for programs in a pipe, JSON for who asks for it.

What others have written, such as names and tags, is shown as it is: it is no markup, and its control characters, which
could paint the terminal or make two rows of one, are written out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

Row = Mapping[str, object]


def table(
    rows: Iterable[Row], columns: Sequence[str], *, as_json: bool, numbers: Sequence[str] = (), tail: Sequence[str] = ()
) -> None:
    """Show rows: some of their columns to people and in a pipe, all that they have as JSON.

    Args:
        rows: each a mapping of the same keys.
        columns: which keys, in order; in a terminal they are the headings, with spaces for underscores.
        as_json: whether a list of objects is wanted.
        numbers: which columns are numbers.
        tail: lines that follow, which JSON does not have.
    """
    if as_json:
        show_json(list(rows))
        return
    shown = ([text(row.get(column)) for column in columns] for row in rows)
    if is_terminal():
        from dokrun.cli.drawing import draw

        draw([_heading(column) for column in columns], shown, [_heading(column) for column in numbers])
    else:
        for cells in shown:
            print(*cells, sep="\t")
    for line in tail:
        print(line)


def _heading(column: str) -> str:
    return column.replace("_", " ")


def facts(told: Row, *, as_json: bool) -> None:
    """Show what is known of one thing: a line for each key that has a value; a list is several lines."""
    if as_json:
        show_json(told)
        return
    lines = [(key, value) for key, value in told.items() if value not in (None, "", (), [], {})]
    width = max((len(key) for key, _ in lines), default=0) if is_terminal() else 0
    for key, value in lines:
        many = value if isinstance(value, (list, tuple)) else [value]
        for each in many:
            name = _heading(key).ljust(width + 2) if width else f"{key}\t"
            print(name + text(each))


def done(line: str, told: Row, *, as_json: bool) -> None:
    """Say in a line what was done, or as JSON what it was done to."""
    if as_json:
        show_json(told)
    else:
        print(line)


@contextmanager
def each_done(*, as_json: bool) -> Iterator[Callable[[str | None, Row], None]]:
    """Give what says, of one thing after the other, what was done to it: in a line, if it has one, and at once.

    As JSON it is a list of them all in the end, also where the next one cannot be done.
    """
    all_told: list[Row] = []

    def tell(line: str | None, told: Row) -> None:
        all_told.append(told)
        if line is not None and not as_json:
            print(line, flush=True)

    try:
        yield tell
    finally:
        if as_json:
            show_json(all_told)


def show_json(told: object, *, indent: int | None = 2) -> None:
    """Write JSON; without an indent in one line."""
    print(json.dumps(plain(told), indent=indent, ensure_ascii=not is_unicode()), flush=True)


def is_unicode() -> bool:
    """Tell whether the output takes every character, which JSON can do without."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def plain(value: Any) -> Any:
    """Make of a value what JSON can hold: times as ISO 8601, amounts of yen as texts, which lose no digit."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


def text(value: object) -> str:
    """Tell a value in one cell: the time of here, and nothing that would move a cursor or begin a row."""
    if isinstance(value, Mapping):
        told = ", ".join(f"{key}={text(each)}" for key, each in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        told = ", ".join(map(text, value))
    elif isinstance(value, bool):
        told = "yes" if value else "no"
    elif isinstance(value, datetime):
        told = value.astimezone().strftime("%Y-%m-%d %H:%M")
    elif isinstance(value, Decimal):
        told = f"{value:f}"
    else:
        told = "" if value is None else clean(str(value))
    return told


def clean(words: str) -> str:
    """Write out the control characters of a text."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], words)


def is_terminal() -> bool:
    """Tell whether somebody reads the output as it comes."""
    try:
        return sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # it is closed
        return False
