"""What seconds on a plan cost. No I/O: prices are handed in."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Price:
    """A plan's price in yen per second, tax included, and the least number of seconds that is billed."""

    plan: str
    yen_per_second: Decimal
    minimum_seconds: int

    def billed_seconds(self, seconds: float) -> float:
        """Tell how many seconds are billed for a task that ran this long."""
        return max(seconds, float(self.minimum_seconds))

    def yen(self, seconds: float) -> Decimal:
        """Tell what a task that ran this long costs, in yen."""
        return self.yen_per_second * Decimal(str(self.billed_seconds(seconds)))


@dataclass(frozen=True)
class Receipt:
    """What a call cost: `each_seconds` is how long each of its containers ran, as the service counts it, in order.

    There is one for each attempt, and one for each task that ended before the function started.
    """

    each_seconds: tuple[float, ...]
    price: Price

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

    def __str__(self) -> str:
        """Tell the receipt in one line."""
        tasks = f" in {len(self.each_seconds)} tasks" if len(self.each_seconds) > 1 else ""
        return f"¥{self.yen:.2f} ({self.billed_seconds:g} s billed on {self.plan}, {self.seconds:g} s run{tasks})"
