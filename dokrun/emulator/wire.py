"""One connection that speaks HTTP/1.1: h11 tells what is said on it, asyncio brings it."""

from __future__ import annotations

import asyncio
import socket
import struct
from http import HTTPStatus

import h11

LONGEST_HEAD = 64 << 10
_CHUNK = 64 << 10


class Broken(Exception):
    """The other side has gone, or does not speak HTTP; `status` is what a client is to be told, if it still listens."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Wire:
    """A connection, and how far the exchange of requests and answers on it is. `role` is who we are on it."""

    def __init__(
        self,
        role: type[h11.CLIENT | h11.SERVER],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.http = h11.Connection(role, max_incomplete_event_size=LONGEST_HEAD)
        self._reader = reader
        self._writer = writer

    @property
    def ended(self) -> bool:
        """Whether the other side will say nothing more."""
        return self._reader.at_eof() or self._writer.is_closing()

    @property
    def switched(self) -> bool:
        """Whether another protocol is spoken now."""
        return self.http.our_state is h11.SWITCHED_PROTOCOL

    @property
    def surplus(self) -> bytes:
        """What has come after the last message, or after the switch to another protocol."""
        return self.http.trailing_data[0]

    async def begins(self) -> bool:
        """Wait for the first byte of the next message; False says that there will be none."""
        if not self.surplus:
            self.http.receive_data(await self.read())
        return bool(self.surplus)

    async def events(self) -> list[h11.Event]:
        """Wait for a part of the message under way, and tell all parts that are there. Raises Broken."""
        found: list[h11.Event] = []
        while True:
            try:
                event = self.http.next_event()
                if event is h11.NEED_DATA:
                    if found:
                        return found
                    self.http.receive_data(await self.read())
                    continue
            except h11.RemoteProtocolError as error:
                raise Broken(error.error_status_hint, str(error)) from error
            except OSError as error:
                raise Broken(HTTPStatus.BAD_REQUEST, str(error)) from error
            if not isinstance(event, h11.Event):
                return found  # there is more, and it is not for now
            found.append(event)
            if isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                return found

    def send(self, *events: h11.Event) -> None:
        """Say parts of a message, all of them in one go."""
        self.write(b"".join(self.http.send(event) or b"" for event in events))

    def next(self) -> bool:
        """Make ready for another message; False says that there can be none on this connection."""
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        self.http.start_next_cycle()
        return True

    async def read(self) -> bytes:
        """Wait for bytes; none say that there will be no more."""
        return await self._reader.read(_CHUNK)

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the other side has taken most of what was sent."""
        await self._writer.drain()

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        if self._writer.can_write_eof():
            self._writer.write_eof()

    def close(self) -> None:
        """Close the connection once all is sent."""
        self._writer.close()

    def reset(self) -> None:
        """Break the connection off."""
        reset(self._writer.transport)


def reset(transport: asyncio.Transport | asyncio.WriteTransport) -> None:
    """Break a TCP connection off, so that the other side sees a reset."""
    # With no time to linger, closing sends RST in place of FIN.
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
