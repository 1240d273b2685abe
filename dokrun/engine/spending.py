"""What the project's tasks cost, as the service tells of them, and whether the day's budget lets another one begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from dokrun import errors
from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.cost import JST, Price, midnight, utc_now
from dokrun.engine.listing import Listed
from dokrun.engine.submit import not_submitted


@dataclass(frozen=True)
class Spending:
    """Keeps the project within what it may cost on a day, as far as what it has cost can be seen.

    Args:
        client: DOK.
        prices: tells what a second costs on each plan.
        budget: what the day's tasks may cost, in yen; None is no limit.
        now: tells the time.
    """

    client: Client
    prices: Callable[[], Mapping[str, Price]]
    budget: Decimal | None
    now: Callable[[], datetime] = utc_now

    def check(self, name: str, plan: str) -> None:
        """Refuse another task that cannot but cost more than is left.

        One request, as a rule: the tasks of a day that fit on a page.

        Raises:
            BudgetExceeded: it would.
            SubmitFailed: nobody can tell.
        """
        if self.budget is None:
            return
        try:
            prices, spent = self.prices(), self.today()
        except errors.ApiError as error:
            raise not_submitted(name, f"there is a budget, and what was spent today cannot be seen: {error}") from error
        least = prices[plan].least_yen if plan in prices else Decimal(0)
        if spent + least > self.budget:
            message = (
                f"{name} was not submitted: the project's tasks of today come to ¥{spent:.2f}, and this one costs "
                f"¥{least:.2f} at least, which is more than the budget of ¥{self.budget:.2f} a day"
            )
            raise errors.BudgetExceeded(message, spent=spent, budget=self.budget)

    def today(self) -> Decimal:
        """Tell what the project's tasks cost that end today, run, or wait; the latter two as far as is sure by now.

        Raises:
            ApiError: the service refused or did not answer.
        """
        now, prices = self.now(), self.prices()
        tasks = {task.id: task for task in tasks_since(self.client.tasks.iterate(), midnight(now))}
        return sum((yen_of(task, prices, now) for task in tasks.values()), Decimal(0))


def tasks_since(tasks: Iterable[Task], moment: datetime) -> Iterator[Task]:
    """Yield those of some tasks, newest first, that had not ended before a moment.

    One runs after the other, so that what is older than a task that had run by then had ended too.
    """
    for task in tasks:
        ended = ended_at(task)
        if ended is None or ended >= moment:
            yield task
        elif task.started_at is not None:
            return


def ended_at(task: Task) -> datetime | None:
    """Tell when a task ended; None while it has not."""
    if not task.ended:
        return None
    times = [container.end_at for container in task.containers]
    return next((time for time in (*times, task.canceled_at, task.updated_at, task.created_at) if time), None)


def seconds_of(task: Task, now: datetime | None = None) -> float | None:
    """Tell how long a task's container ran, or has run by now; None where it did not start, or nobody tells."""
    container = next(iter(task.containers), None)
    if container is None:
        return None
    if container.execution_seconds is not None:
        return float(container.execution_seconds)
    until = container.end_at or (None if task.ended else now)
    if container.start_at is None or until is None:
        return None
    return max(0.0, (until - container.start_at).total_seconds())


def yen_of(task: Task, prices: Mapping[str, Price], now: datetime) -> Decimal:
    """Tell what a task costs, or will have cost if it ended now; one that waits will cost the least that one does."""
    price = next((prices.get(container.plan) for container in task.containers), None)
    if price is None:
        return Decimal(0)
    seconds = seconds_of(task, now)
    if seconds is None:
        return Decimal(0) if task.ended else price.least_yen
    return price.yen(seconds)


@dataclass(frozen=True)
class Cost:
    """What one function's tasks on one plan cost that ended on one day, in Japan's time, or have not ended yet."""

    day: date
    function: str
    plan: str
    tasks: int
    seconds: float
    yen: Decimal


def costs_since(listed: Iterable[Listed], since: date, prices: Mapping[str, Price], now: datetime) -> list[Cost]:
    """Sum up what tasks of dokrun's cost, newest first as they are listed; the latest day is first."""
    named = {one.task.id: one for one in _listed_since(listed, since)}
    sums: dict[tuple[date, str, str], list[tuple[float, Decimal]]] = {}
    for one in named.values():
        seconds = seconds_of(one.task, now)
        if seconds is not None:
            day = (ended_at(one.task) or now).astimezone(JST).date()
            plan = next((container.plan for container in one.task.containers), "")
            sums.setdefault((day, one.name, plan), []).append((seconds, yen_of(one.task, prices, now)))
    made = [
        Cost(*key, len(each), sum(seconds for seconds, _ in each), sum((yen for _, yen in each), Decimal(0)))
        for key, each in sums.items()
    ]
    return sorted(made, key=lambda cost: (-cost.day.toordinal(), -cost.yen, cost.function, cost.plan))


def _listed_since(listed: Iterable[Listed], since: date) -> Iterator[Listed]:
    seen: dict[str, Listed] = {}

    def tasks() -> Iterator[Task]:
        for one in listed:
            seen[one.task.id] = one
            yield one.task

    begun = datetime(since.year, since.month, since.day, tzinfo=JST)
    return (seen[task.id] for task in tasks_since(tasks(), begun))


def billed(client: Client, since: date, until: date) -> Decimal:
    """Tell what the service has billed for some days, the last one included. Raises ApiError."""
    days = (since + timedelta(days=number) for number in range((until - since).days + 1))
    return sum((_billed_on(client, day) for day in days), Decimal(0))


def _billed_on(client: Client, day: date) -> Decimal:
    bills = client.bills.iterate(year=day.year, month=day.month, day=day.day)
    return sum((Decimal(detail.amount) for bill in bills for detail in bill.details), Decimal(0))
