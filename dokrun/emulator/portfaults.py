"""Faults of a public port: what goes wrong on the way to a container, or back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import h11

from dokrun.emulator.clock import Clock
from dokrun.emulator.exchange import HungUp, Refusal, Request, Say, answer
from dokrun.emulator.faults import Fault
from dokrun.emulator.wire import Wire

# Brings a request to the container, and its answer to somebody.
Carry = Callable[[Request, Say], Awaitable[None]]


class PortFault:
    """A fault that happens to one request.

    Args:
        fault: which.
        happened: called when it happens.
        outer: the connection that the request came on.
        clock: what tells the time.
    """

    def __init__(self, fault: Fault, happened: Callable[[], None], outer: Wire, clock: Clock) -> None:
        self._fault = fault
        self._happened = happened
        self._outer = outer
        self._clock = clock
        self._passed = 0
        self._over = False

    async def carry(self, request: Request, carry: Carry) -> None:
        """Carry the request out as `carry` does, but for the fault, which may be to raise Refusal or HungUp."""
        if self._fault.phase == "body":
            await carry(request, self._say_wrong)
        elif self._fault.what == "alter":
            await carry(self._altered(request), self._say)
        else:
            if self._fault.phase == "after":
                await carry(request, _nobody)
            self._happened()
            if self._fault.what == "duplicate":
                await carry(request, self._say)
            else:
                await self._fail(request)

    async def _fail(self, request: Request) -> None:
        if self._fault.what == "garbage":
            await self._say(answer(request.head.method, 200, "application/json", b"<html>\xff{"))
        elif self._fault.what == "status":
            raise Refusal(self._fault.status, "a fault that was asked for", self._fault.retry_after_s)
        else:
            await self._leave()

    async def _leave(self) -> None:
        """Say nothing more."""
        if self._fault.what == "hang":
            await asyncio.Event().wait()
        elif self._fault.what == "reset":
            self._outer.reset()
        raise HungUp

    def _altered(self, request: Request) -> Request:
        if len(request.body) <= self._fault.at_byte:
            return request
        self._happened()
        return Request(request.head, _altered(request.body, self._fault.at_byte), request.end)

    async def _say(self, events: Sequence[h11.Event]) -> None:
        self._outer.send(*events)
        await self._outer.drain()

    async def _say_wrong(self, events: Sequence[h11.Event]) -> None:
        """Pass an answer on up to a byte of its body, and then do what the fault says."""
        for event in events:
            size = len(event.data) if isinstance(event, h11.Data) else 0
            keep = max(0, self._fault.at_byte - self._passed)
            self._passed += size
            if not isinstance(event, h11.Data) or size <= keep:
                await self._say([event])
            elif self._fault.what == "alter":
                await self._say([event if self._over else h11.Data(data=_altered(event.data, keep))])
                self._happen()
            else:
                await self._say([h11.Data(data=event.data[:keep])])
                self._happen()
                if self._fault.what != "drip":
                    await self._leave()
                await self._drip(event.data[keep:])

    def _happen(self) -> None:
        if not self._over:
            self._over = True
            self._happened()

    async def _drip(self, data: bytes) -> None:
        for place in range(len(data)):
            await self._clock.sleep(self._fault.every_s)
            await self._say([h11.Data(data=data[place : place + 1])])


def _altered(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


async def _nobody(_events: Sequence[h11.Event]) -> None:
    """Nobody hears the answer."""
