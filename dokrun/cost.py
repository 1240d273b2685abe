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
    """What a call's task cost: `seconds` is how long its container ran, as the service counts it."""

    seconds: float
    price: Price

    @property
    def plan(self) -> str:
        """The plan that the task ran on."""
        return self.price.plan

    @property
    def billed_seconds(self) -> float:
        """The seconds that are billed, which are at least the plan's minimum."""
        return self.price.billed_seconds(self.seconds)

    @property
    def yen(self) -> Decimal:
        """The cost in yen, tax included."""
        return self.price.yen(self.seconds)

    def __str__(self) -> str:
        """Tell the receipt in one line."""
        return f"¥{self.yen:.2f} ({self.billed_seconds:g} s billed on {self.plan}, {self.seconds:g} s run)"
