"""Which plans there are and what they cost, as the service says: it has new ones now and then, and prices change."""

from __future__ import annotations

import logging
import time
from decimal import Decimal

from dokrun.api import Client
from dokrun.cost import Price
from dokrun.errors import ApiError, OptionError, suggest

_log = logging.getLogger("dokrun.engine")

_KEPT_S = 3600.0
# Of these nobody need ask before a call. The list need not be complete: of any other plan, the service is asked.
_WELL_KNOWN = frozenset({"v100-32gb", "h100-80gb", "h100-8gpu-80gb"})


class Plans:
    """Asks for plans and prices when they are needed, and again after an hour."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prices: dict[str, Price] = {}
        self._prices_until = 0.0
        self._known: set[str] = set()

    def prices(self) -> dict[str, Price]:
        """Tell what a second costs on each plan, by the plan's id.

        Raises:
            ApiError: the service refused or did not answer.
        """
        if time.monotonic() >= self._prices_until:
            minimum = {plan.id: plan.minimum_execution_seconds for plan in self._client.plans.iterate()}
            listed = self._client.prices.iterate()
            self._prices = {unit.plan: Price(unit.plan, unit.price, minimum.get(unit.plan, 0)) for unit in listed}
            self._prices_until = time.monotonic() + _KEPT_S
        return self._prices

    def minimum_s(self, plan: str) -> int:
        """Tell for how many seconds a plan's tasks are billed at least; 0 where that cannot be had."""
        try:
            price = self.prices().get(plan)
        except ApiError as error:
            _log.debug("cannot see what is billed at least on %s: %s", plan, error)
            return 0
        return 0 if price is None else price.minimum_seconds

    def price_for(self, plan: str, name: str, max_yen: Decimal | None) -> Price | None:
        """Tell the price that a `max_yen` is counted by; None where there is none to be kept.

        Raises:
            OptionError: it does not pay for a task, or the price cannot be had.
        """
        if max_yen is None:
            return None
        try:
            prices = self.prices()
        except ApiError as error:
            message = f"max_yen of {name} cannot be kept, since DOK does not tell its prices: {error}"
            raise OptionError(f"{message}; call again, or write max_yen=None to let it cost what it costs") from error
        price = prices.get(plan)
        if price is None:
            known = ", ".join(sorted(prices))
            raise OptionError(f"max_yen of {name} cannot be kept: DOK tells no price for {plan}, only for {known}")
        if max_yen < price.least_yen:
            raise OptionError(
                f"max_yen={max_yen} of {name} does not pay for a task: {price.minimum_seconds} s are billed at least "
                f"on {plan}, which are ¥{price.least_yen:.2f}; give it more, or another plan"
            )
        return price

    def check(self, plan: str, name: str) -> None:
        """Refuse a plan that the service does not have, before anything is sent.

        Where the service does not tell which it has, nothing is refused here: it will say what it thinks of the task.

        Raises:
            OptionError: there is no such plan.
        """
        if plan in _WELL_KNOWN or plan in self._known:
            return
        try:
            self._known = {each.id for each in self._client.plans.iterate()}
        except ApiError as error:
            _log.debug("cannot see whether there is a plan %s: %s", plan, error)
            return
        if self._known and plan not in self._known:
            hint = suggest(plan, self._known)
            raise OptionError(f"{name} asks for the plan {plan!r}, which DOK does not have{hint}")
