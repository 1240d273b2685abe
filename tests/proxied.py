"""An account whose store is behind the proxy, and an engine that goes through it and does not wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import point_at
from storefaults import FaultyStore

from dokrun import config, engine
from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.emulator import Emulator
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.engine import Engine

Use = Callable[[Emulator], None]


@pytest.fixture
def faulty(store: ObjectStore) -> Iterator[FaultyStore]:
    with FaultyStore(store) as faulty:
        yield faulty


@pytest.fixture
def quick(account: pytest.MonkeyPatch, faulty: FaultyStore) -> FaultyStore:
    """An engine that does not wait, with the store behind the proxy."""
    _go_through(faulty, account)
    return faulty


@pytest.fixture
def use(account: pytest.MonkeyPatch, faulty: FaultyStore, store: ObjectStore, tmp_path: Path) -> Use:
    """Lets an engine that does not wait use an emulator, with the store behind the proxy."""

    def use(emulator: Emulator) -> None:
        point_at(account, emulator, store, tmp_path)
        _go_through(faulty, account)

    return use


def _go_through(faulty: FaultyStore, account: pytest.MonkeyPatch) -> None:
    account.setenv("DOKRUN_S3_ENDPOINT_URL", faulty.url)
    engine.use(Engine(config.load(), sleep=lambda _seconds: None))


def tasks(emulator: Emulator) -> dict[str, Task]:
    with Client(emulator.token, emulator.secret, base_url=emulator.api_url) as client:
        return {task.id: task for task in client.tasks.iterate()}


def starts(folder: Path) -> int:
    """Tell how often functions that leave a file named `started-…` there were started."""
    return len(list(folder.glob("started-*")))
