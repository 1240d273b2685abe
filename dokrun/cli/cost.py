"""`dokrun cost`: what the tasks that dokrun has made cost, and what the service has billed.

What talks to DOK is loaded when it is needed: the other commands are to begin at once.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from dokrun.cli import render
from dokrun.cli.opened import engine_of
from dokrun.cli.parameters import Json, Profile
from dokrun.cost import JST, utc_now
from dokrun.errors import ApiError

if TYPE_CHECKING:
    from dokrun.engine.spending import Cost

_NAMES, _NUMBERS = ("day", "function", "plan"), ("tasks", "seconds", "yen")


def cost(
    days: Annotated[int, typer.Option(min=1, help="How many days back, today included.")] = 7,
    since: Annotated[
        Optional[datetime],  # noqa: UP045 - typer reads it at run time
        typer.Option(formats=["%Y-%m-%d"], help="From which day on, in place of that."),
    ] = None,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Tell what tasks cost, by day in Japan, function and plan, and what DOK has billed.

    They cost today's prices. Tasks count on the day that they end on, those that run on today. What DOK has
    billed is all of the project's.
    """
    first = utc_now().astimezone(JST).date() - timedelta(days=days - 1)
    if since is not None:
        first = since.date()
    engine = engine_of(profile)
    costs = engine.desk.costs(first)
    try:
        billed, problem = engine.desk.billed(first), ""
    except ApiError as error:
        billed, problem = None, str(error)
    total = sum((each.yen for each in costs), Decimal(0))
    if as_json:
        rows = list(map(asdict, costs))
        told = {"since": first, "costs": rows, "yen": total, "billed_yen": billed, "problem": problem or None}
        render.show_json(told)
        return
    tail = [
        f"¥{total:.2f} since {first}: tasks that dokrun has made, at today's prices",
        _bill(billed, total, problem),
    ]
    render.table(map(_row, costs), (*_NAMES, *_NUMBERS), as_json=False, numbers=_NUMBERS, tail=tail)


def _bill(billed: Decimal | None, total: Decimal, problem: str) -> str:
    if billed is None:
        return f"what DOK has billed cannot be seen: {problem}"
    more = billed - total
    why = "other tasks of the project, or other prices" if more > 0 else "bills may come a while after the tasks"
    beyond = "" if abs(more) < 1 else f", ¥{abs(more):.2f} {'more' if more > 0 else 'less'}: {why}"
    return f"¥{billed:.2f} billed by DOK for these days{beyond}"


def _row(each: Cost) -> render.Row:
    return {**asdict(each), "seconds": f"{each.seconds:.0f}", "yen": f"{each.yen:.2f}"}
