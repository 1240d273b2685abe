"""From what the rounds have measured to figures: medians with their spread, beside their aims."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from plan import CASES, FIGURES, ROWS, Figure, Round

NOT_MEASURED = "not measured"
_THREE_DIGITS, _TWO_DIGITS = 100, 10


def spread(values: Sequence[float]) -> dict[str, float]:
    """Tell the median, the lowest and the highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def figures(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Tell all figures that have an aim."""
    return [_figure(figure, list(_measured(figure.of, rounds))) for figure in FIGURES]


def _figure(figure: Figure, values: Sequence[float]) -> dict[str, Any]:
    told = {"what": figure.what, "unit": figure.unit, "aim": figure.aim, "more": figure.more, "rounds": len(values)}
    return {**told, **(spread(values) if values else {}), "verdict": verdict(figure, values)}


def verdict(figure: Figure, values: Sequence[float]) -> str:
    """Tell in a word or two whether the aim is reached: by the median, and narrowly where the spread holds the aim."""
    if not values:
        return NOT_MEASURED
    median = statistics.median(values)
    word = "met" if (median >= figure.aim if figure.more else median <= figure.aim) else "missed"
    return f"{word}, narrowly" if min(values) < figure.aim < max(values) else word


def compared(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Tell what stands side by side for all systems, as far as it was measured."""
    systems_of = {case.key: case.systems for case in CASES}
    rows: list[dict[str, Any]] = []
    for row in ROWS:
        told: dict[str, Any] = {}
        reasons = all(other["case"] != row.case for other in rows)  # once for each case
        for system in systems_of[row.case]:
            values = list(_measured(lambda taken, s=system, r=row: taken[r.case, s][r.field] / r.by, rounds))  # type: ignore[misc]  # called at once
            why = next((taken[row.case, system] for taken in rounds if (row.case, system) in taken), {})
            if values:
                told[system] = spread(values)
            elif reasons and "unsupported" in why:
                told[system] = {"unsupported": why["unsupported"]}
        if told:
            rows.append({"what": row.what, "case": row.case, "unit": row.unit, "systems": told})
    return rows


def versions(rounds: Sequence[Round]) -> dict[str, str]:
    """Tell which version of each system was measured."""
    return {
        system: str(told["version"]) for taken in rounds for (_, system), told in taken.items() if "version" in told
    }


def _measured(of: Callable[[Round], float], rounds: Iterable[Round]) -> Iterator[float]:
    for taken in rounds:
        try:
            yield float(of(taken))
        except (KeyError, TypeError):
            pass  # not in this round, or not on this machine


def number(value: float) -> str:
    """Write a figure with three digits that matter."""
    if value >= _THREE_DIGITS:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= _TWO_DIGITS else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def lines(told: Mapping[str, Any]) -> Iterator[str]:
    """Write all of it for a terminal."""
    yield f"{'':<62}{'median':>10}{'spread':>20}{'aim':>8}"
    for figure in told["figures"]:
        if "median" in figure:
            aim = ("≥ " if figure["more"] else "") + number(figure["aim"])
            what = f"{figure['what']}{', ' * bool(figure['unit'])}{figure['unit']}"
            yield f"{what:<62}{_columns(figure)}{aim:>8}   {figure['verdict']}"
    for row in told["compared"]:
        yield f"\n{row['what']}, {row['unit']}"
        for system, cell in row["systems"].items():
            yield f"  {system:<60}" + (_columns(cell) if "median" in cell else f"          {cell['unsupported']}")


def _columns(cell: Mapping[str, Any]) -> str:
    between = f"{number(cell['lowest'])} … {number(cell['highest'])}"
    return f"{number(cell['median']):>10}{between:>20}"
