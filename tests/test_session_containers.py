"""Warm sessions in a real container, through the proxy: what calls, arrays, prints, actors and tunnels do there."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import account as accounts
import contained_session as inside
import httpx
import pytest
from account import Account
from contained_session import Gate
from containers import slim_image

import dokrun as dok
from dokrun.emulator import Behaviour
from dokrun.emulator.objects import ObjectStore
from dokrun.function import SESSION

PLAN = "v100-32gb"
PATIENCE_S = 100.0
LARGE_BYTES = 40 << 20

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the image has Python 3.11, which reads no other version's pickles"
)


class World(NamedTuple):
    """A session in a container, and its account."""

    account: Account
    session: dok.Session


@pytest.fixture(scope="module")
def world(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all: a container takes seconds to be there."""
    image, folder = slim_image(), tmp_path_factory.mktemp("world")
    with accounts.opened(store.url, store.bucket, folder, behaviour=Behaviour(runtime="docker")) as account:
        session = dok.session(plan=PLAN, image=image, timeout="20m")
        yield World(account, session)
        session.close()
        assert session._future.exception(PATIENCE_S) is None, "after all that, it ends well"
        assert account.client.tasks.get(str(session.task_id)).status == "done"


@pytest.fixture
def session(world: World) -> Iterator[dok.Session]:
    """The same, for the calls of a test; it goes on behind that."""
    token = SESSION.set(world.session)
    yield world.session
    SESSION.reset(token)


@pytest.fixture
def gate() -> Iterator[Gate]:
    with closing(Gate()) as gate:
        yield gate


@pytest.mark.usefixtures("session")
def test_calls_run_in_the_container_and_find_there_what_those_before_have_left() -> None:
    version, in_docker, ours = inside.whereabouts().result(PATIENCE_S)
    assert version.startswith("3.11.")
    assert in_docker
    assert ours.startswith("/tmp/dokrun-"), "nothing of dokrun is in the image, so it was brought"
    first, second = inside.use().result(PATIENCE_S), inside.use().result(PATIENCE_S)
    assert (first[0], first[1] + 1) == second
    assert list(inside.add.map(range(300), range(300))) == [2 * number for number in range(300)]


@pytest.mark.usefixtures("session")
def test_large_arguments_and_results_travel_through_the_proxy_and_arrive_writable() -> None:
    data = bytes(range(256)) * (LARGE_BYTES // 256)
    back = inside.invert(inside.Numbers(bytearray(data))).result(PATIENCE_S)
    assert back.data == data.translate(bytes(range(255, -1, -1)))
    back.data[:3] = b"own"


@pytest.mark.usefixtures("session")
def test_what_a_call_prints_in_the_container_comes_while_it_runs(gate: Gate) -> None:
    future = inside.stay(gate.port)
    logs = future.logs()
    assert next(logs).startswith("here\n")
    assert not future.done()
    gate.open()
    assert "".join(logs).endswith("gone\n")
    assert future.result(PATIENCE_S) == "stayed"


@pytest.mark.usefixtures("session")
def test_what_a_function_raises_in_the_container_is_raised_here() -> None:
    with pytest.raises(inside.Refusal) as caught:
        inside.refuse(7).result(PATIENCE_S)
    assert caught.value.code == 7
    assert "in refuse" in str(caught.value.__cause__)


@pytest.mark.usefixtures("session")
def test_a_call_in_the_container_that_takes_too_long_costs_its_worker_alone() -> None:
    before = inside.use().result(PATIENCE_S)
    late, after = inside.too_long(), inside.use()
    with pytest.raises(dok.CallTimeout) as caught:
        late.result(PATIENCE_S)
    assert caught.value.ran == "yes"
    pid, uses = after.result(PATIENCE_S)
    assert pid != before[0]
    assert uses == 1


@pytest.mark.usefixtures("session")
def test_a_call_that_runs_in_the_container_is_cancelled_with_its_worker(gate: Gate) -> None:
    running = inside.stay(gate.port)
    assert next(running.logs()).startswith("here\n")
    assert running.cancel()
    # It is the only worker: were it busy, nothing would come back.
    assert inside.add(1, 2).result(PATIENCE_S) == 3
    with pytest.raises(CancelledError):
        running.result(PATIENCE_S)


@pytest.mark.usefixtures("session")
def test_an_actor_lives_in_the_container() -> None:
    counter = dok.Actor(inside.Counter, 10)
    assert [counter.add(1).result(PATIENCE_S) for _ in range(3)] == [11, 12, 13]
    counter.end()
    with pytest.raises(dok.ActorLost) as caught:
        counter.add(1).result(PATIENCE_S)
    assert caught.value.ran == "no"


def test_a_tunnel_leads_through_the_proxy_to_a_server_in_the_container(session: dok.Session) -> None:
    port = session.submit(inside.begin_server).result(PATIENCE_S)
    with session.tunnel(port) as tunnel:
        for _ in range(3):
            assert httpx.get(f"{tunnel.url}/hello", timeout=PATIENCE_S).text == "/hello" * 100_000


ATTACH = """
    import sys
    import dokrun as dok

    session, call = map(dok.attach, sys.argv[1:])
    following = session.submit(pow, 2, 5)
    print(next(call.logs()).split()[0], flush=True)
    print(call.result(100), following.result(100), flush=True)
"""


def test_another_process_finds_a_session_in_a_container_and_its_calls(world: World, gate: Gate, tmp_path: Path) -> None:
    future = world.session.submit(inside.stay, gate.port)
    assert next(future.logs()).startswith("here\n")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(ATTACH))
    environment = {**os.environ, **world.account.environ, "DOKRUN_STATE_DIR": str(tmp_path / "state")}
    with subprocess.Popen(
        [sys.executable, script, world.session.handle, future.handle],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n", "it is told what the call does, from then on"
        gate.open()
        assert other.stdout.readline() == "stayed 32\n"
    assert other.returncode == 0
    assert future.result(PATIENCE_S) == "stayed"
