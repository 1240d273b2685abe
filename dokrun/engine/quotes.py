"""What calls will cost, from the plan's price, their time limits, and what this machine knows of past ones."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from dokrun.cost import Quote, expected_yen
from dokrun.engine.journal import Journal
from dokrun.engine.plans import Plans
from dokrun.engine.prepare import gpus
from dokrun.engine.stage import time_limit_s
from dokrun.errors import OptionError
from dokrun.options import DEFAULT_TIMEOUT_S, Options
from dokrun.retry import Retry


class Split(NamedTuple):
    """How calls share tasks: how many each has, and how many run at the same time; None for one on each GPU."""

    counts: Sequence[int]
    workers: int | None = None


def quote(plans: Plans, journal: Journal, name: str, plan: str, options: Options, split: Split) -> Quote:  # noqa: PLR0917
    """Tell what some calls of a function will cost.

    Raises:
        OptionError: `max_yen` does not pay for a task, or the service tells no price for the plan.
        ApiError: the service does not tell its prices.
    """
    plans.price_for(plan, name, options.max_yen)
    price = plans.prices().get(plan)
    if price is None:
        raise OptionError(f"DOK tells no price for the plan {plan}; dokrun plans lists those that it tells")
    past = journal.past(options.name or name, plan)
    lanes, timeout_s = split.workers or gpus(plan), options.timeout_s or DEFAULT_TIMEOUT_S
    limits_s = [time_limit_s(count, min(lanes, count), timeout_s) for count in split.counts]
    most = sum(map(price.yen, limits_s), Decimal(0)) * (1 + (options.retries or Retry(0)).times)
    tasks = len(split.counts)
    return Quote(
        plan=plan,
        calls=sum(split.counts),
        tasks=tasks,
        least=price.least_yen * tasks,
        expected=expected_yen(price, past, split.counts, lanes),
        most=most if options.max_yen is None else min(most, options.max_yen * tasks),
        yen_per_minute=price.yen_per_second * 60,
        past=len(past),
    )
