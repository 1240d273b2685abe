"""Answers in the service's form: values, pages, errors."""

from __future__ import annotations

import http
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dokrun.api import models
from dokrun.emulator.validate import Invalid

T = TypeVar("T")

LARGEST_PAGE = 100
_CODES = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


Handler = Callable[[Request], Awaitable[Response]]


def resource(path: str, **handlers: Handler) -> Route:
    """Make the route of one path, with a handler for each method, as in `get=self.list_tasks`."""
    by_method = {method.upper(): handler for method, handler in handlers.items()}
    if "GET" in by_method:
        by_method["HEAD"] = by_method["GET"]

    async def answer(request: Request) -> Response:
        return await by_method[request.method](request)

    return Route(path, answer, methods=list(by_method))


def value(shown: object, status: int = 200) -> Response:
    """Answer a value of the API."""
    return Response(msgspec.json.encode(shown), status_code=status, media_type="application/json")


def error(status: int, message: str) -> Response:
    """Answer an error as the service words it."""
    body = models.Error(
        is_fatal=status >= http.HTTPStatus.INTERNAL_SERVER_ERROR,
        serial=secrets.token_hex(16),
        status=f"{status} {http.HTTPStatus(status).phrase}",
        error_code=_CODES.get(status, "error"),
        error_msg=message,
    )
    return value(body, status)


def nothing() -> Response:
    """Answer that it is done."""
    return Response(status_code=204)


def page(request: Request, items: Sequence[T], shown: Callable[[T], object] = lambda item: item) -> Response:
    """Answer the page of a list that the query asks for."""
    number, size = positive(request, "page", 1), positive(request, "page_size", LARGEST_PAGE)
    if size > LARGEST_PAGE:
        raise Invalid(f"page_size: must be {LARGEST_PAGE} or less")
    total = max(1, math.ceil(len(items) / size))

    def address(other: int) -> str | None:
        return str(request.url.include_query_params(page=other)) if 1 <= other <= total else None

    meta = models.Meta(
        page=number,
        page_size=size,
        total_pages=total,
        count=len(items),
        next=address(number + 1),
        previous=address(number - 1),
    )
    results = [shown(item) for item in items[(number - 1) * size : number * size]]
    return value({"meta": meta, "results": results})


def positive(request: Request, name: str, default: int) -> int:
    """Read a whole number of one or more from the query."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise Invalid(f"{name}: must be a whole number of 1 or more")
    return int(text)
