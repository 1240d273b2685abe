"""What all tests share: an emulator and an object store in this process, an account of both, and the workers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import secrecy
from xdist.scheduler import LoadScopeScheduling

from dokrun import engine
from dokrun.api import Client
from dokrun.emulator import Emulator
from dokrun.emulator.objects import ObjectStore

BUCKET = "dokrun-tests"


class Scheduler(LoadScopeScheduling):  # type: ignore[misc] # xdist tells no types
    """Gives one test after the other to whichever worker is free, and those of a group all to the same worker."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(self.config.rootpath / nodeid.partition("::")[0]) or nodeid


@functools.cache
def group_of(file: Path) -> str:
    """Tell the group of a file's tests; most files have none."""
    if "\nfrom containers import " in file.read_text(encoding="utf-8"):
        return "containers"  # they share one engine, and look at all that it has
    if file.name in ("test_grid.py", "test_service.py"):
        return file.name  # the one collects all tests, which takes seconds; the other may have one real account
    return ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduler:
    return Scheduler(config, log)


@pytest.fixture(scope="session")
def store() -> Iterator[ObjectStore]:
    """An S3-compatible store with one bucket."""
    store = ObjectStore(BUCKET)
    yield store
    store.close()


@pytest.fixture(scope="session")
def dok() -> Iterator[Emulator]:
    """DOK, on this machine."""
    with Emulator(secret=secrecy.DOK_SECRET) as emulator:
        yield emulator
        # Whatever was sent, the project's members can read it.
        with httpx.Client(base_url=emulator.api_url, auth=(emulator.token, emulator.secret), timeout=60) as anybody:
            pages = range(1, 1 + -(-anybody.get("/tasks/").json()["meta"]["count"] // 100))
            for page in pages:
                listed = anybody.get("/tasks/", params={"page": page, "page_size": 100}).text
                assert not [secret for secret in secrecy.SECRETS if secret in listed], "a definition holds a secret"


@pytest.fixture(scope="session", autouse=True)
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[secrecy.Listener]:
    """Let the whole suite be heard at debug level; a secret in a log or a state folder is a failure."""
    listener = secrecy.Listener()
    listener.listen()
    yield listener
    listener.stop()
    assert listener.slips == [], "a log shows a secret"
    states = [path for path in tmp_path_factory.getbasetemp().glob("*/state") if path.is_dir()]
    assert secrecy.slips_in_files(states) == [], "a state folder holds a secret"


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
    dok.faults.clear()


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
        "DOKRUN_S3_SECRET_ACCESS_KEY": secrecy.S3_SECRET,
        "DOKRUN_STATE_DIR": str(folder / "state"),
    }.items():
        monkeypatch.setenv(name, value)
