"""The fixtures that the roads share: an emulator and an object store in this process, as an account names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dokrun import engine
from dokrun.api import Client
from dokrun.emulator import Emulator
from dokrun.emulator.objects import ObjectStore

BUCKET = "dokrun-tests"


@pytest.fixture(scope="session")
def store() -> Iterator[ObjectStore]:
    """An S3-compatible store with one bucket."""
    store = ObjectStore(BUCKET)
    yield store
    store.close()


@pytest.fixture(scope="session")
def dok() -> Iterator[Emulator]:
    """DOK, on this machine."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def client(dok: Emulator) -> Iterator[Client]:
    """A client that has the emulator's key."""
    with Client(dok.token, dok.secret, base_url=dok.api_url) as client:
        yield client


@pytest.fixture
def account(
    dok: Emulator, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """An account with a bucket, told by the environment as a user would; change it before the first call."""
    point_at(monkeypatch, dok, store, tmp_path)
    yield monkeypatch
    engine.reset()


def point_at(monkeypatch: pytest.MonkeyPatch, dok: Emulator, store: ObjectStore, folder: Path) -> None:
    """Tell an account by the environment."""
    engine.reset()
    monkeypatch.delenv("DOKRUN_HUB_MIRROR", raising=False)  # the containers' own, which few tests want
    for name, value in {
        "DOKRUN_ACCESS_TOKEN": dok.token,
        "DOKRUN_ACCESS_TOKEN_SECRET": dok.secret,
        "DOKRUN_API_URL": dok.api_url,
        "DOKRUN_BUCKET": store.bucket,
        "DOKRUN_S3_ENDPOINT_URL": store.url,
        "DOKRUN_S3_ACCESS_KEY_ID": "anybody",
        "DOKRUN_S3_SECRET_ACCESS_KEY": "anything",
        "DOKRUN_STATE_DIR": str(folder / "state"),
    }.items():
        monkeypatch.setenv(name, value)
