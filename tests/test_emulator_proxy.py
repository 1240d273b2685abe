"""The public address of a container's http port: 503 until it listens, a cut for what takes long."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import urllib.parse
from collections.abc import Iterator

import httpx
import pytest
from clocks import ManualClock
from emulated import end_of, request
from waiting import PATIENCE_S
from websockets.sync.client import connect

from dokrun.api import Client, models
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.clock import SystemClock
from dokrun.emulator.faults import Faults
from dokrun.emulator.passage import Limits
from dokrun.emulator.proxy import PublicPort

SERVER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/silent":
            time.sleep(600)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (100 if self.path == "/half" else 0)))
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/half":
            self.wfile.flush()
            time.sleep(600)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", {port}), Handler)
print("listening", flush=True)
server.serve_forever()
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def client(clock: ManualClock) -> Iterator[Client]:
    with (
        Emulator(behaviour=Behaviour(cut_s=30), clock=clock) as dok,
        Client(dok.token, dok.secret, base_url=dok.api_url) as client,
    ):
        yield client


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def serve(client: Client, port: int, code: str = SERVER) -> str:
    """Start a task with an http port; tell its address once it listens."""
    task = client.tasks.create(request(code.replace("{port}", str(port)), http=models.HttpPort(port)))
    assert next(client.tasks.logs(task.id)).startswith("listening")
    address = client.tasks.get(task.id).http_uri
    assert address is not None
    return address


def test_until_the_container_listens_the_answer_is_503(client: Client, port: int) -> None:
    code = "import time; print('up', flush=True); time.sleep(600)"
    task = client.tasks.create(request(code, http=models.HttpPort(port)))
    next(client.tasks.logs(task.id))
    answer = httpx.get(str(client.tasks.get(task.id).http_uri))
    assert answer.status_code == 503
    client.tasks.cancel(task.id)


def test_requests_and_answers_of_any_size_pass(client: Client, port: int) -> None:
    address = serve(client, port)
    body = bytes(range(256)) * 10_000
    with httpx.Client() as outside:
        assert [outside.post(address, content=body).content for _ in range(2)] == [body, body]


def test_a_request_that_is_not_answered_in_time_is_cut(client: Client, port: int, clock: ManualClock) -> None:
    address = serve(client, port)
    answers: list[int] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{address}silent", content=b"x", timeout=60).status_code)
    )
    asking.start()
    clock.wait_for_sleeper(30)
    clock.pass_time(30)
    asking.join(timeout=30)
    assert answers == [504]


def test_an_answer_that_stops_is_cut(client: Client, port: int, clock: ManualClock) -> None:
    address = serve(client, port)
    with httpx.stream("POST", f"{address}half", content=b"begun", timeout=60) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"begun"
        ends: list[Exception] = []

        def listen() -> None:
            try:
                next(pieces)
            except httpx.RemoteProtocolError as error:
                ends.append(error)

        listening = threading.Thread(target=listen)
        listening.start()
        # The proxy may not have begun to wait for the rest, so time passes until it has.
        for _ in range(500):
            clock.pass_time(30)
            listening.join(0.02)
            if not listening.is_alive():
                break
        assert len(ends) == 1


WEBSOCKET = """
from websockets.sync.server import serve
def echo(socket):
    for message in socket:
        socket.send(message)
with serve(echo, "127.0.0.1", {port}) as server:
    print("listening", flush=True)
    server.serve_forever()
"""


def test_websockets_pass(client: Client, port: int) -> None:
    address = serve(client, port, WEBSOCKET)
    with connect(address.replace("http", "ws"), proxy=None) as outside:
        outside.send("through")
        assert outside.recv() == "through"


def test_the_address_ends_with_its_task(client: Client, port: int) -> None:
    address = serve(client, port)
    (task,) = client.tasks.list(status="running").results
    client.tasks.cancel(task.id)
    end_of(client, task)
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


@pytest.mark.parametrize("steps", range(5))
def test_a_connection_that_was_made_just_now_ends_with_its_port(steps: int) -> None:
    """Whether nobody has looked yet, it is accepted, is begun with, or has somebody who serves it."""

    async def come_and_go() -> None:
        port = await PublicPort.open(1, Limits(60.0, 1000), SystemClock(), Faults())
        address = urllib.parse.urlsplit(port.url)
        with socket.create_connection((str(address.hostname), address.port or 0)) as outside:
            for _ in range(steps):
                await asyncio.sleep(0)
            await port.close()
            outside.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(outside.recv, 1) == b""

    asyncio.run(come_and_go())
    gc.collect()  # what was left open is told here
