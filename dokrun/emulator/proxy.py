"""A task's public address: a port of this machine that leads to the container's http port, as the service's proxy does.

It answers 503 until the container listens, and cuts what takes long. Everything else passes as it is, websockets too.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dokrun.emulator.clock import Clock

_LONGEST_HEAD = 64 << 10
_CHUNK = 64 << 10


class PublicPort:
    """The server behind one task's address. `url` is where it listens."""

    def __init__(self, server: asyncio.Server, connections: set[asyncio.Task[None]]) -> None:
        self._server = server
        self._connections = connections
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

    @classmethod
    async def open(cls, container_port: int, cut_s: float, clock: Clock) -> PublicPort:
        """Listen on a free loopback port for a container's port.

        Args:
            container_port: where the container listens, or will.
            cut_s: after how many seconds of silence from the container a request is cut.
            clock: what tells them.
        """
        connections: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - a coroutine that runs has one
            connections.add(task)
            try:
                await _Passage(container_port, cut_s, clock).serve(reader, writer)
            except (OSError, asyncio.CancelledError):
                pass  # whoever was there has gone, or the task has ended
            finally:
                connections.discard(task)
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_LONGEST_HEAD)
        return cls(server, connections)

    async def close(self) -> None:
        """Stop to listen, and end every connection."""
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


class _Passage:
    """One connection from outside, and the one to the container that belongs to it."""

    def __init__(self, container_port: int, cut_s: float, clock: Clock) -> None:
        self._container_port = container_port
        self._cut_s = cut_s
        self._clock = clock

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._container_port)
        except OSError:
            await _refuse(writer, "503 Service Unavailable", "the container does not listen yet")
            return
        inner_writer.write(head)
        upwards = asyncio.create_task(_pass(reader, inner_writer))
        try:
            await self._answer(inner_reader, writer)
        finally:
            upwards.cancel()
            inner_writer.close()

    async def _answer(self, inner: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = False
        while (data := await self._read(inner)) is not None:
            if not data:
                return
            answered = True
            writer.write(data)
            await writer.drain()
        if not answered:
            await _refuse(writer, "504 Gateway Timeout", "the container took too long")

    async def _read(self, inner: asyncio.StreamReader) -> bytes | None:
        """Read what the container says; None if it is silent for too long."""
        reading = asyncio.ensure_future(inner.read(_CHUNK))
        alarm = asyncio.ensure_future(self._clock.sleep(self._cut_s))
        either: set[asyncio.Future[Any]] = {reading, alarm}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            reading.cancel()
            alarm.cancel()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        pass  # the container hung up; what it said last is still passed on


async def _refuse(writer: asyncio.StreamWriter, status: str, why: str) -> None:
    fields = f"Content-Type: text/plain\r\nContent-Length: {len(why) + 1}\r\nConnection: close"
    writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n{why}\n".encode())
    await writer.drain()
