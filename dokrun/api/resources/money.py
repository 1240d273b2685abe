"""Machines, what they cost, what has been billed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from dokrun.api import models
from dokrun.api.resources.base import Resource, iterate_pages, paged


class Plans(Resource):
    """The machines that tasks can run on."""

    def list(self, *, page: int = 1, page_size: int | None = None) -> models.Page[models.Plan]:
        """Tell one page of the plans that the account can use; the service shows them all on one."""
        return self._connection.request("GET", "/plans/", models.Page[models.Plan], query=paged(page, page_size))

    def iterate(self, *, page_size: int | None = None) -> Iterator[models.Plan]:
        """Yield all plans that the account can use."""
        return iterate_pages(lambda page: self.list(page=page, page_size=page_size))


class Prices(Resource):
    """What a second costs."""

    def list(
        self, day: date | None = None, *, page: int = 1, page_size: int | None = None
    ) -> models.Page[models.UnitPrice]:
        """Tell the price of every plan on a day, today where none is given, in yen per second with tax."""
        query = paged(page, page_size)
        if day is not None:
            query |= {"year": day.year, "month": day.month, "day": day.day}
        return self._connection.request("GET", "/unit_prices/", models.Page[models.UnitPrice], query=query)

    def iterate(self, day: date | None = None, *, page_size: int | None = None) -> Iterator[models.UnitPrice]:
        """Yield the price of every plan on a day, page by page."""
        return iterate_pages(lambda page: self.list(day, page=page, page_size=page_size))


class Bills(Resource):
    """What has been billed."""

    def list(
        self,
        *,
        year: int | None = None,
        month: int | None = None,
        day: int | None = None,
        page: int = 1,
        page_size: int | None = None,
    ) -> models.Page[models.BillingInfo]:
        """Tell one page of what has been billed.

        Args:
            year: of the bills; what the service shows without one is its own to say.
            month: of that year, 1 to 12.
            day: of that month, 1 to 31.
            page: which, counted from 1.
            page_size: how many on a page, as many as the service likes where None.
        """
        query = {"year": year, "month": month, "day": day, **paged(page, page_size)}
        return self._connection.request("GET", "/billing_infos/", models.Page[models.BillingInfo], query=query)

    def iterate(
        self,
        *,
        year: int | None = None,
        month: int | None = None,
        day: int | None = None,
        page_size: int | None = None,
    ) -> Iterator[models.BillingInfo]:
        """Yield what has been billed, page by page."""
        return iterate_pages(lambda page: self.list(year=year, month=month, day=day, page=page, page_size=page_size))
