"""An account on an emulator of one test's own, whose files lie where the test can change them."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clocks import ManualClock
from places import briefly

import dokrun as dok
from dokrun import config, engine
from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.emulator import Behaviour, Emulator, Fault
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.engine import Engine

Files = dict[str, bytes]


@dataclass
class Account:
    """`starts` is where `chores` count, `folder` is the test's."""

    service: Emulator
    client: Client
    folder: Path
    environ: dict[str, str]

    @property
    def starts(self) -> Path:
        return self.folder / "starts"

    def here(self, state: str = "state", sleep: Callable[[float], object] = briefly, **environ: str) -> Engine:
        """Let calls go through this account, from a machine whose state is in a folder of this name."""
        told = {**self.environ, "DOKRUN_STATE_DIR": str(self.folder / state), **environ}
        made = Engine(config.load(environ=told, config_dir=self.folder, home=self.folder), sleep=sleep)
        engine.use(made)
        return made

    def task(self, future: dok.Future[Any]) -> Task:
        return self.client.tasks.get(str(future.task_id))

    def archive(self, task_id: str | None) -> Path:
        """Tell where the service keeps a task's artifact."""
        artifact = self.client.tasks.get(str(task_id)).artifact
        assert artifact is not None
        return self.folder / "data" / "artifacts" / artifact.id

    def change(self, task_id: str | None, change: Callable[[Files], Any]) -> None:
        """Change the files in a task's artifact, so that it is a good archive all the same."""
        path = self.archive(task_id)
        files: Files = {}
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is not None:
                    files[member.name] = content.read()
        before = dict(files)
        change(files)
        assert files != before, "nothing was changed"
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                made = tarfile.TarInfo(name)
                made.size = len(data)
                archive.addfile(made, io.BytesIO(data))

    def faults(self, *faults: Fault) -> list[int]:
        return [self.service.faults.add(fault) for fault in faults]

    def injected(self, rule: int | None = None) -> int:
        """Tell how many faults have happened, of one rule or of all."""
        return len([one for one in self.service.faults.injected if rule in (None, one.rule)])


MANIFEST = "./.dokrun/outcome.json"


def manifest(files: Files) -> Any:
    return json.loads(files[MANIFEST])


def with_manifest(**changed: Any) -> Callable[[Files], None]:
    """Make a change that says something else in the manifest."""

    def change(files: Files) -> None:
        files[MANIFEST] = json.dumps({**manifest(files), **changed}).encode()

    return change


@contextmanager
def opened(
    store_url: str, bucket: str, folder: Path, *, behaviour: Behaviour | None = None, clock: ManualClock | None = None
) -> Iterator[Account]:
    (folder / "data").mkdir(mode=0o700)
    with Emulator(data=folder / "data", behaviour=behaviour, clock=clock) as emulator:
        environ = {
            "DOKRUN_ACCESS_TOKEN": emulator.token,
            "DOKRUN_ACCESS_TOKEN_SECRET": emulator.secret,
            "DOKRUN_API_URL": emulator.api_url,
            "DOKRUN_BUCKET": bucket,
            "DOKRUN_S3_ENDPOINT_URL": store_url,
            "DOKRUN_S3_ACCESS_KEY_ID": "anybody",
            "DOKRUN_S3_SECRET_ACCESS_KEY": "canary-of-the-bucket",
        }
        with Client(emulator.token, emulator.secret, base_url=emulator.api_url) as client:
            account = Account(emulator, client, folder, environ)
            account.here()
            try:
                yield account
            finally:
                engine.reset()


def old_python(folder: Path) -> str:
    """Make a Python that says of itself that it is 3.8.1. Tells its path."""
    another = folder / "another"
    another.mkdir()
    (another / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 8, 1, 'final', 0)\n")
    python = another / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={another} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


@pytest.fixture
def account(store: ObjectStore, tmp_path: Path) -> Iterator[Account]:
    with opened(store.url, store.bucket, tmp_path) as account:
        yield account
