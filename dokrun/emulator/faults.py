"""Faults on purpose: which request goes wrong, when, and how; and a record of each that did.

    faults.add(Fault("reset", method="POST", path="/tasks/", phase="after"))

makes DOK create a task and then hang up without a word, which is what a client must be able to survive. With
`where="port"` it is about requests to the public address of a task's http port, which the container answers
(`portfaults.py`).
"""

from __future__ import annotations

import asyncio
import fnmatch
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dokrun.emulator import answers, validate, wire
from dokrun.emulator.clock import Clock

What = Literal["status", "reset", "hang", "cut", "drip", "garbage", "duplicate", "alter"]
Where = Literal["api", "port"]
Phase = Literal["before", "after", "during", "body"]

# What can happen when: before the effect it is all there is, after it the answer is replaced, during it the client is
# left alone while the effect goes on, and in the body a part of the answer has been sent already.
_ALLOWED: dict[str, dict[str, tuple[str, ...]]] = {
    "api": {
        "before": ("status", "reset", "hang", "garbage"),
        "after": ("status", "reset", "hang", "garbage", "duplicate"),
        "during": ("status", "reset", "hang"),
        "body": ("cut", "reset", "hang", "drip"),
    },
    "port": {
        "before": ("status", "reset", "hang", "alter"),
        "after": ("status", "reset", "hang", "garbage", "duplicate"),
        "body": ("cut", "reset", "hang", "drip", "alter"),
    },
}


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule.

    Attributes:
        what: "status" (an error of the service's), "reset" (the connection, at once), "hang" (until the client goes),
            "cut" (the answer ends too early), "drip" (the answer, a byte every `every_s`), "garbage" (an answer that is
            no JSON), "duplicate" (the effect happens twice), "alter" (one bit of a body is another; on a port only).
        method: which method; "*" is every one.
        path: which paths, as a pattern of `fnmatch`: below the API's own path, or of a port all of it.
        occurrence: which of the requests that match, counted from 1; None is every one. What happens to a request by a
            rule is not counted by those that were added later.
        phase: "before" the effect, which then does not happen; "after" it; "during" it, which then goes on by itself
            and is committed `late_s` later; in the "body" of the answer, at byte `at_byte`. On a port the effect is
            that the container gets the request, none is "during" it, and "alter" is "before" it about the body of the
            request. A port cuts what hangs or drips, as everything else that takes long.
        status: the HTTP status, for "status".
        retry_after_s: the answer's Retry-After, for "status".
        at_byte: for the phase "body", and for "alter".
        every_s: seconds of the emulator's clock, for "drip".
        late_s: seconds of the emulator's clock, for the phase "during".
        where: whether it is about the "api", or about the "port" of any task.

    Examples:
        >>> from dokrun.api import Client
        >>> with Emulator() as service, Client(service.token, service.secret, base_url=service.api_url) as client:
        ...     service.faults.add(Fault("status", method="GET", path="/plans/", status=404))
        ...     client.plans.list()
        Traceback (most recent call last):
        ...
        dokrun.errors.NotFound: ...
    """

    what: What
    method: str = "*"
    path: str = "*"
    occurrence: int | None = 1
    phase: Phase = "before"
    status: int = 503
    retry_after_s: int | None = None
    at_byte: int = 0
    every_s: float = 1.0
    late_s: float = 0.0
    where: Where = "api"

    def __post_init__(self) -> None:
        phases = _ALLOWED[self.where]
        if self.phase not in phases:
            raise ValueError(f"phase {self.phase!r} is none of where={self.where!r}; allowed are {', '.join(phases)}")
        allowed = phases[self.phase]
        if self.what not in allowed:
            raise ValueError(f"{self.what!r} cannot happen in phase {self.phase!r}; allowed are {', '.join(allowed)}")


class Injected(msgspec.Struct, frozen=True):
    """A fault that happened: the number of its rule, and to which request."""

    rule: int
    method: str
    path: str
    occurrence: int
    phase: str
    what: str
    where: str = "api"


class Faults:
    """The rules, and what they did. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: dict[int, Fault] = {}
        self._seen: dict[int, int] = {}
        self._injected: list[Injected] = []
        self._last = 0

    def add(self, fault: Fault) -> int:
        """Add a rule. Tells its number."""
        with self._lock:
            self._last += 1
            self._rules[self._last] = fault
            self._seen[self._last] = 0
            return self._last

    def remove(self, rule: int) -> bool:
        """Take a rule back. Tells whether there was one."""
        with self._lock:
            return self._rules.pop(rule, None) is not None

    def clear(self) -> None:
        """Take all rules back, and forget what they did."""
        with self._lock:
            self._rules.clear()
            self._injected.clear()

    @property
    def rules(self) -> dict[int, Fault]:
        """The rules by their numbers."""
        with self._lock:
            return dict(self._rules)

    @property
    def injected(self) -> list[Injected]:
        """What happened, in order: for a test to see that its fault did."""
        with self._lock:
            return list(self._injected)

    def match(self, method: str, path: str, where: Where = "api") -> tuple[Fault, Injected] | None:
        """Tell what shall happen to a request, and the record of it, to be taken down once it has."""
        with self._lock:
            for number, fault in self._rules.items():
                named = fault.where == where and fault.method in ("*", method)
                if not named or not fnmatch.fnmatchcase(path, fault.path):
                    continue
                self._seen[number] += 1
                if fault.occurrence in (None, self._seen[number]):
                    return fault, Injected(number, method, path, self._seen[number], fault.phase, fault.what, where)
        return None

    def happened(self, injected: Injected) -> None:
        """Take down that a fault has happened."""
        with self._lock:
            self._injected.append(injected)


class FaultMiddleware:
    """Carries the rules out, around everything else."""

    def __init__(self, app: ASGIApp, faults: Faults, clock: Clock, base_path: str) -> None:
        self._app = app
        self._faults = faults
        self._clock = clock
        self._base_path = base_path
        self._effects: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(self._base_path)
        found = None
        if scope["type"] == "http" and not path.startswith("/faults/"):
            found = self._faults.match(scope["method"], path)
        if found is None:
            await self._app(scope, receive, send)
            return
        fault, injected = found
        if fault.phase == "body":
            broken = _BodySend(fault, self._clock, send, receive, happened=lambda: self._faults.happened(injected))
            await self._app(scope, receive, broken)
        else:
            self._faults.happened(injected)
            await self._replace(fault, scope, receive, send)

    async def _replace(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        if fault.what == "duplicate":
            await self._effect(scope, body)
            await self._app(scope, _replayed(body), send)
            return
        if fault.phase == "after":
            await self._effect(scope, body)
        elif fault.phase == "during":
            effect = asyncio.create_task(self._late_effect(fault.late_s, scope, body))
            self._effects.add(effect)
            effect.add_done_callback(self._effects.discard)
        await self._fail(fault, scope, receive, send)

    async def _late_effect(self, late_s: float, scope: Scope, body: bytes) -> None:
        if late_s:
            await self._clock.sleep(late_s)
        await self._effect(scope, body)

    async def _effect(self, scope: Scope, body: bytes) -> None:
        async def nowhere(_message: Message) -> None:
            """Nobody hears the answer."""

        await self._app(dict(scope), _replayed(body), nowhere)

    async def _fail(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.what == "reset":
            reset(receive)
        elif fault.what == "hang":
            await _until_gone(receive)
        elif fault.what == "garbage":
            await Response(b"<html>\xff{", media_type="application/json")(scope, receive, send)
        else:
            answer = answers.error(fault.status, "a fault that was asked for")
            if fault.retry_after_s is not None:
                answer.headers["Retry-After"] = str(fault.retry_after_s)
            await answer(scope, receive, send)


class _BodySend:
    """Passes an answer on up to a byte, and then does what the fault says."""

    def __init__(
        self, fault: Fault, clock: Clock, send: Send, receive: Receive, *, happened: Callable[[], None]
    ) -> None:
        self._fault = fault
        self._happened = happened
        self._clock = clock
        self._send = send
        self._receive = receive
        self._sent = 0
        self._over = False

    async def __call__(self, message: Message) -> None:
        if self._over:
            return
        body = message.get("body", b"")
        if message["type"] != "http.response.body" or self._sent + len(body) <= self._fault.at_byte:
            self._sent += len(body)
            await self._send(message)
            return
        self._happened()
        keep = max(0, self._fault.at_byte - self._sent)
        self._sent += len(body)
        await self._send({"type": "http.response.body", "body": body[:keep], "more_body": True})
        if self._fault.what == "drip":
            await self._drip(body[keep:], more_body=message.get("more_body", False))
            return
        self._over = True
        if self._fault.what == "hang":
            await _until_gone(self._receive)
        elif self._fault.what == "reset":
            reset(self._receive)
        else:
            hang_up(self._receive)

    async def _drip(self, rest: bytes, *, more_body: bool) -> None:
        for position in range(len(rest)):
            await self._clock.sleep(self._fault.every_s)
            await self._send({"type": "http.response.body", "body": rest[position : position + 1], "more_body": True})
        if not more_body:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def reset(receive: Receive) -> None:
    """Reset a request's TCP connection."""
    transport = _transport(receive)
    if transport is not None:
        wire.reset(transport)


def hang_up(receive: Receive) -> None:
    """Close a request's connection once what has been said is sent."""
    transport = _transport(receive)
    if transport is not None:
        transport.close()


def _transport(receive: Receive) -> Any:
    # ASGI has no word for it; uvicorn's `receive` is a method of the cycle that holds it.
    return getattr(getattr(receive, "__self__", None), "transport", None)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _replayed(body: bytes) -> Callable[[], Awaitable[Message]]:
    """Make a `receive` that gives a body again."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


def routes(faults: Faults) -> list[Route]:
    """Make the admin path: see the rules and what they did, add one, take one or all back."""

    async def show(_request: Request) -> Response:
        return answers.value({"rules": faults.rules, "injected": faults.injected})

    async def add(request: Request) -> Response:
        return answers.value({"id": faults.add(validate.read(await request.body(), Fault, nulls=True))}, status=201)

    async def clear(_request: Request) -> Response:
        faults.clear()
        return answers.nothing()

    async def remove(request: Request) -> Response:
        found = faults.remove(request.path_params["rule"])
        return answers.nothing() if found else answers.error(404, "there is no such rule")

    return [
        answers.resource("/", get=show, post=add, delete=clear),
        answers.resource("/{rule:int}/", delete=remove),
    ]
