"""Connections end with whoever made them, those that are still being made then too."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import httpx
import pytest
from waiting import PATIENCE_S

from dokrun.api.transport import NetworkTransport

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def ask(transport: NetworkTransport, address: tuple[str, int]) -> bytes:
    with closing(transport.handle_request(httpx.Request("GET", f"http://{address[0]}:{address[1]}/"))) as response:
        return b"".join(response.iter_bytes())


@pytest.mark.parametrize("closed_first", [True, False])
def test_a_connection_does_not_outlast_what_made_it(*, closed_first: bool) -> None:
    transport, answers = NetworkTransport(), []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE_S)
        if closed_first:
            transport.close()
        asking = threading.Thread(target=lambda: answers.append(ask(transport, listening.getsockname())))
        asking.start()
        there, _ = listening.accept()
        with there:
            there.settimeout(PATIENCE_S)
            assert there.recv(1 << 16).startswith(b"GET / ")
            there.sendall(ANSWER)
            asking.join(PATIENCE_S)
            assert answers == [b"hello"]
            if not closed_first:
                transport.close()
            assert there.recv(1) == b""
