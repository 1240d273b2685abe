"""Doors on the way to a server, which can be shut on a client as if it had been killed."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import urllib.parse
from collections.abc import Coroutine
from typing import Any

from dokrun.emulator.ports import stop_listening


class Gate:
    """A way to a server, at an address of its own. Belongs to the loop of its `Gates`."""

    def __init__(self, gates: Gates, target: str) -> None:
        self._gates = gates
        parts = urllib.parse.urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = parts._replace(netloc=f"127.0.0.1:{self._listening.getsockname()[1]}").geturl()
        self._frozen = False
        self._shut = False
        self._ways: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, sock=self._listening)

    async def freeze(self) -> None:
        """Let nothing more through, and tell nobody."""
        self._frozen = True

    async def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._frozen = self._shut = True
        if self._server is not None:
            await stop_listening(self._server)
        for way in self._ways:
            way.cancel()
        await asyncio.gather(*self._ways, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = asyncio.ensure_future(self._pass(reader, writer))
        self._ways.add(way)
        way.add_done_callback(self._ways.discard)
        way.add_done_callback(lambda _: reset(writer))  # what is cancelled before it has begun does not do so itself
        if self._shut:
            way.cancel()  # it was on its way in when the gate was cut

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            return  # nobody listens there: whoever came is reset
        pumps = [asyncio.ensure_future(self._pump(*ends)) for ends in ((reader, back), (there, writer))]
        try:
            for one in (writer, back):
                # asyncio does so only where the protocol was named; else each answer waits 40 ms for an ACK.
                one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # whoever came has gone
        finally:
            reset(back)  # first: it may be cancelled while it waits for them
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self._frozen:
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()
        await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    known: socket.socket | None = writer.get_extra_info("socket")
    if known is not None and known.fileno() >= 0:
        known.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Gates:
    """Makes gates, and keeps them open on a thread of its own."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._stay(),), name="gates", daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _stay(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._leave = asyncio.Event()
        self._gates: list[Gate] = []
        self._ready.set()
        await self._leave.wait()
        for gate in self._gates:
            await gate.cut()

    def open(self, target: str) -> Gate:
        gate = Gate(self, target)
        self._gates.append(gate)
        self._do(gate.open())
        return gate

    def freeze(self, *gates: Gate) -> None:
        for gate in gates:
            self._do(gate.freeze())

    def cut(self, *gates: Gate) -> None:
        for gate in gates:
            self._do(gate.cut())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join()

    def _do(self, step: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(10)
