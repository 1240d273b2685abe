"""Machines, what they cost, what has been billed."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from dokrun.api.models.base import Model


class Plan(Model, frozen=True):
    """A machine that tasks can run on; at least `minimum_execution_seconds` are billed."""

    id: str
    name: str = ""
    minimum_execution_seconds: int = 0


class UnitPrice(Model, frozen=True):
    """A plan's price in yen per second, tax included."""

    plan: str
    price: Decimal
    is_overridden: bool = False
    begin_at: str = ""
    end_at: str = ""


class BillingDetail(Model, frozen=True):
    """One line of a bill; what `usage` counts depends on `usage_type`, `amount` is in yen."""

    sequence_no: int = 0
    plan: str | None = None
    usage_type: int = 0
    usage: int = 0
    amount: int = 0
    description: str = ""


class BillingInfo(Model, frozen=True):
    """What has been billed to an account up to a day, line by line."""

    account: str = ""
    bill_close_at: str = ""
    last_upload_at: str = ""
    details: list[BillingDetail] = msgspec.field(default_factory=list)
