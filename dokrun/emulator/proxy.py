"""A task's public address: a port of this machine that leads to the container's http port, as the service's proxy does.

It answers 503 until the container listens, and cuts what takes long (`passage.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import h11

from dokrun.emulator.clock import Clock
from dokrun.emulator.faults import Faults
from dokrun.emulator.passage import Limits, Passage
from dokrun.emulator.ports import stop_listening
from dokrun.emulator.wire import Wire


class PublicPort:
    """The server behind one task's address. `url` is where it listens."""

    def __init__(self, server: asyncio.Server, connections: _Connections) -> None:
        self._server = server
        self._connections = connections
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

    @classmethod
    async def open(cls, container_port: int, limits: Limits, clock: Clock, faults: Faults) -> PublicPort:
        """Listen on a free loopback port for a container's port.

        Args:
            container_port: where the container listens, or will.
            limits: what passes.
            clock: what tells the time.
            faults: what shall go wrong.
        """
        connections = _Connections()

        def connected() -> _Outside:
            return _Outside(lambda wire: Passage(wire, container_port, limits, clock, faults), connections)

        return cls(await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0), connections)

    async def close(self) -> None:
        """Stop to listen, and end every connection."""
        await stop_listening(self._server)
        await self._connections.end()


class _Connections:
    """Those that somebody has made to a port."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False

    def begin(self, serving: Coroutine[Any, Any, None], writer: asyncio.StreamWriter) -> None:
        """Serve another one; it is closed when that is over, also if that is ended before it began."""
        task = asyncio.get_running_loop().create_task(serving)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())
        if self._ended:
            task.cancel()  # it was on its way when the port was closed

    async def end(self) -> None:
        """End all of them, and those that are on their way."""
        self._ended = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Outside(asyncio.StreamReaderProtocol):
    """A connection from outside. When whoever made it has gone, nothing is done for them any more."""

    def __init__(self, passage: Callable[[Wire], Passage], connections: _Connections) -> None:
        super().__init__(asyncio.StreamReader(), self._begin)
        self._make_passage = passage
        self._connections = connections
        self._passage: Passage | None = None

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.begin(self._serve(reader, writer), writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._passage = self._make_passage(Wire(h11.SERVER, reader, writer))
        try:
            await self._passage.serve()
        except (OSError, asyncio.CancelledError):
            pass  # whoever was there has gone, or the task has ended

    def eof_received(self) -> bool | None:
        """Hear that nothing more will come."""
        self._stop()
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Hear that the connection is gone."""
        self._stop()
        super().connection_lost(error)

    def _stop(self) -> None:
        if self._passage is not None:
            self._passage.give_up()
