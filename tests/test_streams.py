"""Connections to servers in a session's container: each byte passes once, however often it is asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from waiting import PATIENCE_S

from dokrun.shim.streams import Streams


class World(NamedTuple):
    """A stream that is open, and the server's end of it."""

    streams: Streams
    server: socket.socket

    def read(self, at: int) -> bytes:
        return self.streams.get("a").read(at, PATIENCE_S)

    def write(self, at: int, data: bytes) -> int:
        return self.streams.get("a").write(at, data)


@pytest.fixture
def world() -> Iterator[World]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        streams = Streams()
        streams.open("a", listening.getsockname()[1])
        server, _ = listening.accept()
        with server:
            server.settimeout(PATIENCE_S)
            yield World(streams, server)
        streams.close("a")


def test_what_a_server_says_is_told_again_until_more_is_asked_for(world: World) -> None:
    world.server.sendall(b"hello")
    assert world.read(0) == world.read(0) == b"hello"
    world.server.sendall(b" again")
    assert world.read(5) == b" again"
    assert world.read(8) == b"ain"


@pytest.mark.parametrize("at", [0, 2, 6, 100])
def test_what_has_come_already_or_has_not_been_said_cannot_be_asked_for(world: World, at: int) -> None:
    world.server.sendall(b"hello")
    assert world.read(0) == b"hello"
    assert world.read(3) == b"lo"
    with pytest.raises(ValueError, match="not in what there is"):
        world.read(at)
    assert world.read(3) == b"lo", "nothing of it is lost for that"


def test_what_is_said_to_a_server_twice_is_said_once(world: World) -> None:
    assert world.write(0, b"hello") == 5
    assert world.write(0, b"hello") == 5
    assert world.write(9, b"too early") == 5
    assert world.write(5, b" again") == 11
    assert world.write(11, b"") == 11
    with world.server.makefile("rb") as reader:
        assert reader.read() == b"hello again"


def test_the_end_is_told_when_all_is_read(world: World) -> None:
    world.server.sendall(b"bye")
    world.server.shutdown(socket.SHUT_WR)
    assert world.read(0) == b"bye"
    for _ in range(2):
        with pytest.raises(EOFError):
            world.read(3)


def test_a_stream_is_opened_once_and_unknown_when_it_is_closed(world: World) -> None:
    stream = world.streams.get("a")
    world.streams.open("a", 1)
    assert world.streams.get("a") is stream
    assert world.streams.moved > 0
    world.streams.close("a")
    world.streams.close("a")
    with pytest.raises(KeyError):
        world.streams.get("a")
    assert world.server.recv(1) == b""
    assert world.streams.moved == stream.moved, "what was said on it counts as ever"


def test_where_nobody_listens_there_is_no_stream() -> None:
    streams = Streams()
    with pytest.raises(OSError, match="refused"):
        streams.open("a", 1)
    with pytest.raises(KeyError):
        streams.get("a")
