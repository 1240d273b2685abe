"""The benchmarks' page: its tables and drawings are made of what `make bench-peers` wrote to `docs/benchmarks.json`."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

_PAGE, _RESULTS = "benchmarks.md", "benchmarks.json"
_CALLS, _BYTES = "map of ", "array of "
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 420, 56, 130, 12, 40
# Told apart without colour, too: by the names at their ends.
_COLOURS = (
    "#0d9488",
    "#6b7280",
    "#b45309",
    "#7c3aed",
    "#be185d",
    "#2563eb",
    "#65a30d",
    "#dc2626",
    "#0891b2",
    "#a16207",
)
_COLOURS_MORE = "#475569"
_LINE_HEIGHT = 14
_THREE_DIGITS, _TWO_DIGITS = 100, 10

Told = Mapping[str, Any]
Points = dict[str, list[tuple[float, float]]]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: object) -> str:
    """Put in what the page marks as to be made."""
    del files
    if page.file.src_uri != _PAGE:
        return markdown
    told = json.loads(Path(config.docs_dir, _RESULTS).read_text(encoding="utf-8"))
    made = {
        "machine": _machine(told),
        "figures": _figures(told["figures"]),
        "compared": _compared(told["compared"]),
        "calls": _drawing(_points(told["compared"], _CALLS), "calls in a map", _count),
        "bytes": _drawing(_points(told["compared"], _BYTES), "an array there and back", _size),
    }
    for name, text in made.items():
        markdown = markdown.replace(f"<!-- {name} -->", text)
    return markdown


def _machine(told: Told) -> str:
    machine = told["machine"]
    where = f"{machine['processor']}, {machine['processors']} processors, {machine['memory_gib']} GiB"
    virtual = ", a virtual machine" if machine["virtual"] else ""
    versions = ", ".join(
        f"{name} {version}" for name, version in told["versions"].items() if name not in ("raw", "pool")
    )
    rounds = "1 round" if told["rounds"] == 1 else f"{told['rounds']} rounds"
    return (
        f"Measured on {told['date']}, in {rounds}: {where}{virtual}; {machine['system']}; Python {told['python']}; "
        f"{versions}."
    )


def _figures(figures: Sequence[Told]) -> str:
    rows = [f"| {html.escape(one['what'])} | {_cell(one)} | {_aim(one)} | {one['verdict']} |" for one in figures]
    return "\n".join(["| dokrun | median (spread) | aim | |", "|---|---|---|---|", *rows])


def _aim(one: Told) -> str:
    return f"{'≥ ' if one['more'] else ''}{_number(one['aim'])} {one['unit']}".strip()


def _cell(one: Told) -> str:
    if "median" not in one:
        return "-"
    between = "" if one["lowest"] == one["highest"] else f" ({_number(one['lowest'])} … {_number(one['highest'])})"
    return f"{_number(one['median'])} {one['unit']}".strip() + between


def _number(value: float) -> str:
    """Write three digits that matter, and no noughts behind the point."""
    if value >= _THREE_DIGITS:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if value >= _TWO_DIGITS else f"{value:.3g}"


def _compared(rows: Sequence[Told]) -> str:
    """Tell each thing's systems from the least to the most; what cannot be done, and why, behind them."""
    lines = ["| | |", "|---|---|"]
    for row in rows:
        known = {name: cell for name, cell in row["systems"].items() if "median" in cell}
        quickest = sorted(known.items(), key=lambda one: float(one[1]["median"]))
        told = " · ".join(f"{_strong(name)} {_cell({**cell, 'unit': ''})}" for name, cell in quickest)
        reasons: dict[str, list[str]] = {}
        for name in row["systems"].keys() - known.keys():
            reasons.setdefault(row["systems"][name]["unsupported"], []).append(name)
        none = [f"{', '.join(sorted(names))}: {html.escape(why)}" for why, names in sorted(reasons.items())]
        lines.append(f"| {row['what']}, {row['unit']} | {'<br>'.join([told, *none])} |")
    return "\n".join(lines)


def _strong(name: str) -> str:
    return f"**{name}**" if name == "dokrun" else name


# Growth, drawn: both axes by powers of ten, so that what grows evenly is a straight line.


def _points(rows: Sequence[Told], what: str) -> Points:
    found: Points = {}
    for row in rows:
        if row["what"].startswith(what):
            amount = row["what"].removeprefix(what).removesuffix(" there and back").split()
            at = float(amount[0].replace(",", "")) * _UNITS.get(amount[-1], 1)
            for system, cell in row["systems"].items():
                if "median" in cell:
                    found.setdefault(system, []).append((at, cell["median"]))
    return found


def _drawing(points: Points, what: str, write: Any) -> str:
    every = [point for line in points.values() for point in line]
    if not every:
        return ""
    scale = _Scale([at for at, _ in every], [seconds for _, seconds in every])
    ends = _apart({name: scale.y(line[-1][1]) for name, line in points.items()})
    parts = [*_axes(scale, sorted({at for at, _ in every}), write)]
    for number, (name, line) in enumerate(points.items()):
        colour = _COLOURS[number] if number < len(_COLOURS) else _COLOURS_MORE
        path = " ".join(f"{scale.x(at):.1f},{scale.y(seconds):.1f}" for at, seconds in line)
        thick = 3 if name == "dokrun" else 1.5
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}"/>')
        x = scale.x(line[-1][0]) + 6
        parts.append(f'<text x="{x:.1f}" y="{ends[name]:.1f}" fill="{colour}">{html.escape(name)}</text>')
    title = f"seconds for {what}, by system"
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}" font-size="12" width="100%">'
    return f"<div>{head}{''.join(parts)}</svg></div>"


class _Scale:
    """Where a point lies on the drawing."""

    def __init__(self, across: Sequence[float], upwards: Sequence[float]) -> None:
        self._left, self._right = math.log10(min(across)), math.log10(max(across))
        self.lowest, self.highest = math.floor(math.log10(min(upwards))), math.ceil(math.log10(max(upwards)))

    def x(self, at: float) -> float:
        part = (math.log10(at) - self._left) / ((self._right - self._left) or 1)
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def y(self, seconds: float) -> float:
        part = (math.log10(seconds) - self.lowest) / ((self.highest - self.lowest) or 1)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)


def _axes(scale: _Scale, amounts: Sequence[float], write: Any) -> Iterator[str]:
    for power in range(scale.lowest, scale.highest + 1):
        y = scale.y(10.0**power)
        yield (
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity=".15"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="currentColor">{10.0**power:g} s</text>'
        )
    for at in amounts:
        place = f'x="{scale.x(at):.1f}" y="{_HEIGHT - _BOTTOM + 18}"'
        yield f'<text {place} text-anchor="middle" fill="currentColor">{write(at)}</text>'


def _apart(ends: Mapping[str, float]) -> dict[str, float]:
    """Move names that would lie upon each other."""
    moved: dict[str, float] = {}
    last = -math.inf
    for name in sorted(ends, key=lambda one: ends[one]):
        last = moved[name] = max(ends[name] + 4, last + _LINE_HEIGHT)
    return moved


def _count(calls: float) -> str:
    return f"{calls:,.0f}"


def _size(size: float) -> str:
    unit = next(name for name in reversed(_UNITS) if size >= _UNITS[name])
    return f"{size / _UNITS[unit]:,.0f} {unit}"
