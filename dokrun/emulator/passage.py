"""One connection from outside to a container's http port, and the requests that pass on it.

A request is read whole before it is passed on, so that one that is too large never is; an answer is passed on as it
comes. What has switched to another protocol, as websockets do, passes as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import h11

from dokrun.emulator import hops
from dokrun.emulator.clock import Clock
from dokrun.emulator.exchange import HungUp, Refusal, Request, Say, answer
from dokrun.emulator.faults import Faults
from dokrun.emulator.portfaults import PortFault
from dokrun.emulator.wire import LONGEST_HEAD, Broken, Wire

# A request has not come whole, or cannot be read.
_PARTIAL = (h11.IDLE, h11.SEND_BODY, h11.ERROR)


@dataclass(frozen=True)
class Limits:
    """What a public port lets pass: how long a request may take in all, and how large its body may be."""

    cut_s: float
    body_bytes: int


class Passage:
    """A connection from outside, and the one to the container that belongs to it. Made in the task that serves it.

    Args:
        outer: the connection from outside.
        container_port: where the container listens, or will.
        limits: what passes.
        clock: what tells the time.
        faults: what shall go wrong.
    """

    def __init__(self, outer: Wire, container_port: int, limits: Limits, clock: Clock, faults: Faults) -> None:
        self._outer = outer
        self._inner: Wire | None = None
        self._container_port = container_port
        self._limits = limits
        self._clock = clock
        self._faults = faults
        self._alarm = _Alarm(limits.cut_s, clock)
        self._method = b""
        self._task = _current_task()
        self._carrying = False

    def give_up(self) -> None:
        """Drop the request under way, if there is one: whoever made it has gone."""
        if self._carrying:
            self._task.cancel()

    async def serve(self) -> None:
        """Pass requests on, one after the other, until somebody ends it."""
        watching = asyncio.ensure_future(self._alarm.watch(self._task))
        try:
            while await self._outer.begins() and await self._in_time() and self._outer.next():
                pass
            if self._inner is not None and self._inner.switched:
                await self._tunnel(self._inner)
        finally:
            watching.cancel()
            self._outer.close()
            self._drop()

    async def _in_time(self) -> bool:
        """Carry one request out, unless it takes too long. Tells whether the connection can go on."""
        self._alarm.begin()
        self._carrying = True
        try:
            return await self._exchange()
        except asyncio.CancelledError:
            if not self._alarm.rang:
                raise
            self._refuse(Refusal(HTTPStatus.GATEWAY_TIMEOUT, "the request took too long"))
            return False
        finally:
            self._carrying = False
            self._alarm.end()

    async def _exchange(self) -> bool:
        try:
            request = await self._request()
            found = self._faults.match(request.method, request.path, "port")
            if found is None:
                await self._carry(request, self._say)
            else:
                fault, injected = found
                wrong = PortFault(fault, lambda: self._faults.happened(injected), self._outer, self._clock)
                await wrong.carry(request, self._carry)
        except HungUp:
            return False
        except Broken as error:
            return await self._refuse_and_listen(Refusal(error.status, str(error)))
        except Refusal as refusal:
            return await self._refuse_and_listen(refusal)
        return True

    async def _request(self) -> Request:
        """Read a request. Raises Broken, and Refusal where it cannot pass."""
        head, body = None, bytearray()
        while True:
            for event in await self._outer.events():
                if isinstance(event, h11.Request):
                    head = event
                    self._check_head(head)
                elif isinstance(event, h11.Data):
                    body += event.data
                    self._check_size(len(body))
                elif isinstance(event, h11.EndOfMessage) and head is not None:
                    return Request(head, bytes(body), event)
            if self._outer.http.they_are_waiting_for_100_continue:
                self._outer.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))

    def _check_head(self, head: h11.Request) -> None:
        self._method = head.method
        if head.method == b"CONNECT":
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "nobody is led elsewhere")
        if hops.length(head) > LONGEST_HEAD:
            raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {LONGEST_HEAD} bytes")
        self._check_size(hops.announced(head))

    def _check_size(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {self._limits.body_bytes} bytes")

    async def _carry(self, request: Request, say: Say) -> None:
        """Bring a request to the container, and its answer to `say`. Raises Refusal."""
        inner = await self._reach()
        try:
            # All that there is to send is here already, so nothing waits for it while the answer may be coming.
            body = [h11.Data(data=request.body)] if request.body else []
            inner.send(hops.inwards(request.head), *body, request.end)
            complete = False
            while not complete:
                events = await inner.events()
                await say([hops.outwards(event) for event in events if not _is_continue(event)])
                complete = isinstance(events[-1], h11.EndOfMessage) or inner.switched
        except BaseException as error:
            self._drop()
            if isinstance(error, Broken):
                raise Refusal(HTTPStatus.BAD_GATEWAY, f"the container's answer breaks: {error}") from error
            raise
        if not inner.switched and not inner.next():
            self._drop()

    async def _reach(self) -> Wire:
        """Have a connection to the container: the one that there is, unless it has ended meanwhile."""
        if self._inner is not None and self._inner.ended:
            self._drop()
        if self._inner is None:
            try:
                streams = await asyncio.open_connection("127.0.0.1", self._container_port)
            except OSError as error:
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the container does not listen yet") from error
            self._inner = Wire(h11.CLIENT, *streams)
        return self._inner

    def _drop(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    async def _say(self, events: Sequence[h11.Event]) -> None:
        self._outer.send(*events)
        await self._outer.drain()

    def _refuse(self, refusal: Refusal) -> bool:
        """Answer by itself, if nothing was answered yet. Tells whether another request may follow."""
        http = self._outer.http
        if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False  # what was passed on of an answer is all that there will be
        whole = http.their_state not in _PARTIAL
        more = {} if whole else {"Connection": "close"}
        if refusal.retry_after_s is not None:
            more["Retry-After"] = str(refusal.retry_after_s)
        self._outer.send(*answer(self._method, refusal.status, "text/plain", f"{refusal}\n".encode(), **more))
        return whole

    async def _refuse_and_listen(self, refusal: Refusal) -> bool:
        """Refuse, and hear the rest: a connection that is closed while more is on its way is reset, its answer lost."""
        whole = self._refuse(refusal)
        if not whole:
            self._outer.finish()
            while await self._outer.read():
                pass
        return whole

    async def _tunnel(self, inner: Wire) -> None:
        """Pass bytes on, both ways, until one side ends it or both are silent for too long."""
        self._alarm.begin()
        inner.write(self._outer.surplus)
        self._outer.write(inner.surplus)
        ways = ((self._outer, inner), (inner, self._outer))
        tasks = [asyncio.ensure_future(self._pass(*way)) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _pass(self, source: Wire, target: Wire) -> None:
        try:
            while data := await source.read():
                self._alarm.begin()
                target.write(data)
                await target.drain()
        except OSError:
            pass  # one of them has gone


class _Alarm:
    """Cancels a task when what was begun takes too long. `rang` tells that it has.

    There is one for all that a connection does: a task for each request would cost it a tenth of a millisecond.
    """

    def __init__(self, limit_s: float, clock: Clock) -> None:
        self.rang = False
        self._limit = timedelta(seconds=limit_s)
        self._clock = clock
        self._until = clock.now()
        self._begun = asyncio.Event()

    def begin(self) -> None:
        """Count from now."""
        self._until = self._clock.now() + self._limit
        self._begun.set()

    def end(self) -> None:
        """Count no more."""
        self._begun.clear()

    async def watch(self, task: asyncio.Task[Any]) -> None:
        """Cancel the task when it is time."""
        await self._begun.wait()
        while (left := self._until - self._clock.now()) > timedelta(0):
            await self._clock.sleep(left.total_seconds())
            await self._begun.wait()
        self.rang = True
        task.cancel()


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has one
    return task


def _is_continue(event: h11.Event) -> bool:
    # Whoever is outside was told so when there was something to wait for.
    return isinstance(event, h11.InformationalResponse) and event.status_code == HTTPStatus.CONTINUE
