"""A machine with an account: child processes that can be killed, their journal as plain SQLite, what has run."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from relay import Hold, Relay
from waiting import PATIENCE_S, wait_for

import dokrun as dok
from dokrun import config, engine, keys
from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.bucket import Bucket
from dokrun.config import BucketSettings
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.clock import Clock
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.engine import Engine
from dokrun.engine.journal import Journal
from dokrun.secret import Secret

__all__ = ["PATIENCE_S", "wait_for"]

# A function that counts its own starts in a file, and stays until another file is there.
JOB = """
    import os, sys, time
    import dokrun as dok

    @dok.remote(plan="v100-32gb", timeout=120)
    def job(number, starts, gate):
        print("at work")
        with open(starts, "a") as file:
            file.write(dok.current().call_id + "\\n")
        while not os.path.exists(gate):
            time.sleep(0.01)
        return number * 2

    starts, gate = sys.argv[1:3]
"""
CALL = (
    JOB
    + """
    future = job(21, starts, gate)
    print(future.handle, flush=True)
    print(future.result(), flush=True)
    sys.stdin.read()
"""
)
ATTACH = """
    import sys
    import dokrun as dok
    print(dok.attach(sys.argv[3]).result(), flush=True)
"""
# A statement that never ends, for a trigger: whoever writes the step stops in the middle of its transaction.
_FOREVER = """
CREATE VIEW forever AS
  WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 1000000000000) SELECT count(*) AS n FROM c;
CREATE TRIGGER stop BEFORE INSERT ON steps WHEN json_extract(CAST(NEW.step AS TEXT), '$.what') = '{}'
  BEGIN SELECT n FROM forever; END;
"""
_GO_ON = "DROP TRIGGER stop; DROP VIEW forever;"


class Place:
    """One machine's state folder, its account on an emulator behind a relay, and the children that use them."""

    def __init__(self, dok: Emulator, store: ObjectStore, relay: Relay, folder: Path) -> None:
        self.dok, self.relay, self.folder = dok, relay, folder
        self.starts, self.gate = folder / "starts", folder / "gate"
        self.state = folder / "state"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "DOKRUN_ACCESS_TOKEN": dok.token,
            "DOKRUN_ACCESS_TOKEN_SECRET": dok.secret,
            "DOKRUN_API_URL": relay.api_url,
            "DOKRUN_BUCKET": store.bucket,
            "DOKRUN_S3_ENDPOINT_URL": store.url,
            "DOKRUN_S3_ACCESS_KEY_ID": "anybody",
            "DOKRUN_S3_SECRET_ACCESS_KEY": "canary-of-the-bucket",
            "DOKRUN_STATE_DIR": str(self.state),
        }
        self.children: list[subprocess.Popen[str]] = []

    # Other processes.

    def start(self, script: str, *arguments: object, **environ: str) -> subprocess.Popen[str]:
        """Start a script as a process of its own."""
        path = self.folder / f"script{len(self.children)}.py"
        path.write_text(textwrap.dedent(script))
        child = subprocess.Popen(
            [sys.executable, "-u", str(path), str(self.starts), str(self.gate), *map(str, arguments)],
            env={**self.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def dokrun(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command of dokrun's, its output in a pipe."""
        return subprocess.run(
            [Path(sys.executable).with_name("dokrun"), *arguments],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def close(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.communicate()

    # This process.

    def settings(self, **environ: str) -> config.Settings:
        return config.load(environ={**self.environ, **environ}, config_dir=self.folder, home=self.folder)

    def here(self, sleep: Callable[[float], object] | None = None, **environ: str) -> Engine:
        """Let this process be one on that machine, whose waits are short."""
        made = Engine(self.settings(**environ), sleep=sleep or briefly)
        engine.use(made)
        return made

    # What is known.

    @property
    def database(self) -> Path:
        return self.state / f"{self.settings().account}.sqlite"

    def rows(self) -> list[dict[str, Any]]:
        """Tell the steps that are on disk, whoever's, as they stand there."""
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(self.database, timeout=PATIENCE_S)) as database:
            found = database.execute("SELECT job, step FROM steps ORDER BY job, number").fetchall()
        return [{"job": job, **msgspec.json.decode(step)} for job, step in found]

    def steps(self, handle: str = "-.") -> list[str]:
        """Tell what has happened to a job, or to all."""
        job = handle.rpartition("-")[2].partition(".")[0]
        return [row["what"] for row in self.rows() if job in ("", row["job"])]

    def started(self) -> int:
        """Tell how often the function was started, by its own count."""
        return len(self.starts.read_text().splitlines()) if self.starts.exists() else 0

    def posts(self) -> int:
        return self.relay.count("POST", "*/tasks/")

    def tasks(self) -> list[Task]:
        with Client(self.dok.token, self.dok.secret, base_url=self.dok.api_url) as client:
            return list(client.tasks.iterate())

    def claimed(self, store: ObjectStore, handle: str, attempt: int = 1) -> bool:
        """Tell whether somebody has a job's claim."""
        named = keys.read_handle(handle)
        assert named is not None
        bucket = Bucket(BucketSettings(store.bucket, store.url, None, "anybody", Secret("canary-of-the-bucket")))
        with closing(bucket):
            return bucket.read(keys.claim(named.job_id, attempt)) is not None

    # What goes wrong.

    def stop_at(self, step: str) -> None:
        """Let whoever writes this step stop in the middle of writing it."""
        Journal(self.state, self.settings().account).close()
        with closing(sqlite3.connect(self.database, isolation_level=None)) as database:
            database.executescript(_FOREVER.format(step))

    def stopped(self) -> None:
        """Wait until somebody is in the middle of writing that step."""
        with closing(sqlite3.connect(self.database, timeout=1.0, isolation_level=None)) as database:
            for _ in range(600):
                try:
                    database.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    return  # other transactions take milliseconds
                database.execute("ROLLBACK")
                threading.Event().wait(0.05)
        raise AssertionError("nobody writes")

    def go_on(self) -> None:
        """Let everybody write again."""
        with closing(sqlite3.connect(self.database, timeout=PATIENCE_S, isolation_level=None)) as database:
            database.executescript(_GO_ON)


def briefly(seconds: float) -> None:
    threading.Event().wait(min(seconds, 0.05))


def line(child: subprocess.Popen[str]) -> str:
    """Read a line of a child's output."""
    assert child.stdout is not None
    told = child.stdout.readline().strip()
    if not told:
        child.kill()
        raise AssertionError(child.communicate()[1])
    return told


def abandoned(place: Place, *, until: Callable[[], object] | None = None) -> str:
    """Let a client submit a job and be killed while it runs. Tells the handle."""
    child = place.start(CALL)
    handle = line(child)
    wait_for(until or place.started)
    kill(child)
    return handle


def killed_at(place: Place, held: Hold) -> str:
    """Let a client submit a job and be killed when a request of its is held. Tells the handle."""
    child = place.start(CALL)
    handle = line(child)
    held.reached()
    kill(child)
    return handle


def failure(future: dok.Future[Any]) -> dok.CallFailed:
    error = future.exception(timeout=60)
    assert isinstance(error, dok.CallFailed), error
    return error


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    assert child.wait(PATIENCE_S) == -9


def free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


@contextmanager
def open_place(
    store: ObjectStore, folder: Path, *, behaviour: Behaviour | None = None, clock: Clock | None = None
) -> Iterator[Place]:
    with Emulator(behaviour=behaviour, clock=clock) as dok, Relay(dok) as relay:
        place = Place(dok, store, relay, folder)
        try:
            yield place
        finally:
            engine.reset()
            place.close()


@pytest.fixture
def place(store: ObjectStore, tmp_path: Path) -> Iterator[Place]:
    """A machine, an account and a DOK of one test's own."""
    with open_place(store, tmp_path) as place:
        yield place
