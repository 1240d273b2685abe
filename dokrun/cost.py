"""What seconds on a plan cost, before and after. No I/O: prices and what is known of past calls are handed in."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

# The service bills by days of Japan's time, which knows no summer time.
JST = timezone(timedelta(hours=9))


@dataclass(frozen=True)
class Price:
    """A plan's price in yen per second, tax included, and the least number of seconds that is billed.

    Examples:
        >>> from decimal import Decimal
        >>> price = dok.Price("h100-80gb", Decimal("0.28"), minimum_seconds=60)
        >>> print(price.yen(5), price.yen(100), price.billed_seconds(5))
        16.800 28.00 60.0
    """

    plan: str
    yen_per_second: Decimal
    minimum_seconds: int

    def billed_seconds(self, seconds: float) -> float:
        """Tell how many seconds are billed for a task that ran this long."""
        return max(seconds, float(self.minimum_seconds))

    def yen(self, seconds: float) -> Decimal:
        """Tell what a task that ran this long costs, in yen."""
        return self.yen_per_second * Decimal(str(self.billed_seconds(seconds)))

    @property
    def least_yen(self) -> Decimal:
        """What a task costs at least."""
        return self.yen(0)

    def seconds_for(self, yen: Decimal) -> int | None:
        """Tell for how many whole seconds this pays, as the service counts them; None where nothing is charged."""
        return math.floor(yen / self.yen_per_second) if self.yen_per_second else None


def utc_now() -> datetime:
    """Tell the time."""
    return datetime.now(timezone.utc)


def midnight(now: datetime) -> datetime:
    """Tell when the day began that the service bills now."""
    return now.astimezone(JST).replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Meter:
    """What a session costs so far, and how long it may last.

    Attributes:
        yen: what it has cost, tax included; None where nobody pays, or it is not known yet.
        yen_per_minute: what it costs while its container runs; None likewise.
        left_s: how many seconds the container may still run; None while it does not.
        idle_left_s: how many seconds it waits for a call before it ends by itself; None while it has some, or is not
            there.
        calls: how many calls it has that have not come to an end.
    """

    yen: Decimal | None = None
    yen_per_minute: Decimal | None = None
    left_s: float | None = None
    idle_left_s: float | None = None
    calls: int = 0

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from dokrun.cards import of_meter

        return of_meter(self).bundle

    def __str__(self) -> str:
        """Tell it in one line, as far as it is known."""
        from dokrun.progress import duration  # which is not there in the container

        told = []
        if self.calls:
            told.append(f"{self.calls} call{'s' if self.calls != 1 else ''} under way")
        if self.yen is not None and self.yen_per_minute is not None:
            told.append(f"¥{self.yen:,.2f} so far, ¥{self.yen_per_minute:,.2f} a minute")
        if self.idle_left_s is not None:
            told.append(f"ends in {duration(self.idle_left_s)} if nothing is called")
        if self.left_s is not None:
            told.append(f"{duration(self.left_s)} left")
        return ", ".join(told)


@dataclass(frozen=True)
class Past:
    """A task that has ended: how long it ran, how much of that its calls did, and how many of them side by side.

    `running_s` is None where its container did not tell.
    """

    calls: int
    lanes: int
    seconds: float
    running_s: float | None = None


@dataclass(frozen=True)
class Quote:
    """What a call, or a map, will cost in yen, tax included.

    Attributes:
        plan: the plan that it runs on.
        calls: how many calls there are.
        tasks: how many tasks they share.
        least: what the service bills at least: the plan's minimum for each task.
        expected: what it will cost if it goes as on this machine's past calls of the function; None if there are none.
        most: what it costs if it takes as long as it may: up to its time limit in every attempt, or `max_yen`. Without
            that, many gigabytes to be fetched, or containers that are lost, may add to it.
        yen_per_minute: what it costs while a task runs.
        past: how many past tasks the expectation rests on.

    Examples:
        >>> @dok.remote(plan="h100-80gb", max_yen=100)
        ... def shout(text: str) -> str:
        ...     return text.upper()
        >>> quote = shout.quote("before")
        >>> print(quote)
        ¥16.80 at least, never called before, ¥100.00 at most; ¥16.80 a minute on h100-80gb
        >>> shout.quote.map(["many", "calls"]).tasks
        1
    """

    plan: str
    calls: int
    tasks: int
    least: Decimal
    expected: Decimal | None
    most: Decimal
    yen_per_minute: Decimal
    past: int

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from dokrun.cards import of_quote

        return of_quote(self).bundle

    def __str__(self) -> str:
        """Tell the quote in one line."""
        rests = f"{self.past} past task{'s' if self.past != 1 else ''}"
        about = f"about ¥{self.expected:.2f} (as in {rests})" if self.expected is not None else "never called before"
        return (
            f"¥{self.least:.2f} at least, {about}, ¥{self.most:.2f} at most; "
            f"¥{self.yen_per_minute:.2f} a minute on {self.plan}"
        )


def expected_yen(price: Price, past: Sequence[Past], calls: Sequence[int], lanes: int) -> Decimal | None:
    """Tell what tasks with so many calls each will cost, if they go as past ones did; None if there are none.

    A task takes a while for itself, and each of its calls a while of its lane's.
    """
    done = [task for task in past if task.calls > 0]
    if not done:
        return None
    running = [task.seconds if task.running_s is None else min(task.running_s, task.seconds) for task in done]
    around_s = sum(task.seconds for task in done) / len(done) - sum(running) / len(done)
    worked_s = sum(each * task.lanes for each, task in zip(running, done, strict=True))
    call_s = worked_s / sum(task.calls for task in done)
    return sum((price.yen(around_s + count / min(lanes, count) * call_s) for count in calls), Decimal(0))


@dataclass(frozen=True)
class Phases:
    """How long a call's last task took for what, in seconds, and how much memory; None is what nobody told.

    Attributes:
        queued_s: from its creation to the container's start: in line and for the image's pull, which DOK does not tell
            apart, and which cost nothing.
        downloading_s: from the container's start until all is there that the first calls need, and the attempt is
            claimed.
        running_s: the calls themselves, from the first one's beginning to the last one's end.
        uploading_s: what was written and sent after them.
        peak_memory_bytes: the most memory that the container has used; where it cannot see that, as on the local
            emulator, the most of one of its processes.
        peak_gpu_memory_bytes: the most that PyTorch has held of the GPU's memory; other libraries do not tell.

    Examples:
        >>> @dok.remote(plan="v100-32gb")
        ... def nothing() -> None: ...
        >>> future = nothing()
        >>> future.files()  # waits for the task's end
        []
        >>> future.receipt.phases
        Phases(queued_s=..., downloading_s=..., running_s=..., uploading_s=..., peak_memory_bytes=..., ...)
    """

    queued_s: float | None = None
    downloading_s: float | None = None
    running_s: float | None = None
    uploading_s: float | None = None
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None


@dataclass(frozen=True)
class Receipt:
    """What a call cost: `each_seconds` is how long each of its containers ran, as the service counts it, in order.

    There is one for each attempt, and one for each task that ended before the function started. `phases` are the last
    one's; `prices` are those of all plans, for `advice`.

    Examples:
        >>> from decimal import Decimal
        >>> receipt = dok.Receipt((5.0,), dok.Price("h100-80gb", Decimal("0.28"), 60))
        >>> print(receipt)
        ¥16.80 (60 s billed on h100-80gb, 5 s run)
        >>> receipt.advice
        '60 s are billed for 5 s: f.map(…) lets many calls share a task'
    """

    each_seconds: tuple[float, ...]
    price: Price
    phases: Phases = Phases()
    prices: tuple[Price, ...] = field(default=(), repr=False)

    @property
    def plan(self) -> str:
        """The plan that the tasks ran on."""
        return self.price.plan

    @property
    def seconds(self) -> float:
        """How long all of them ran together."""
        return sum(self.each_seconds)

    @property
    def billed_seconds(self) -> float:
        """The seconds that are billed, which are at least the plan's minimum for each task."""
        return sum(map(self.price.billed_seconds, self.each_seconds))

    @property
    def yen(self) -> Decimal:
        """The cost in yen, tax included."""
        return sum(map(self.price.yen, self.each_seconds), Decimal(0))

    @property
    def advice(self) -> str | None:
        """How it would have cost less, where the plan's minimum was most of it; None where there is nothing to say.

        Nobody can tell how long it takes on another plan, so it says up to which time that one is cheaper.
        """
        seconds, minimum = self.each_seconds[-1], self.price.minimum_seconds
        if seconds >= minimum:
            return None
        said = f"{minimum} s are billed for {seconds:g} s"
        many = "f.map(…) lets many calls share a task"
        own = self.price.least_yen
        cheaper = [each for each in self.prices if each.yen(seconds) < own and self._fits(each.plan)]
        if not cheaper:
            return f"{said}: {many}"
        best = min(cheaper, key=lambda each: each.yen_per_second)
        longest = best.seconds_for(own)
        until = "" if longest is None else f" if it takes less than {longest:,} s there"
        return f"{said}: {many}, and on {best.plan} one alone costs less{until}"

    def _fits(self, plan: str) -> bool:
        """Tell whether a plan's GPU has the memory that was used, as far as its id and the worker tell."""
        used, has = self.phases.peak_gpu_memory_bytes, re.search(r"(\d+)gb", plan)
        return used is None or has is None or used < int(has[1]) << 30

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from dokrun.cards import of_receipt

        return of_receipt(self).bundle

    def __str__(self) -> str:
        """Tell the receipt in one line."""
        tasks = f" in {len(self.each_seconds)} tasks" if len(self.each_seconds) > 1 else ""
        return f"¥{self.yen:.2f} ({self.billed_seconds:g} s billed on {self.plan}, {self.seconds:g} s run{tasks})"
