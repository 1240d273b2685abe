"""A session's port is open to the world: whoever knows the token is heard, each word once, and unaltered."""

from __future__ import annotations

import json
import os
import pickle
import select
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import account as accounts
import pytest
from account import Account
from heard import Heard
from spoken import Line, Speaker, Spoken, head, payload
from waiting import PATIENCE_S

import dokrun as dok
from dokrun.api.container import Container
from dokrun.emulator import Behaviour
from dokrun.emulator.objects import ObjectStore
from dokrun.secret import Secret
from dokrun.shim import protocol, seal, serve, speakers
from dokrun.shim.envelope import unpack_all

PLAN = "v100-32gb"
LARGE = protocol.PIECE_BYTES
CANARY = "canary-of-a-session"


class World(NamedTuple):
    """An account with two sessions, and what is said to them."""

    account: Account
    session: dok.Session
    spoken: Spoken
    other: Spoken


@pytest.fixture(scope="module")
def world(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with accounts.opened(store.url, store.bucket, folder, behaviour=Behaviour(slots=3)) as account:
        here = account.here()
        with dok.session(plan=PLAN) as session, dok.session(plan=PLAN) as other:
            for one in (session, other):
                assert one.submit(pow, 2, 5).result(PATIENCE_S) == 32
            spoken = [Spoken(one, here.settings, account.client) for one in (session, other)]
            yield World(account, session, *spoken)


def start(starts: Path) -> str:
    with starts.open("a") as file:
        file.write("1\n")
    return "started"


def started(starts: Path) -> int:
    return len(starts.read_text().split()) if starts.exists() else 0


def outcome(speaker: Speaker) -> Any:
    """Wait until a call of this speaker has come to its end, and tell its report's header."""
    after = 0
    while True:
        answer = speaker.ask("/ask", json.dumps({"after": after, "taken": 0, "wait_s": 20}).encode())
        _, header, segments = next(iter(unpack_all(answer.body)))
        for event, segment in zip(header["events"], segments, strict=True):
            after = event["number"]
            if event["kind"] == "report":
                assert segment.data is not None
                return next(iter(unpack_all(segment.data)))[1]
            assert event["kind"] != "failure", event


def all_done(world: World) -> None:
    """See that the only worker has come through all that it was given."""
    assert world.session.submit(pow, 2, 5).result(PATIENCE_S) == 32


# --- whoever does not know the token

STRANGERS = {
    "no token": {},
    "a wrong token": {seal.TOKEN: seal.BEARER + "0" * 64},
    "an empty token": {seal.TOKEN: seal.BEARER},
    "the hash": {seal.TOKEN: seal.BEARER + "{sha256}"},
    "another session's token": {seal.TOKEN: seal.BEARER + "{other}"},
}


@pytest.mark.parametrize("fields", STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_is_refused_before_a_byte_of_the_body_is_read(world: World, fields: dict[str, str]) -> None:
    told = {"sha256": world.spoken.environment[protocol.SESSION_SHA256], "other": world.other.token}
    shown = {name: value.format(**told) for name, value in fields.items()}
    for path in ("/hello", "/calls/1", "/ask", "/close"):
        with world.spoken.line() as line:
            line.say(head(path, LARGE, {"Expect": "100-continue", **shown}))
            assert line.answer().status == 401
            assert line.ended


def test_whoever_is_known_is_told_to_go_on_with_a_large_body(world: World) -> None:
    speaker = Speaker(world.spoken)
    with world.spoken.line() as line:
        line.say(speaker.sealed("/need/job", b"{}", body=b"", fields={"Expect": "100-continue"}))
        assert line.answer().status == 100
        line.say(b"{}")
        assert json.loads(line.answer().body) == {"missing": []}


def test_a_request_from_a_web_page_is_refused_though_it_has_the_token(world: World) -> None:
    assert world.spoken.ask(world.spoken.hello(Origin="https://example.org")).status == 403
    speaker = Speaker(world.spoken)
    assert world.spoken.ask(speaker.sealed("/close", b'{"now": true}', fields={"Origin": "null"})).status == 403
    all_done(world)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "post"])
def test_nothing_but_a_post_is_answered(world: World, method: str) -> None:
    token = {seal.TOKEN: seal.BEARER + world.spoken.token}
    assert world.spoken.ask(head("/hello", 0, token, method)).status == 405


def test_a_body_that_is_too_large_is_refused_by_its_head(world: World) -> None:
    speaker = Speaker(world.spoken)
    with world.spoken.line() as line:
        line.say(speaker.sealed("/calls/1", bytes(speakers.LARGEST_BODY + 1), body=b""))
        assert line.answer().status == 413


# --- whoever has heard others speak

ALTERED: dict[str, dict[str, Any]] = {
    "another path": {"to": "/calls/2"},
    "a longer body": {"size": +1},
    "a shorter body": {"size": -1},
    "another body's digest": {"fields": {seal.DIGEST: seal.digest(b"")}},
    "another count": {"fields": {seal.COUNT: "7"}},
    "a count of another kind": {"fields": {seal.COUNT: "²"}},
    "a count without end": {"fields": {seal.COUNT: "1" * 5000}},
    "no count": {"fields": {seal.COUNT: ""}},
    "another speaker": {"fields": {seal.SPEAKER: "{other}"}},
    "no speaker": {"fields": {seal.SPEAKER: ""}},
    "no seal": {"fields": {seal.MAC: ""}},
    "another seal": {"fields": {seal.MAC: "0" * 64}},
    "another body": {"body": True},
}


@pytest.mark.parametrize("changed", ALTERED.values(), ids=ALTERED)
def test_a_sealed_request_counts_only_as_it_was_sealed(world: World, tmp_path: Path, changed: dict[str, Any]) -> None:
    speaker, other = Speaker(world.spoken), Speaker(world.spoken)
    order = payload(start, tmp_path / "starts")
    told = dict(changed)
    if "fields" in told:
        told["fields"] = {name: value.replace("{other}", other.name) for name, value in told["fields"].items()}
    if "size" in told:
        told["size"] += len(order)
    # The same length, and a good envelope: nothing but the seal tells that it is another one.
    told["body"] = payload(start, tmp_path / "Starts") if "body" in told else order
    assert len(told["body"]) == len(order)
    assert world.spoken.ask(speaker.sealed("/calls/1", order, **told)).status in (400, 401)
    all_done(world)
    assert started(tmp_path / "starts") == started(tmp_path / "Starts") == 0
    assert speaker.ask("/calls/1", order).status == 202
    assert outcome(speaker)["kind"] == "value"
    assert started(tmp_path / "starts") == 1


def test_a_piece_counts_only_as_it_was_sealed_behind_those_before_it(world: World) -> None:
    speaker, data = Speaker(world.spoken), os.urandom(3000)
    sha256 = seal.digest(data)
    assert json.loads(speaker.ask("/need/job", json.dumps({sha256: [3000, None]}).encode()).body)["missing"] == [sha256]

    def put(at: int, piece: bytes, digest: str) -> tuple[int, bytes]:
        path, count = f"/put/{sha256}/{at}", next(speaker.counts)
        mac = seal.of_request(speaker.key, path, count, digest, len(piece))
        answer = world.spoken.ask(speaker.sealed(path, piece, count=count, fields={seal.DIGEST: digest, seal.MAC: mac}))
        return answer.status if seal.MAC.lower() in answer.fields else -answer.status, answer.body

    assert put(0, data[:1000], seal.digest(data[:1000])) == (200, b'{"at": 1000}')
    # Nobody vouches for the refusal, so that the client sends it once more.
    assert put(1000, data[1001:2001], seal.digest(data[:2000]))[0] == -400
    assert put(1000, data[1000:2000], seal.digest(data[:2000])) == (200, b'{"at": 2000}')
    assert put(2000, data[2000:], seal.digest(data[2000:]))[0] == -400, "it is that of the piece alone"
    assert put(2000, data[2000:], sha256) == (200, b'{"at": 3000}')
    assert json.loads(speaker.ask("/need/job", json.dumps({sha256: [3000, None]}).encode()).body)["missing"] == []


def test_what_was_said_to_another_session_is_not_heard_here(world: World, tmp_path: Path) -> None:
    theirs, ours = Speaker(world.other), Speaker(world.spoken)
    order = payload(start, tmp_path / "starts")
    said = theirs.sealed("/calls/1", order)
    assert world.spoken.ask(said).status == 401
    assert world.spoken.ask(theirs.sealed("/calls/1", order, fields={seal.SPEAKER: ours.name})).status == 401
    all_done(world)
    assert started(tmp_path / "starts") == 0
    assert world.other.ask(said).status == 202


def test_what_is_said_again_as_it_was_said_has_no_second_effect(world: World, tmp_path: Path) -> None:
    speaker = Speaker(world.spoken)
    said = speaker.sealed("/calls/1", payload(start, tmp_path / "starts"))
    assert [world.spoken.ask(said).status for _ in range(3)] == [202, 409, 409]
    assert outcome(speaker)["kind"] == "value"
    all_done(world)
    assert started(tmp_path / "starts") == 1


def test_an_order_that_is_sent_again_gets_the_same_answer_and_runs_once(world: World, tmp_path: Path) -> None:
    speaker = Speaker(world.spoken)
    order = payload(start, tmp_path / "starts")
    answers = [speaker.ask("/calls/1", order) for _ in range(3)]
    assert [answer.status for answer in answers] == [202, 202, 202]
    assert len({answer.body for answer in answers}) == 1
    assert outcome(speaker)["kind"] == "value"
    # What comes behind may be another payload: the number alone tells which order it is.
    assert speaker.ask("/calls/1", payload(start, tmp_path / "Starts")).body == answers[0].body
    all_done(world)
    assert (started(tmp_path / "starts"), started(tmp_path / "Starts")) == (1, 0)


def test_what_has_come_before_something_else_is_told_no_more(world: World, tmp_path: Path) -> None:
    speaker = Speaker(world.spoken)
    speaker.ask("/calls/1", payload(start, tmp_path / "starts"))
    assert outcome(speaker)["kind"] == "value"

    def asked(**told: Any) -> list[str]:
        answer = speaker.ask("/ask", json.dumps({"after": 0, "taken": 0, "wait_s": 0, **told}).encode())
        _, header, _ = next(iter(unpack_all(answer.body)))
        return [event["kind"] for event in header["events"]]

    assert asked() == ["begun", "report"]
    assert asked(also=[2]) == ["begun"]
    assert asked(taken=1) == []


def wait_there(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.01)


def test_whoever_asks_twice_for_a_job_is_told_once_what_becomes_of_it(world: World, tmp_path: Path) -> None:
    sender, other = Speaker(world.spoken), Speaker(world.spoken)
    order = payload(wait_there, tmp_path / "gate")
    assert sender.ask("/calls/1", order).status == 202
    job = next(iter(unpack_all(order)))[1]["job"]
    for _ in range(2):
        assert json.loads(other.ask(f"/find/{job}").body) == {"calls": [0]}
    (tmp_path / "gate").touch()
    assert outcome(sender)["kind"] == "value"
    all_done(world)
    answer = other.ask("/ask", json.dumps({"after": 0, "taken": 0, "wait_s": 0}).encode())
    _, header, _ = next(iter(unpack_all(answer.body)))
    assert [event["kind"] for event in header["events"]].count("report") == 1


def test_whoever_asks_for_a_job_is_told_of_all_its_attempts(world: World, tmp_path: Path) -> None:
    sender, other = Speaker(world.spoken), Speaker(world.spoken)
    order = payload(wait_there, tmp_path / "gate", ticket="job.0.2", job="job")
    assert sender.ask("/calls/1", order).status == 202
    assert json.loads(other.ask("/find/jo").body) == {"calls": []}
    assert json.loads(other.ask("/find/job").body) == {"calls": [0]}
    (tmp_path / "gate").touch()
    assert outcome(other)["kind"] == "value"
    all_done(world)
    third = Speaker(world.spoken)
    assert json.loads(third.ask("/find/job").body) == {"calls": [0]}, "nobody is known to have taken it"
    assert outcome(third)["kind"] == "value"


def large(size: int) -> bytes:
    return bytes(size)


def artifact_folder() -> str:
    return os.environ[protocol.ARTIFACT_DIR]


def test_a_large_result_is_first_vouched_for_as_its_worker_wrote_it(world: World) -> None:
    speaker = Speaker(world.spoken)
    assert speaker.ask("/calls/1", payload(large, 3 << 20)).status == 202
    told: dict[str, Any] = {}
    while told.get("kind") != "report":
        question = {"after": told.get("number", 0), "taken": 0, "wait_s": 20}
        _, header, _ = next(iter(unpack_all(speaker.ask("/ask", json.dumps(question).encode()).body)))
        told = header["events"][-1]
    artifact = Path(world.session.submit(artifact_folder).result(PATIENCE_S))
    (report,) = (path for path in (artifact / protocol.REPORTS_DIR).iterdir() if path.stat().st_size == told["size"])
    written = report.read_bytes()
    report.write_bytes(written[:-1] + b"x")

    def vouched(body: bytes) -> bool:
        count = next(speaker.counts)
        answer = world.spoken.ask(speaker.sealed(f"/get/{told['call']}/0", count=count))
        wanted = seal.of_answer(speaker.key, count, 200, seal.digest(body), len(body))
        return answer.body == report.read_bytes() and answer.fields[seal.MAC.lower()] == wanted

    assert vouched(written), "so that its client sees that it is not what was written"
    assert vouched(report.read_bytes()), "and asks again"


def test_numbers_may_come_in_another_order_and_not_far_behind(world: World) -> None:
    speaker = Speaker(world.spoken)
    last = seal.WINDOW + 10
    for count, status in ((3, 200), (1, 200), (2, 200), (last, 200), (11, 200), (10, -409), (11, -409), (last, -409)):
        assert speaker.ask("/find/nothing", count=count).status == status


def test_the_answer_to_one_request_is_none_to_another(world: World) -> None:
    speaker = Speaker(world.spoken)
    first, second = speaker.ask("/find/nothing", count=1), speaker.ask("/find/nothing", count=2)
    assert first.body == second.body
    assert first.fields[seal.MAC.lower()] != second.fields[seal.MAC.lower()]


# --- what is no name of a file

NO_DIGESTS = ["../../x", "..%2f..%2fx", "/tmp/x", ".", "", "A" * 64, "0" * 63, "0" * 65, "0" * 63 + "/", "²" * 64]


@pytest.mark.parametrize("name", NO_DIGESTS)
def test_a_digest_that_is_none_names_no_file(world: World, name: str) -> None:
    speaker = Speaker(world.spoken)
    needed = speaker.ask("/need/job", json.dumps({name: [0, None], "0" * 64: [1, None]}).encode())
    assert needed.status == 400
    if name.isascii():
        for path in (f"/put/{name}/0", f"/calls/1/{name}"):
            assert speaker.ask(path, b"x").status == 400, path
    assert speaker.ask(f"/put/{'0' * 64}/0", b"x").status == 400, "nothing of what was asked is kept"


@pytest.mark.parametrize(
    "path", ["/", "//", "/hello/", "/_close", "/__init__", "/run", "/calls", "/ask/more", "*", "x"]
)
def test_a_path_that_is_none_is_refused(world: World, path: str) -> None:
    assert Speaker(world.spoken).ask(path, b"{}").status in (400, 404)


# --- what is no request

HEADS = {
    "too long": (b"POST /hello HTTP/1.1\r\nX: ".ljust(serve.LONGEST_HEAD + 1, b"x"), 431),
    "length twice": (b"POST /hello HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
    "length twice in one": (b"POST /hello HTTP/1.1\r\nContent-Length: 0, 0\r\n\r\n", 400),
    "length and chunks": (b"POST /hello HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunks": (b"POST /hello HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "negative length": (b"POST /hello HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    "signed length": (b"POST /hello HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
    "length with a line in it": (b"POST /hello HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n", 400),
    "space before the colon": (b"POST /hello HTTP/1.1\r\nContent-Length : 1\r\n\r\n", 400),
    "folded line": (b"POST /hello HTTP/1.1\r\nX: y\r\n Content-Length: 1\r\n\r\n", 400),
    "bare line feed": (b"POST /hello HTTP/1.1\r\nX: y\nContent-Length: 1\r\n\r\n", 400),
    "absurd length": (b"POST /hello HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
    "large length": (b"POST /hello HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\n", 413),
    "no words": (b"\r\n\r\n", 400),
    "no path": (b"POST HTTP/1.1\r\n\r\n", 400),
    "another protocol": (b"POST /hello SIP/2.0\r\n\r\n", 400),
    "not ASCII": ("POST /hello HTTP/1.1\r\nX: ä\r\n\r\n".encode(), 400),
    "no colon": (b"POST /hello HTTP/1.1\r\nX\r\n\r\n", 400),
    "of TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(200) + b"\r\n\r\n", 400),
}


@pytest.mark.parametrize(("said", "status"), HEADS.values(), ids=HEADS)
def test_what_is_no_request_is_refused_and_its_connection_closed(world: World, said: bytes, status: int) -> None:
    with world.spoken.line() as line:
        line.say(said)
        assert line.answer().status == status
        assert line.ended
    assert Speaker(world.spoken).ask("/find/nothing").status == 200


def test_a_connection_brings_one_request_after_another_and_none_after_one_that_is_refused(world: World) -> None:
    speaker = Speaker(world.spoken)
    with world.spoken.line() as line:
        line.say(speaker.sealed("/find/a") + speaker.sealed("/find/b", b"more") + speaker.sealed("/find/c", count=1))
        line.say(speaker.sealed("/close", b'{"now": true}'))
        assert [line.answer().status for _ in range(3)] == [200, 200, 409]
        assert line.ended
    all_done(world)


class Echo(serve.Service):
    """Says what it is told."""

    def admit(self, head: serve.Head) -> None:
        if head.path == "/refused":
            raise serve.Refused(401)

    def answer(self, _head: serve.Head, _who: None, body: serve.Piece) -> serve.Answer:
        return serve.Answer(200, body)


@pytest.fixture
def port() -> Iterator[int]:
    """Where somebody listens who is not patient."""
    server = serve.Server("127.0.0.1", 0, Echo(), head_s=0.2)
    server.start()
    yield server.port
    server.close()


@pytest.mark.parametrize("said", [b"", b"P", b"POST /echo HTTP/1.1\r\n"])
def test_whoever_does_not_come_to_the_point_is_left(port: int, said: bytes) -> None:
    with Line(port) as line:
        line.say(said)
        assert line.ended


def test_a_head_that_comes_byte_by_byte_is_left_too(port: int) -> None:
    ended = threading.Event()
    with Line(port) as line:

        def drip() -> None:
            try:
                for _ in range(10_000):
                    line.say(b"x")
                    if ended.wait(0.01):
                        return
            except OSError:
                pass

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert line.ended
        ended.set()
        dripping.join()


def test_strangers_who_say_nothing_do_not_take_all_the_room(port: int) -> None:
    silent = [Line(port) for _ in range(serve.CONNECTIONS)]
    with Line(port) as line:
        line.say(head("/echo", 5, {}) + b"hello")
        assert line.answer().body == b"hello"
    for one in silent:
        with one:
            assert one.ended


@pytest.fixture
def patient() -> Iterator[int]:
    """Where somebody listens who waits for longer than any test takes."""
    server = serve.Server("127.0.0.1", 0, Echo(), head_s=10 * PATIENCE_S)
    server.start()
    yield server.port
    server.close()


@pytest.mark.parametrize("said", [b"", b"POST /echo HTTP/1.1\r\n"], ids=["nothing", "half a head"])
def test_the_oldest_stranger_makes_place_and_whoever_is_known_stays(patient: int, said: bytes) -> None:
    with ExitStack() as opened:
        known = opened.enter_context(Line(patient))
        known.say(head("/echo", 5, {}) + b"hello")
        assert known.answer().body == b"hello"
        silent = []
        for _ in range(2 * serve.CONNECTIONS):
            silent.append(opened.enter_context(Line(patient)))
            silent[-1].say(said)
        another = opened.enter_context(Line(patient))
        another.say(head("/echo", 7, {}) + b"another")
        assert another.answer().body == b"another"
        assert silent[0].ended
        known.say(head("/echo", 5, {}) + b"again")
        assert known.answer().body == b"again"


def test_whoever_is_known_and_says_nothing_makes_place_too_and_the_youngest_stay(patient: int) -> None:
    with ExitStack() as opened:
        kept = []
        for _ in range(serve.CONNECTIONS + 1):
            kept.append(opened.enter_context(Line(patient)))
            kept[-1].say(head("/echo", 5, {}) + b"hello")
            assert kept[-1].answer().body == b"hello"
        # One of those that were answered first, in the order in which their threads came to wait for more.
        (made_place,), _, _ = select.select(kept, [], [], PATIENCE_S)
        assert made_place.ended
        assert made_place is not kept[-1]
        # Strangers have half of the places, and no more.
        strangers = [opened.enter_context(Line(patient)) for _ in range(serve.CONNECTIONS)]
        assert strangers[0].ended
        kept[-1].say(head("/echo", 5, {}) + b"again")
        assert kept[-1].answer().body == b"again"


class Held(Echo):
    """Says what it is told when it is let go on, but for what is asked in haste."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.gate = threading.Event()

    def answer(self, head: serve.Head, who: None, body: serve.Piece) -> serve.Answer:
        if head.path != "/haste":
            self.asked.release()
            assert self.gate.wait(PATIENCE_S)
        return super().answer(head, who, body)


def test_requests_that_take_long_keep_nobody_out() -> None:
    held = Held()
    server = serve.Server("127.0.0.1", 0, held)
    server.start()
    with closing(server), ExitStack() as opened:
        asked = []
        for _ in range(serve.CONNECTIONS + 1):
            # One after another: whoever has said nothing yet makes room for others.
            asked.append(opened.enter_context(Line(server.port)))
            asked[-1].say(head("/echo", 5, {}) + b"hello")
            assert held.asked.acquire(timeout=PATIENCE_S)
        hasty = opened.enter_context(Line(server.port))
        hasty.say(head("/haste", 5, {}) + b"haste")
        assert hasty.answer().body == b"haste"
        held.gate.set()
        assert {line.answer().body for line in asked} == {b"hello"}


def test_a_speaker_who_keeps_many_connections_leaves_room_for_calls(world: World) -> None:
    speaker = Speaker(world.spoken)
    with ExitStack() as opened:
        for _ in range(serve.CONNECTIONS + 1):
            line = opened.enter_context(world.spoken.line())
            line.say(speaker.sealed("/find/nothing"))
            assert line.answer().status == 200
        all_done(world)
        assert speaker.ask("/find/nothing").status == 200


def test_where_no_thread_can_be_had_whoever_comes_later_is_answered(port: int) -> None:
    before = threading.stack_size(1 << 47)  # more than there are addresses
    try:
        with Line(port) as line:
            assert line.ended
    finally:
        threading.stack_size(before)
    with Line(port) as line:
        line.say(head("/echo", 5, {}) + b"hello")
        assert line.answer().body == b"hello"


# --- what is a secret


def environment() -> dict[str, str]:
    return dict(os.environ)


def test_the_token_is_to_be_found_nowhere(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    account = world.account
    with Heard() as heard:
        here = account.here(state="another")
        opened = dok.session(plan=PLAN)
        inside = opened.submit(environment).result(PATIENCE_S)
        spoken = Spoken(opened, here.settings, account.client)
        told = account.client.tasks.get(str(opened.task_id))
        handle, words = opened.handle, repr((opened, vars(opened), opened._live, vars(opened._live.link)))
        opened.close()
        error = opened._future.exception(PATIENCE_S)
    assert error is None
    assert spoken.environment[protocol.SESSION_SHA256] == seal.digest(spoken.token.encode())
    places = {
        "handle": str(handle),
        "words": words,
        "task": repr(told),
        "worker": repr(inside),
        "log": account.client.tasks.output(told.id),
        "logs": heard.shown(),
        "printed": "".join(capfd.readouterr()),
        "pickled": pickle.dumps(opened.handle).decode(errors="replace"),
        "files": b"".join(path.read_bytes() for path in account.folder.rglob("*") if path.is_file()).decode(
            errors="replace"
        ),
    }
    assert [name for name, text in places.items() if spoken.token in text] == []
    assert spoken.environment[protocol.SESSION_SHA256] in places["task"]
    assert heard.messages("dokrun")


def test_an_error_shows_no_token_with_its_local_variables() -> None:
    with closing(Container("http://127.0.0.1:1", Secret(CANARY))) as nobody, pytest.raises(dok.NotSent) as caught:
        nobody.hello()
    chain = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert CANARY not in "".join(chain.format())
