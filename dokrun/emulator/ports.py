"""Where an emulator listens."""

from __future__ import annotations

import asyncio
import socket

BASE_PATH = "/cloud/zone/is1a/api/managed-container/1.0"


def listen(port: int = 0) -> socket.socket:
    """Listen on a port of 127.0.0.1, a free one if it is 0. Raises OSError."""
    # asyncio turns Nagle's algorithm off only where the protocol is named; else each answer waits 40 ms for an ACK.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(1024)
    except OSError:
        listening.close()
        raise
    return listening


async def stop_listening(server: asyncio.Server) -> None:
    """Close a server of this loop. Whom it has accepted before, its protocols may be told afterwards.

    asyncio forgets a connection whose server is closed between its being accepted and its transport's being made:
    an assertion of `Server._attach` fails then, and nobody closes it.
    """
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    await asyncio.sleep(0)  # the transports of those who were accepted are made
    server.close()
