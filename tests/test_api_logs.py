"""A task's log comes live, whole and once, whatever its connections do.

The websocket server is a real one, whose connections break where a test says; the rest of the service is a transport.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import socket
import struct
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from dokrun import errors
from dokrun.api import Client, logs
from dokrun.api.download import text
from dokrun.api.transport import Backoff

ID = "0d8bb1d7-4f5c-4f0e-9b57-1a6b8c3b1a11"
PATIENCE_S = 10.0
HUSH = "hush"  # in every token and every query
BREAKS = ("close", "cut", "reset", "error")
LINES = [f"line {number} 行\n" for number in range(8)]
LOG = "".join(LINES)


@dataclass(frozen=True)
class Act:
    """What one connection brings, and how it ends: closed in order or with an error, cut, reset, refused, held open."""

    pieces: list[str | bytes]
    end: str = "close"


@dataclass
class Dok:
    """One task whose log is heard over these connections, one after another; it ends when they are over.

    Args:
        acts: what the connections do.
        outputs: what the address of the collected output answers, one after another, the last one for ever.
        looks: what is told of the task before it runs: statuses of the task or of HTTP.
        refusals: so many times there is no stream although the task runs.
    """

    acts: list[Act]
    outputs: list[str | int] = field(default_factory=lambda: [LOG])
    looks: list[str | int] = field(default_factory=list)
    refusals: int = 0

    def __post_init__(self) -> None:
        self.happened: list[str] = []
        self.pauses: list[float] = []
        self.asked: list[str] = []
        self.hold = threading.Event()
        self.left = threading.Event()
        self._tokens = (f"{HUSH}-{number}" for number in itertools.count())
        self._token = ""
        self._over = not self.acts
        self._remaining = [*self.acts]
        self.port = 0

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        assert len(self.pauses) < 2000, f"it waits for ever; still to come: {self._remaining}"

    # --- over HTTP

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if request.url.host == "store.test":
            assert "Authorization" not in request.headers
            found = self.outputs.pop(0) if len(self.outputs) > 1 else self.outputs[0]
            if isinstance(found, int):
                return httpx.Response(found)
            return httpx.Response(200, stream=httpx.ByteStream(found.encode()))
        if request.url.path.endswith("/output/"):
            return httpx.Response(200, json={"url": f"https://store.test/out?signature={HUSH}"})
        if request.url.path.endswith("/stream/"):
            return self._stream()
        return self._task()

    def _task(self) -> httpx.Response:
        status = self.looks.pop(0) if self.looks else "done" if self._over else "running"
        if isinstance(status, int):
            return httpx.Response(status)
        return httpx.Response(200, json={"id": ID, "status": status})

    def _stream(self) -> httpx.Response:
        if self.refusals:
            self.refusals -= 1
            return httpx.Response(403, json={"error_msg": "the task does not run"})
        self._token = next(self._tokens)
        return httpx.Response(200, json={"url": f"ws://127.0.0.1:{self.port}/l?k={HUSH}", "token": self._token})

    # --- over the websocket

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        assert request.headers["Authorization"] == f"Bearer {self._token}"
        if self._remaining[0].end != "refuse":
            return None
        self._done()
        return connection.respond(401, "the token is too old")

    def play(self, connection: ServerConnection) -> None:
        act = self._remaining[0]
        try:
            if act.end in ("hold", "too large"):
                self._done()  # the client will see the task's end, or leave
            for piece in act.pieces:
                connection.send(piece)
            if act.end == "wait":
                assert self.hold.wait(PATIENCE_S)
            if act.end not in ("hold", "too large"):
                self._done()
            self._end(connection, act.end)
        except ConnectionClosed:
            if self._remaining and self._remaining[0] is act:
                self._done()  # the client left before the end
        self.left.set()

    def _end(self, connection: ServerConnection, end: str) -> None:
        if end in ("hold", "too large"):
            connection.recv()
        elif end == "error":
            connection.close(1011, "out of order")
        elif end in ("cut", "reset"):
            if end == "reset":
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.socket.shutdown(socket.SHUT_RDWR)

    def _done(self) -> None:
        self.happened.append(self._remaining.pop(0).end)
        self._over = not self._remaining


@contextlib.contextmanager
def served(dok: Dok) -> Iterator[Client]:
    silent = logging.getLogger("the server of these tests")
    silent.setLevel(logging.CRITICAL)
    with serve(
        dok.play,
        "127.0.0.1",
        0,
        process_request=dok.admit,
        logger=silent,
        max_size=None,
        ping_interval=None,
        close_timeout=1.0,
    ) as server:
        dok.port = server.socket.getsockname()[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        backoff = Backoff(attempts=2, first_s=1.0, longest_s=64.0, sleep=dok.sleep)
        transport = httpx.MockTransport(dok.answer)
        with Client("token", "secret", base_url="https://dok.test", transport=transport, backoff=backoff) as client:
            yield client
        server.shutdown()
        thread.join()


def log_of(dok: Dok) -> list[str]:
    with served(dok) as client:
        return [*client.tasks.logs(ID)]


def source_of(client: Client, *, silence_s: float) -> logs.Source:
    return logs.Source(
        ID,
        task=lambda: client.tasks.get(ID),
        stream=lambda: client.tasks.stream(ID),
        output=lambda: text(client._connection, lambda: client.tasks.output_url(ID), limit_bytes=1 << 20),
        backoff=client._connection.backoff,
        silence_s=silence_s,
    )


# --- one connection


def test_a_log_comes_live_piece_by_piece_and_ends_with_the_task() -> None:
    dok = Dok([Act([*LINES[:3]], "wait")], outputs=["".join(LINES[:3])])
    with served(dok) as client:
        pieces = client.tasks.logs(ID)
        assert [next(pieces) for _ in range(3)] == LINES[:3]
        assert dok.happened == []  # the task still runs
        dok.hold.set()
        assert [*pieces] == []
    assert dok.happened == ["wait"]


def test_what_the_stream_did_not_bring_comes_from_the_collected_output() -> None:
    assert "".join(log_of(Dok([Act([*LINES[:3]])]))) == LOG


def test_a_task_that_has_ended_tells_its_collected_output() -> None:
    dok = Dok([])
    assert "".join(log_of(dok)) == LOG
    assert dok.pauses == []


def test_a_binary_message_is_text_too() -> None:
    assert "".join(log_of(Dok([Act([LINES[0].encode(), *LINES[1:]])]))) == LOG


# --- connections that break


@pytest.mark.parametrize("end", BREAKS)
@pytest.mark.parametrize("told", range(5))
def test_a_connection_that_begins_at_the_beginning_again_repeats_and_loses_nothing(end: str, told: int) -> None:
    # the second connection brings it in other pieces than the first
    dok = Dok([Act([*LINES[:told]], end), Act([LOG[:7], LOG[7:40], LOG[40:]])], outputs=[LOG])
    pieces = log_of(dok)
    assert "".join(pieces) == LOG
    assert dok.happened == [end, "close"]


@pytest.mark.parametrize("end", BREAKS)
@pytest.mark.parametrize("missed", range(3))
def test_after_a_connection_that_only_goes_on_live_the_rest_comes_from_the_collected_output(
    end: str, missed: int, caplog: pytest.LogCaptureFixture
) -> None:
    # a reset may swallow what was sent before it, so the beginning comes in a connection of its own
    dok = Dok([Act([LINES[0]]), Act([*LINES[:2]], end), Act([*LINES[2 + missed : 6]])])
    assert "".join(log_of(dok)) == LOG
    assert dok.happened == ["close", end, "close"]
    assert sum("its log goes on here when the task has ended" in line for line in caplog.messages) == 1


def test_nothing_is_yielded_from_a_connection_that_differs_only_behind_the_head() -> None:
    start = "a" * 2 * logs.HEAD_CHARACTERS
    dok = Dok([Act([start, "x"], "cut"), Act([start, "yz"])], outputs=[f"{start}xyz"])
    assert log_of(dok) == [start, "x", "yz"]
    assert dok.happened == ["cut", "close"]


def test_a_connection_that_does_not_begin_at_the_beginning_is_left_at_its_first_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dok = Dok([Act([*LINES[:5]]), Act([LINES[6]], "hold")])
    assert "".join(log_of(dok)) == LOG
    assert "its log goes on here when the task has ended" in caplog.text
    assert dok.left.is_set()


def test_a_service_whose_connections_only_go_on_live_is_not_asked_for_more_of_them() -> None:
    dok = Dok([Act([*LINES[:2]]), Act([*LINES[4:6]])], looks=["running"] * 9)
    assert "".join(log_of(dok)) == LOG
    assert sum(line.endswith("/stream/") for line in dok.asked) == 2


def test_a_connection_that_breaks_while_it_repeats_changes_nothing() -> None:
    acts = [Act([*LINES[:5]], "cut"), Act([*LINES[:2]], "cut"), Act([LOG[:30]], "reset"), Act([LOG])]
    dok = Dok(acts)
    assert "".join(log_of(dok)) == LOG
    assert dok.happened == ["cut", "cut", "reset", "close"]


def test_a_refused_token_is_replaced_by_a_new_one() -> None:
    dok = Dok([Act([*LINES[:2]], "cut"), Act([], "refuse"), Act([], "refuse"), Act([LOG])])
    assert "".join(log_of(dok)) == LOG
    assert dok.happened == ["cut", "refuse", "refuse", "close"]


def test_a_message_that_is_too_large_is_not_taken_and_comes_with_the_collected_output() -> None:
    large = LOG + "x" * logs.LARGEST_MESSAGE_BYTES
    dok = Dok([Act([LINES[0]], "cut"), Act([large], "too large")], outputs=[large])
    assert "".join(log_of(dok)) == large
    assert dok.happened == ["cut", "too large"]
    assert dok.left.is_set()


def pieces_of(whole: str, start: int, end: int, chance: random.Random) -> list[str | bytes]:
    cuts = sorted({start, end, *(chance.randrange(start, end + 1) for _ in range(chance.randrange(9)))})
    return [whole[left:right] for left, right in itertools.pairwise(cuts)]


@pytest.mark.parametrize("seed", range(20))
def test_it_is_whole_and_once_wherever_connections_begin_and_break(seed: int) -> None:
    chance = random.Random(seed)
    whole = "".join(f"{number}: {'語x' * chance.randrange(30)}\n" for number in range(60))
    acts = [Act([whole[: chance.randrange(1, len(whole))]])]  # what comes first is taken for the beginning
    for _ in range(chance.randrange(1, 7)):
        end = chance.randrange(len(whole) + 1)
        acts.append(Act(pieces_of(whole, 0, end, chance), chance.choice([*BREAKS, "refuse"])))
    if chance.random() < 0.5:
        acts.append(Act(pieces_of(whole, chance.randrange(1, len(whole)), len(whole), chance), "close"))
    dok = Dok([*acts], outputs=[404, whole[:3], whole])
    assert "".join(log_of(dok)) == whole
    assert dok.happened == [act.end for act in acts]


def test_pauses_grow_while_nothing_comes_and_begin_again_when_something_did() -> None:
    acts = [*[Act([], "cut")] * 4, Act([*LINES[:2]], "cut"), Act([], "cut"), Act([LOG])]
    dok = Dok(acts)
    assert "".join(log_of(dok)) == LOG
    ceilings = [1.0, 2.0, 4.0, 8.0, 1.0, 2.0, 1.0]
    assert len(dok.pauses) == len(ceilings)
    assert all(ceiling / 2 <= pause <= ceiling for pause, ceiling in zip(dok.pauses, ceilings, strict=True))


def test_a_stream_that_stays_silent_after_the_end_is_left() -> None:
    dok = Dok([Act([*LINES[:3]], "hold")])
    with served(dok) as client:
        assert "".join(logs.follow(source_of(client, silence_s=0.01))) == LOG
        assert dok.left.wait(PATIENCE_S)
    assert dok.happened == ["hold"]


def test_who_stops_listening_leaves_the_stream() -> None:
    dok = Dok([Act([*LINES[:3]], "hold")])
    with served(dok) as client:
        pieces = client.tasks.logs(ID)
        assert next(pieces) == LINES[0]
        pieces.close()  # type: ignore[attr-defined]
        assert dok.left.wait(PATIENCE_S)


# --- tasks that wait, looks that fail


def test_a_task_that_waits_is_waited_for_at_growing_pauses_without_asking_for_its_stream() -> None:
    dok = Dok([Act([LOG])], looks=["waiting"] * 5)
    assert "".join(log_of(dok)) == LOG
    assert dok.asked[:6] == [f"GET /tasks/{ID}/"] * 6
    assert all(ceiling / 2 <= pause <= ceiling for pause, ceiling in zip(dok.pauses, [1, 2, 4, 8, 16], strict=False))


def test_a_task_that_is_cancelled_while_it_waits_ends_its_log() -> None:
    dok = Dok([Act([LOG])], looks=["waiting", "waiting", "canceled"], outputs=[""])
    assert log_of(dok) == []
    assert dok.happened == []


def test_a_running_task_without_a_stream_yet_is_waited_for() -> None:
    dok = Dok([Act([LOG])], refusals=3)
    assert "".join(log_of(dok)) == LOG
    assert dok.refusals == 0
    assert sum(line.endswith("/stream/") for line in dok.asked) == 4


def test_pauses_of_a_long_wait_stop_growing() -> None:
    dok = Dok([], looks=["waiting"] * 1100)
    assert "".join(log_of(dok)) == LOG
    assert max(dok.pauses) <= 64.0


@pytest.mark.parametrize("trouble", [503, 429])
def test_looks_that_fail_are_told_once_and_end_nothing(trouble: int, caplog: pytest.LogCaptureFixture) -> None:
    dok = Dok([Act([LOG])], looks=[trouble] * 6)
    assert "".join(log_of(dok)) == LOG
    assert dok.looks == []
    told = [record.levelname for record in caplog.records if "waits for an answer" in record.message]
    assert told[0] == "WARNING"
    assert set(told[1:]) <= {"DEBUG"}, "the others are for whoever looks closely"


def test_an_unknown_task_is_not_found() -> None:
    with pytest.raises(errors.NotFound):
        log_of(Dok([], looks=[404]))


def test_a_task_that_this_key_may_not_see_is_refused() -> None:
    with pytest.raises(errors.Unauthorized):
        log_of(Dok([], looks=["waiting", 401]))


# --- the collected output


def test_a_collected_output_that_shows_a_little_later_is_waited_for() -> None:
    dok = Dok([Act([*LINES[:3]])], outputs=[404, 503, 503, LINES[0], LOG])
    assert "".join(log_of(dok)) == LOG
    assert dok.outputs == [LOG]


def test_a_collected_output_that_never_shows_ends_the_log_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    dok = Dok([Act([*LINES[:3]])], outputs=[404])
    assert "".join(log_of(dok)) == "".join(LINES[:3])
    assert dok.asked.count("GET /out") == logs.COLLECT_ATTEMPTS
    assert "its log may lack a part: GET /out: 404 Not Found" in caplog.text


def test_a_collected_output_that_begins_otherwise_is_never_mixed_in(caplog: pytest.LogCaptureFixture) -> None:
    dok = Dok([Act([*LINES[:3]])], outputs=[f"another {LOG}"])
    assert "".join(log_of(dok)) == "".join(LINES[:3])
    assert dok.asked.count("GET /out") == 1
    assert "its log may lack a part: the collected output begins otherwise" in caplog.text


# --- what is never shown, what is never held


@pytest.mark.parametrize("end", [*BREAKS, "refuse"])
def test_tokens_and_queries_are_in_no_log(end: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets.client").setLevel(logging.DEBUG)
    dok = Dok([Act([LINES[0]], end), Act([LOG])])
    assert "".join(log_of(dok)) == LOG
    assert f"task {ID}: a log stream ended: " in caplog.text
    assert HUSH not in caplog.text


@pytest.mark.parametrize(
    "address", [f"https://log.test/?k={HUSH}", f"ws://[log.test/?k={HUSH}", f"ws://log.test:port/?k={HUSH}", HUSH]
)
def test_an_address_that_is_none_is_in_no_log_and_costs_no_text(address: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    dok = Dok([], looks=["running", "done"])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/stream/"):
            return httpx.Response(200, json={"url": address, "token": HUSH})
        return dok.answer(request)

    backoff = Backoff(sleep=lambda _: None)
    with Client(
        "t", "s", base_url="https://dok.test", transport=httpx.MockTransport(answer), backoff=backoff
    ) as client:
        assert "".join(client.tasks.logs(ID)) == LOG
    assert "a log stream ended: " in caplog.text
    assert HUSH not in caplog.text


def test_a_log_of_any_length_takes_little_memory() -> None:
    told, piece = logs._Told(), "x" * (64 << 10)
    tracemalloc.start()
    try:
        assert sum(map(len, told.rest_of(itertools.repeat(piece, 200)))) == 200 * len(piece)
        assert [*told.rest_of(itertools.repeat(piece, 200))] == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_importing_the_api_does_not_load_websockets() -> None:
    code = "import sys, dokrun.api; sys.exit('websockets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
