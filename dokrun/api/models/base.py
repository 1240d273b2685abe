"""What every answer of DOK's API is made of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec

T = TypeVar("T")

# A time without an offset is not one: nobody could tell when it was.
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Model(msgspec.Struct, frozen=True):
    """A value of the API."""


class Confidential(Model, frozen=True):
    """A value with fields that are never shown, only sent; msgspec would put them into both of its representations."""

    hidden: ClassVar[frozenset[str]]

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Tell the fields as rich shows them."""
        return [(name, "…" if name in self.hidden else getattr(self, name)) for name in self.__struct_fields__]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"


class Meta(Model, frozen=True):
    """Where in a list a page stands."""

    page: int = 1
    page_size: int = 0
    total_pages: int = 1
    count: int = 0
    next: str | None = None
    previous: str | None = None


class Page(Model, Generic[T], frozen=True, kw_only=True):
    """One page of a list."""

    meta: Meta = Meta()
    results: list[T]


class DownloadUrl(Confidential, frozen=True):
    """An address that works for a limited time, without credentials: whoever sees it can use it."""

    hidden = frozenset({"url"})
    url: str


class Acknowledgement(Model, frozen=True):
    """The answer to a change that has nothing else to tell."""

    ok: bool = True


class Error(Model, frozen=True):
    """The body of an answer that is an error; `error_msg` may be in Japanese."""

    is_fatal: bool = False
    serial: str = ""
    status: str = ""
    error_code: str = ""
    error_msg: str = ""
