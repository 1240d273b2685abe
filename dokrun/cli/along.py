"""Which files would go along with a call, and why: what `dokrun explain script.py:train` shows."""

from __future__ import annotations

from collections import Counter

from dokrun.cli import render, target
from dokrun.payload.bundle import LIMIT_BYTES, check_size, size_text
from dokrun.payload.explain import Explanation
from dokrun.payload.source import LeftOut, SourceFile

# How many names one line of what was left out has.
_NAMED = 5


def show(text: str, profile: str | None, *, as_json: bool) -> None:
    """List the files that would go along with a call of the function that is meant by FILE:FUNCTION."""
    function, name, file = target.find(text)
    found = (function.options(profile=profile) if profile else function).explain()
    if as_json:
        render.show_json(_told(found))
    else:
        _show(found, name, file)
    check_size(found.files)


def _told(found: Explanation) -> dict[str, object]:
    return {
        "by_value": found.by_value,
        "files": [{"path": each.name, "size_bytes": each.size, "why": each.reason} for each in _largest_first(found)],
        "left_out": [{"path": each.name, "why": each.reason} for each in found.left_out],
        "limit_bytes": LIMIT_BYTES,
    }


def _show(found: Explanation, name: str, file: str) -> None:
    if found.by_value:
        print(f"{name} goes by value: pickled with what it refers to, not imported from {file}")
    rows = [{"path": each.name, "size": size_text(each.size), "why": each.reason} for each in _largest_first(found)]
    if rows:
        render.table(rows, ("path", "size", "why"), as_json=False, numbers=("size",))
    total = sum(each.size for each in found.files)
    print(f"{len(rows)} file{'s' * (len(rows) != 1)}, {size_text(total)} of {size_text(LIMIT_BYTES)} at most")
    for reason in Counter(each.reason for each in found.left_out):
        print(f"left out, {render.clean(reason)}: {_names(found.left_out, reason)}")


def _largest_first(found: Explanation) -> list[SourceFile]:
    return sorted(found.files, key=lambda each: (-each.size, each.name))


def _names(left_out: tuple[LeftOut, ...], reason: str) -> str:
    names = [render.clean(each.name) for each in left_out if each.reason == reason]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
