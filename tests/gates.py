"""Doors on the way to a server, which can be shut on a client as if it had been killed."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import urllib.parse


class Gate:
    """A way to a server, at an address of its own. Belongs to the loop of its `Gates`."""

    def __init__(self, gates: Gates, target: str) -> None:
        self._gates = gates
        parts = urllib.parse.urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = parts._replace(netloc=f"127.0.0.1:{self._listening.getsockname()[1]}").geturl()
        self._frozen = False
        self._ways: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, sock=self._listening)

    async def freeze(self) -> None:
        """Let nothing more through, and tell nobody."""
        self._frozen = True

    async def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._frozen = True
        if self._server is not None:
            self._server.close()
        for way in self._ways:
            way.cancel()
        await asyncio.gather(*self._ways, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = asyncio.ensure_future(self._pass(reader, writer))
        self._ways.add(way)
        way.add_done_callback(self._ways.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers, pumps = [writer], []
        try:
            there, back = await asyncio.open_connection(*self._target)
            writers.append(back)
            for one in writers:
                # asyncio does so only where the protocol was named; else each answer waits 40 ms for an ACK.
                one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pumps = [asyncio.ensure_future(self._pump(*ends)) for ends in ((reader, back), (there, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # nobody listens there: whoever came is reset
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for one in writers:
                reset(one)

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
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gates", daemon=True)
        self._thread.start()

    def open(self, target: str) -> Gate:
        gate = Gate(self, target)
        asyncio.run_coroutine_threadsafe(gate.open(), self._loop).result(10)
        return gate

    def freeze(self, *gates: Gate) -> None:
        for gate in gates:
            asyncio.run_coroutine_threadsafe(gate.freeze(), self._loop).result(10)

    def cut(self, *gates: Gate) -> None:
        for gate in gates:
            asyncio.run_coroutine_threadsafe(gate.cut(), self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
