"""The commands about machines and money: `dokrun plans`, `dokrun prices`, `dokrun bills`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Optional

import typer

from dokrun.cli import render
from dokrun.cli.opened import client_of, local_or
from dokrun.cli.parameters import Json, Profile
from dokrun.cost import Price

Day = Annotated[
    Optional[datetime],  # noqa: UP045 - typer reads it at run time
    typer.Option(formats=["%Y-%m-%d"], help="On which day; today if nothing is said."),
]


def plans(as_json: Json = False, profile: Profile = None) -> None:
    """List the machines that tasks can run on, as DOK tells.

    The service tells of each its name and how many seconds are billed at least; what it costs is told by dokrun prices.
    """
    with local_or(profile) as client:
        rows = [
            {"plan": plan.id, "name": plan.name, "least_seconds_billed": plan.minimum_execution_seconds}
            for plan in client.plans.iterate()
        ]
    render.table(rows, ("plan", "name", "least_seconds_billed"), as_json=as_json, numbers=("least_seconds_billed",))


def prices(
    day: Day = None,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """List what the plans cost: a second, an hour, and a task at least.

    In yen, with tax.
    """
    with local_or(profile) as client:
        least = {plan.id: plan.minimum_execution_seconds for plan in client.plans.iterate()}
        units = list(client.prices.iterate(None if day is None else day.date()))
    rows = []
    for unit in units:
        price = Price(unit.plan, unit.price, least.get(unit.plan, 0))
        rows.append(
            {
                "plan": unit.plan,
                "yen_per_second": unit.price,
                "yen_per_hour": f"{unit.price * 3600:.0f}",
                "least_billed": f"{price.minimum_seconds} s",
                "yen_at_least": f"{price.least_yen:.2f}",
                "own_price": unit.is_overridden,
                "from": unit.begin_at,
                "until": unit.end_at,
            }
        )
    columns = ("plan", "yen_per_second", "yen_per_hour", "least_billed", "yen_at_least")
    render.table(rows, columns, as_json=as_json, numbers=("yen_per_second", "yen_per_hour", "yen_at_least"))


def bills(
    year: Annotated[Optional[int], typer.Option(min=2000, max=9999, help="Of which year.")] = None,  # noqa: UP045 - typer reads it at run time
    month: Annotated[Optional[int], typer.Option(min=1, max=12, help="Of which month.")] = None,  # noqa: UP045 - typer reads it at run time
    day: Annotated[Optional[int], typer.Option(min=1, max=31, help="Of which day.")] = None,  # noqa: UP045 - typer reads it at run time
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """List what DOK has billed, line by line.

    Without a day, a month or a year it is what the service shows by itself; dokrun cost compares it with tasks.
    """
    with client_of(profile) as client:
        rows = [
            {
                "until": bill.bill_close_at if as_json else _time(bill.bill_close_at),
                "plan": detail.plan,
                "usage": detail.usage,
                "yen": detail.amount,
                "description": detail.description,
                "number": detail.sequence_no,
                "usage_type": detail.usage_type,
                "account": bill.account,
                "told_at": bill.last_upload_at,
            }
            for bill in client.bills.iterate(year=year, month=month, day=day)
            for detail in bill.details
        ]
    columns = ("until", "plan", "usage", "yen", "description")
    render.table(rows, columns, as_json=as_json, numbers=("usage", "yen"))


def _time(told: str) -> datetime | str:
    """Read a time that DOK tells as a text, to be shown as that of here; leave a day, or what is none, as it is."""
    try:
        time = datetime.fromisoformat(told.replace("Z", "+00:00"))
    except ValueError:
        return told
    return time if time.tzinfo else told
