"""How sessions in real containers begin and end: any image and user, no bucket, idle, and killed from outside."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import account as accounts
import contained_session as inside
import docker  # type: ignore[import-untyped]
import pytest
from account import Account
from contained_session import Gate
from containers import image_with, registry, slim_image

import dokrun as dok
from dokrun.emulator import Behaviour
from dokrun.emulator.objects import ObjectStore
from dokrun.payload import pyz, shim

PLAN = "v100-32gb"
PATIENCE_S = 100.0
USER = 1000
LONGEST_LINE = 60_000

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the image has Python 3.11, which reads no other version's pickles"
)


@pytest.fixture(scope="module")
def opened(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    slim_image()
    folder = tmp_path_factory.mktemp("account")
    with accounts.opened(store.url, store.bucket, folder, behaviour=Behaviour(runtime="docker")) as account:
        yield account


@pytest.fixture
def account(opened: Account, tmp_path: Path) -> Account:
    """An account whose tasks are containers, from a machine of each test's own."""
    opened.here(state=tmp_path.name)
    return opened


@pytest.fixture(scope="module")
def baked() -> Iterator[str]:
    """An image that has the shim, and in which everything runs as somebody who is not root and has no home."""
    data = base64.b64encode(pyz.build(with_code=True).data).decode()
    # The engine reads no longer lines.
    pieces = [data[at : at + LONGEST_LINE] for at in range(0, len(data), LONGEST_LINE)]
    lines = [
        f"RUN mkdir -p {Path(shim.BAKED_PATH).parent}",
        *(f"RUN printf %s {piece} >> /tmp/shim" for piece in pieces),
        f"RUN base64 -d /tmp/shim > {shim.BAKED_PATH} && rm /tmp/shim",
        f"USER {USER}",
    ]
    with image_with(f"{registry()}/tests/baked-shim", *lines) as name:
        yield name


def test_a_session_needs_no_bucket_and_any_user_runs_it_where_the_shim_is_baked_in(
    opened: Account, baked: str, tmp_path: Path
) -> None:
    environ = {name: value for name, value in opened.environ.items() if "BUCKET" not in name and "S3" not in name}
    account = Account(opened.service, opened.client, opened.folder, environ)
    account.here(state=tmp_path.name)
    with dok.session(plan=PLAN, image=baked):
        user, sha256 = inside.user_and_digest(shim.BAKED_PATH).result(PATIENCE_S)
        assert user == USER
        assert sha256 == hashlib.sha256(pyz.build(with_code=True).data).hexdigest(), "so these bytes run"
        data = bytes(range(256)) * (20 << 12)
        back = inside.invert(inside.Numbers(bytearray(data))).result(PATIENCE_S)
        assert back.data == data.translate(bytes(range(255, -1, -1)))


def test_a_container_ends_by_itself_when_nothing_is_called_any_more(account: Account) -> None:
    session = dok.session(plan=PLAN, image=slim_image(), idle_timeout=2)
    assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32
    assert session._future.result(PATIENCE_S) is None
    assert account.client.tasks.get(str(session.task_id)).status == "done"
    with pytest.raises(dok.SessionLost) as caught:
        session.submit(pow, 2, 5).result(PATIENCE_S)
    assert caught.value.ran == "no"


def kill(task_id: str) -> None:
    """Kill a task's container, and tell the service nothing."""
    with closing(docker.from_env()) as client:
        containers: list[Any] = client.containers.list(filters={"label": "dokrun.emulator"})
        (found,) = [one for one in containers if f"SAKURA_TASK_ID={task_id}" in one.attrs["Config"]["Env"]]
        found.kill()


def test_when_a_container_is_killed_each_call_is_told_whether_it_ran(account: Account) -> None:
    with closing(Gate()) as gate:
        session = dok.session(plan=PLAN, image=slim_image())
        assert session.submit(pow, 2, 5).result(PATIENCE_S) == 32
        running, waiting = session.submit(inside.stay, gate.port), session.submit(inside.add, 1, 2)
        assert next(running.logs()).startswith("here\n")
        kill(str(session.task_id))
        for future, ran in ((running, ["yes"]), (waiting, ["no", "maybe"])):
            with pytest.raises(dok.SessionLost) as caught:
                future.result(PATIENCE_S)
            assert caught.value.ran in ran
            assert not caught.value.still_runs
        assert account.client.tasks.get(str(session.task_id)).status == "error"
        with pytest.raises(dok.SessionLost) as caught:
            session.submit(inside.add, 1, 2).result(PATIENCE_S)
        assert caught.value.ran == "no"


def test_with_reconnect_what_is_called_when_a_container_was_killed_runs_in_the_next(account: Account) -> None:
    session = dok.session(plan=PLAN, image=slim_image(), reconnect=True)
    first = session.submit(inside.whereabouts)
    assert first.result(PATIENCE_S)[1]
    kill(str(session.task_id))
    assert session._future.exception(PATIENCE_S) is not None
    assert session.submit(inside.add, 1, 2).result(PATIENCE_S) == 3
    assert session.task_id != first.task_id
    session.close()
    assert session._future.exception(PATIENCE_S) is None
    assert account.client.tasks.get(str(session.task_id)).status == "done"
