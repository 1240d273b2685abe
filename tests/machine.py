"""What the property test drives: clients that can be killed, a service and a store that go wrong, and the truth.

The truth is in files: each start of a call's function is a byte in one, and `evil` is there only if something that was
not verified has been unpickled.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import counting
import msgspec
from clocks import ManualClock
from gates import Gate, Gates
from scripted import Scripted
from storefaults import FaultyStore
from troubles import API_FAULTS, LOSING, SHARED_FAULTS, STORE_FAULTS

import dokrun as dok
from dokrun import keys
from dokrun.api import Client
from dokrun.api.models import ContainerRequest, Task
from dokrun.api.transport import Backoff
from dokrun.config import BucketSettings, Settings
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.log import Log
from dokrun.emulator.objects import ObjectStore
from dokrun.emulator.process import ProcessRuntime
from dokrun.emulator.runtime import Running
from dokrun.engine.engine import Engine
from dokrun.engine.target import Target
from dokrun.secret import Secret

PATIENCE_S = 60.0
SLOTS = 3
# Longer than any fault is late, and shorter than any task's limit.
LATE_S = 400.0


class Rerouted:
    """The real runtime `process`, whose containers reach the store by a way of their own."""

    def __init__(self, reach: Callable[[str], str]) -> None:
        self._reach = reach

    def __call__(self, folder: Path) -> Rerouted:
        self._real = ProcessRuntime(folder, sys.executable)
        return self

    async def start(self, task_id: str, container: ContainerRequest, log: Log) -> Running:
        command = [self._reach(argument) for argument in container.command]
        return await self._real.start(task_id, msgspec.structs.replace(container, command=command), log)

    def give_up(self, task_id: str) -> None:
        self._real.give_up(task_id)

    def close(self) -> None:
        self._real.close()


@dataclass
class Person:
    """A client: an engine, and the gates that it comes through."""

    engine: Engine
    gates: tuple[Gate, Gate]

    def journal(self) -> sqlite3.Connection:
        """Open what it has written down, as it is on the disk at this moment."""
        settings = self.engine.settings
        return sqlite3.connect(settings.state_dir / f"{settings.account}.sqlite")


class World:
    """What all sequences share, and what has happened in them.

    Args:
        real: whether containers are real processes, rather than played ones.

    Attributes:
        troubles: what was to go wrong in this sequence, by names.
    """

    target = Target(counting.counted, inspect.signature(counting.counted), "counted")

    def __init__(self, *, real: bool = False) -> None:
        # In memory where that can be: nobody cuts the power, and each step of a journal waits for its disk.
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="dokrun-machine-", dir=memory))
        self.evil = self.folder / "evil"
        self.happened: Counter[str] = Counter()
        self.troubles: set[str] = set()
        self.clock = ManualClock()
        self._routes: dict[str, str] = {}
        self.scripted = None if real else Scripted(self._reach, str(self.evil))
        runtime = self.scripted or Rerouted(self._reach)
        self.dok = Emulator(behaviour=Behaviour(slots=SLOTS), clock=self.clock, runtime=runtime).start()
        self._objects = ObjectStore("machine")
        self.store = FaultyStore(self._objects)
        self._gates = Gates()
        self._numbers = itertools.count()
        self._burials = ThreadPoolExecutor(4)
        self._births = ThreadPoolExecutor(1)
        self._ready = self._births.submit(self._born)
        self._living: Person | None = None
        self._api_rules: dict[int, str] = {}
        self._store_rules: dict[int, str] = {}
        # Somebody else's, who is in the project too.
        self.client = Client(
            self.dok.token, self.dok.secret, base_url=self.dok.api_url, backoff=Backoff(sleep=self.sleep)
        )

    def __enter__(self) -> World:  # noqa: PYI034 - nobody makes a class of this
        return self

    def __exit__(self, *_error: object) -> None:
        self.abandon()
        self.retire(self._ready.result())
        self._births.shutdown()
        self._burials.shutdown()
        self.client.close()
        self.dok.close()
        self.store.__exit__()
        self._objects.close()
        self._gates.close()
        shutil.rmtree(self.folder)

    def _reach(self, text: str) -> str:
        for gate, url in list(self._routes.items()):
            text = text.replace(gate, url)
        return text

    def sleep(self, seconds: float) -> None:
        """Let the clients' pauses pass on the service's clock, and hardly anything of them on ours."""
        self.clock.pass_time(seconds)
        time.sleep(max(seconds / 4000, 0.001))

    def person(self) -> Person:
        """The client that lives."""
        if self._living is None:
            self._living = self._next()
        return self._living

    def _next(self) -> Person:
        """A client that is ready; another is made meanwhile, which takes a while."""
        ready, self._ready = self._ready, self._births.submit(self._born)
        return ready.result(PATIENCE_S)

    def _born(self) -> Person:
        api, s3 = self._gates.open(self.dok.api_url), self._gates.open(self.store.url)
        self._routes[s3.url] = self.store.url
        settings = Settings(
            "machine",
            api_url=api.url,
            access_token=self.dok.token,
            access_token_secret=Secret(self.dok.secret),
            bucket=BucketSettings(self.store.bucket, s3.url, None, "anybody", Secret("canary-of-the-bucket")),
            uses_images=False,
            state_dir=self.folder / f"state-{next(self._numbers)}",
        )
        return Person(Engine(settings, sleep=self.sleep), (api, s3))

    def kill(self) -> None:
        """End the living client at once, with what it has on its disk; the next one finds that."""
        dying, heir = self.person(), self._next()
        self._gates.freeze(*dying.gates)
        with contextlib.closing(dying.journal()) as before, contextlib.closing(heir.journal()) as after:
            before.backup(after)
        self._gates.cut(*dying.gates)
        self._living = heir
        self.happened["kill"] += 1
        self.troubles.add("kill")
        self.retire(dying)

    def move(self) -> None:
        """End the living client when it has cleaned up; the next one is on another machine, and knows only handles."""
        if self._living is not None:
            gone, self._living = self._living, self._next()
            gone.engine.close()
            self._gates.cut(*gone.gates)

    def abandon(self) -> None:
        """Let the living client go, in whatever state it is."""
        if self._living is not None:
            gone, self._living = self._living, None
            self._gates.cut(*gone.gates)
            self.retire(gone)

    def retire(self, person: Person) -> None:
        """End a client's threads, in the background."""
        self._burials.submit(person.engine.close)

    def go_wrong(self, name: str) -> None:
        """Let the service or the store go wrong in a way that has a name."""
        self.troubles.add(name)
        if name in API_FAULTS:
            self._api_rules[self.dok.faults.add(API_FAULTS[name])] = name
        else:
            self._store_rules[self.store.add((STORE_FAULTS | SHARED_FAULTS)[name])] = name

    def await_trouble(self) -> None:
        """Wait until something has gone wrong."""
        come_true(lambda: bool(self.dok.faults.injected or self.store.injected), "nothing has gone wrong")

    def end_outages(self) -> None:
        """Let nobody wait for what always goes wrong; what goes wrong once may still, and what nobody waits for."""
        for number, fault in self.dok.faults.rules.items():
            if fault.occurrence is None and self._api_rules.get(number) not in LOSING:
                self.dok.faults.remove(number)
        if self.scripted is not None:
            self.scripted.going.set()

    def heal(self) -> None:
        """Let nothing more go wrong, and take down what did."""
        self.happened.update(self._api_rules.get(one.rule, "hang") for one in self.dok.faults.injected)
        self.happened.update(self._store_rules[one.rule] for one in self.store.injected)
        self.happened["fetched ahead"] += len(self.store.asked("GET", "*/results/*"))
        self.dok.faults.clear()
        self.store.clear()
        self._api_rules.clear()
        self._store_rules.clear()
        if self.scripted is not None:
            self.scripted.fates.clear()
            self.scripted.going.set()

    def end_sequence(self, *, clean: bool) -> None:
        """Leave nothing to the next sequence: no fault, no task that goes on, no client in a state of its own."""
        self.heal()
        self.troubles.clear()
        if not clean:
            self.abandon()
        for task in self.client.tasks.iterate(status="waiting,running"):
            with contextlib.suppress(dok.ApiError):
                self.client.tasks.cancel(task.id)
        if self.scripted is not None:
            self.scripted.going.clear()
            assert not self.scripted.defects, self.scripted.defects

    def tasks(self, job_id: str) -> list[Task]:
        """Tell the tasks that bear a job's tag, whatever goes wrong meanwhile."""
        for _ in range(len(API_FAULTS)):
            with contextlib.suppress(dok.ApiError):
                return list(self.client.tasks.iterate(tag=keys.job_tag(job_id)))
        return []


def shown(tasks: list[Task]) -> str:
    return ", ".join(f"{task.id[:8]} {task.status}" for task in tasks) or "none"


def come_true(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that must come, for a bounded time."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"{what} after {PATIENCE_S} s"
        threading.Event().wait(0.01)
