"""What the resources share: a connection, pages, ids in paths."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator
from typing import TypeVar

from dokrun.api import models
from dokrun.api.connection import Connection

T = TypeVar("T")

# The largest that the service accepts.
PAGE_SIZE = 100


def iterate_pages(fetch: Callable[[int], models.Page[T]]) -> Iterator[T]:
    """Yield the results of all pages.

    An entry that is added meanwhile moves the others on by one, so the same entry may come twice; none is left out.
    """
    number = 1
    while True:
        page = fetch(number)
        yield from page.results
        if page.meta.next is None or not page.results:
            return
        number += 1


def paged(page: int, page_size: int | None) -> dict[str, int | None]:
    """Make the query of a list for which the contract tells no pages: the first page is asked for without a word."""
    return {"page": page if page > 1 else None, "page_size": page_size}


def segment(identity: str) -> str:
    """Make a part of a path of an id, whatever somebody takes for one."""
    return urllib.parse.quote(identity, safe="") or "-"


class Resource:
    """A part of the API."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
