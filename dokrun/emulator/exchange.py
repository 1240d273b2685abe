"""What passes on a public port: a request, its answer part by part, or an answer of the port's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

import h11

# Takes the parts of an answer that have come.
Say: TypeAlias = Callable[[Sequence[h11.Event]], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """A request that has come whole."""

    head: h11.Request
    body: bytes
    end: h11.EndOfMessage

    @property
    def method(self) -> str:
        """Its method."""
        return self.head.method.decode()

    @property
    def path(self) -> str:
        """Its path, without the query."""
        return self.head.target.decode().partition("?")[0]


class Refusal(Exception):
    """The port answers by itself."""

    def __init__(self, status: int, why: str, retry_after_s: int | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.retry_after_s = retry_after_s


class HungUp(Exception):
    """The connection ends here, whatever of the answer has passed."""


def answer(method: bytes, status: int, kind: str, body: bytes, **more: str) -> list[h11.Event]:
    """Make an answer of the port's own to a request of this method; `more` are headers, by their names."""
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), *more.items()]
    known = status in HTTPStatus._value2member_map_
    reason = HTTPStatus(status).phrase.encode() if known else b""
    head = h11.Response(status_code=status, headers=headers, reason=reason)
    return [head, *([h11.Data(data=body)] if body and method != b"HEAD" else []), h11.EndOfMessage()]
