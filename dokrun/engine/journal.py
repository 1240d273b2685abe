"""What this machine knows of its jobs: each step is on disk before it has its effect, so a kill loses nothing.

One SQLite database for each account, in the state folder; any number of processes may use it at once. Its rollback
journal, unlike a write-ahead log, is good on network file systems too, and costs half a millisecond for a step.

    jobs(id, record)               a `Record`, as JSON
    steps(job, number, at, step)   a `Step`, as JSON, in order; none is ever changed
    spent(task, at, function, plan, spent)
                                   a `Spent`, as JSON, for each task that has ended: what the next one may cost

The steps of a job that goes well are intended, bound, ended, settled.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from dokrun import state
from dokrun.cost import Past
from dokrun.errors import ConfigError

_log = logging.getLogger("dokrun.engine")

What = Literal["intended", "bound", "given up", "ended", "settled"]

# Another process may hold the lock for as long as a disk takes to write a page.
BUSY_S = 30.0
# The service keeps an artifact for three days; what is older than this has nothing left to attach to.
KEPT_S = 30 * 86400.0
SPENT_KEPT_S = 365 * 86400.0
# What a function costs changes with it, so that only the latest tasks tell of the next one.
_PAST_TASKS = 50

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs(id TEXT PRIMARY KEY, created_at REAL NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS steps(
  job TEXT NOT NULL, number INTEGER NOT NULL, at REAL NOT NULL, step BLOB NOT NULL, PRIMARY KEY(job, number)
);
CREATE TABLE IF NOT EXISTS spent(
  task TEXT PRIMARY KEY, at REAL NOT NULL, function TEXT NOT NULL, plan TEXT NOT NULL, spent BLOB NOT NULL
);
"""


class Record(msgspec.Struct, frozen=True):
    """What a job is, without anything of its payload: enough to find its tasks and to read what they leave.

    `digest` is its definition's, `watch_tag` what its tasks share with others that are asked for at the same time, and
    `likeness` what is the same for every call like its one; empty where nobody has asked for that.
    """

    id: str
    name: str
    plan: str
    calls: int
    digest: str
    watch_tag: str
    likeness: str = ""


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happens to a job, in one of its attempts. `detail` is for people."""

    what: What
    attempt: int
    task_id: str | None = None
    detail: str = ""


class Spent(msgspec.Struct, frozen=True):
    """What a task that has ended has cost: how long it ran, how much of that its calls did, how much is billed.

    `whole` tells whether its calls came to an end of their own, so that another one may be expected to take as long.
    """

    job: str
    task: str
    function: str
    plan: str
    calls: int
    lanes: int
    seconds: float
    running_s: float | None
    billed_s: float
    yen: str
    whole: bool


@dataclass(frozen=True)
class Entry:
    """A job and its steps so far; `at` is when it was begun, in seconds since 1970, where that was asked for."""

    record: Record
    steps: Sequence[Step]
    at: float = 0.0

    @property
    def attempt(self) -> int:
        """The last attempt that was begun."""
        return max((step.attempt for step in self.steps), default=1)

    @property
    def task_id(self) -> str | None:
        """The task of the last attempt, if the service was heard to have taken it."""
        bound = [step.task_id for step in self.steps if step.what == "bound" and step.attempt == self.attempt]
        return bound[-1] if bound else None

    @property
    def settled(self) -> bool:
        """Whether its outcome was told."""
        return any(step.what == "settled" for step in self.steps)


class Journal:
    """The journal of one account. May be used from any thread.

    Args:
        folder: the state folder.
        account: what the database is called.
        now: tells the seconds since 1970.
        busy_s: how long to wait for another process, in seconds.

    Raises:
        ConfigError: the folder or the file is not safe or cannot be used.
    """

    def __init__(
        self, folder: Path, account: str, now: Callable[[], float] = time.time, *, busy_s: float = BUSY_S
    ) -> None:
        self._path = state.private(folder) / f"{account}.sqlite"
        self._now = now
        self._lock = threading.Lock()
        state.check_file(self._path)
        with self._translated():
            self._path.touch(mode=0o600)
            self._path.chmod(0o600)
            self._database = sqlite3.connect(self._path, timeout=busy_s, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
            with self._transaction() as database:
                old = self._now() - KEPT_S
                database.execute("DELETE FROM steps WHERE job IN (SELECT id FROM jobs WHERE created_at < ?)", (old,))
                database.execute("DELETE FROM jobs WHERE created_at < ?", (old,))
                database.execute("DELETE FROM spent WHERE at < ?", (self._now() - SPENT_KEPT_S,))

    def begin(self, record: Record) -> None:
        """Write down that a job's first attempt is about to be submitted."""
        with self._translated(), self._transaction() as database:
            values = (record.id, self._now(), msgspec.json.encode(record))
            database.execute("INSERT INTO jobs(id, created_at, record) VALUES (?, ?, ?)", values)
            self._append(database, record.id, Step("intended", 1))

    def add(self, job_id: str, step: Step) -> None:
        """Write down a step, before it has its effect."""
        with self._translated(), self._transaction() as database:
            self._append(database, job_id, step)

    def note(self, job_id: str, step: Step) -> None:
        """Write down a step that has happened, or does no harm if nobody knows of it. A failure is only warned of."""
        try:
            self.add(job_id, step)
        except ConfigError as error:
            _log.warning("job %s goes on, but %s", job_id, error)

    def spend(self, spent: Spent) -> None:
        """Write down what a task has cost, once. A failure is only warned of."""
        values = (spent.task, self._now(), spent.function, spent.plan, msgspec.json.encode(spent))
        try:
            with self._translated(), self._transaction() as database:
                database.execute("INSERT OR IGNORE INTO spent VALUES (?, ?, ?, ?, ?)", values)
        except ConfigError as error:
            _log.warning("what task %s has cost is not written down: %s", spent.task, error)

    def past(self, function: str, plan: str) -> list[Past]:
        """Tell the latest tasks of a function on a plan whose calls came to an end of their own."""
        with self._translated(), self._lock, closing(self._database.cursor()) as cursor:
            found = cursor.execute(
                "SELECT spent FROM spent WHERE function = ? AND plan = ? ORDER BY at DESC LIMIT ?",
                (function, plan, _PAST_TASKS),
            )
            told = [msgspec.json.decode(spent, type=Spent) for (spent,) in found.fetchall()]
        return [Past(each.calls, each.lanes, each.seconds, each.running_s) for each in told if each.whole]

    def find(self, beginning: str) -> list[Entry]:
        """Tell the jobs whose id begins so; all of them if it is empty. The latest is first."""
        with self._translated(), self._lock, closing(self._database.cursor()) as cursor:
            pattern = f"{beginning}*"
            found = cursor.execute("SELECT record FROM jobs WHERE id GLOB ? ORDER BY created_at DESC", (pattern,))
            records = [msgspec.json.decode(record, type=Record) for (record,) in found.fetchall()]
            return [Entry(record, self._steps(cursor, record.id)) for record in records]

    def alike(self, likeness: str) -> list[Entry]:
        """Tell the jobs of a call like that whose outcome nobody was told. The latest is first."""
        with self._translated(), self._lock, closing(self._database.cursor()) as cursor:
            found = cursor.execute(
                "SELECT created_at, record FROM jobs WHERE instr(record, ?) ORDER BY created_at DESC",
                (likeness.encode(),),
            )
            told = [(at, msgspec.json.decode(record, type=Record)) for at, record in found.fetchall()]
            entries = [Entry(record, self._steps(cursor, record.id), at) for at, record in told]
        return [entry for entry in entries if not entry.settled]

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def _steps(self, cursor: sqlite3.Cursor, job_id: str) -> list[Step]:
        found = cursor.execute("SELECT step FROM steps WHERE job = ? ORDER BY number", (job_id,))
        return [step for (told,) in found.fetchall() if (step := _read(told)) is not None]

    def _append(self, database: sqlite3.Cursor, job_id: str, step: Step) -> None:
        database.execute(
            "INSERT INTO steps(job, number, at, step) "
            "SELECT ?, COALESCE(MAX(number), 0) + 1, ?, ? FROM steps WHERE job = ?",
            (job_id, self._now(), msgspec.json.encode(step), job_id),
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._lock, closing(self._database.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                # A lock that is kept would lock every process out.
                if self._database.in_transaction:
                    cursor.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(
                f"the journal {self._path} cannot be used: {error}; make room, or move it away"
            ) from error
        except msgspec.MsgspecError as error:
            raise ConfigError(f"the journal {self._path} is broken: {error}; move it away") from error


def _read(told: bytes) -> Step | None:
    """Read a step, None where a newer version has written one that this one does not know."""
    try:
        return msgspec.json.decode(told, type=Step)
    except msgspec.ValidationError:
        return None
