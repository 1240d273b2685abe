"""What the property test drives: clients that can be killed, a service and a store that go wrong, and the truth.

The truth is in files: each start of a call's function is a byte in one, and `evil` is there only if something that was
not verified has been unpickled.
"""

from __future__ import annotations

import contextlib
import functools
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
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import botocore.session
import counting
import msgspec
from clocks import ManualClock
from gates import Gate, Gates
from scripted import IMPOSTOR, Scripted
from storefaults import FaultyStore, StoreFault

import dokrun as dok
from dokrun import keys
from dokrun.api import Client
from dokrun.api.models import ContainerRequest, CreateTaskRequest, Task
from dokrun.api.transport import Backoff
from dokrun.config import BucketSettings, Settings
from dokrun.emulator import Behaviour, Emulator, Fault
from dokrun.emulator.log import Log
from dokrun.emulator.objects import ObjectStore
from dokrun.emulator.process import ProcessRuntime
from dokrun.emulator.runtime import Running
from dokrun.engine.engine import Engine
from dokrun.engine.prepare import Target
from dokrun.options import Options
from dokrun.secret import Secret

PATIENCE_S = 60.0
PLAN = "v100-32gb"
SLOTS = 3
# Longer than any fault is late, and shorter than any task's limit.
LATE_S = 400.0
TARGET = Target(counting.counted, inspect.signature(counting.counted), "counted")

API_FAULTS = {
    "post is refused": Fault("status", "POST", "/tasks/", status=403),
    "post 500 before": Fault("status", "POST", "/tasks/", status=500),
    "post 429": Fault("status", "POST", "/tasks/", status=429),
    "post 503 after": Fault("status", "POST", "/tasks/", phase="after", status=503),
    "post reset before": Fault("reset", "POST", "/tasks/"),
    "post reset after": Fault("reset", "POST", "/tasks/", phase="after"),
    "post garbage after": Fault("garbage", "POST", "/tasks/", phase="after"),
    "post cut": Fault("cut", "POST", "/tasks/", phase="body", at_byte=20),
    "post twice": Fault("duplicate", "POST", "/tasks/", phase="after"),
    "post late": Fault("reset", "POST", "/tasks/", phase="during", late_s=10.0),
    "post very late": Fault("status", "POST", "/tasks/", occurrence=None, phase="during", late_s=300.0, status=504),
    "post always fails": Fault("status", "POST", "/tasks/", occurrence=None, status=503),
    "list 500": Fault("status", "GET", "/tasks/", status=500),
    "list reset": Fault("reset", "GET", "/tasks/"),
    "list garbage": Fault("garbage", "GET", "/tasks/"),
    "list always fails": Fault("status", "GET", "/tasks/", occurrence=None, status=502),
    "list 401 for ever": Fault("status", "GET", "/tasks/", occurrence=None, status=401),
    "cancel 500 before": Fault("status", "POST", "/tasks/*/cancel/", status=500),
    "cancel reset after": Fault("reset", "POST", "/tasks/*/cancel/", phase="after"),
    "cancel late": Fault("status", "POST", "/tasks/*/cancel/", phase="during", late_s=10.0, status=504),
    "task 500": Fault("status", "GET", "/tasks/*-*/", status=500),
    "artifacts 503": Fault("status", "GET", "/artifacts/*", status=503),
    "artifacts garbage": Fault("garbage", "GET", "/artifacts/*"),
    "artifacts always fail": Fault("status", "GET", "/artifacts/*", occurrence=None, status=500),
    "download cut": Fault("cut", "GET", "/downloads/artifacts/*", phase="body", at_byte=100),
    "download reset": Fault("reset", "GET", "/downloads/artifacts/*"),
    "log reset": Fault("reset", "GET", "/downloads/output/*"),
}
CANCELLING = [name for name in API_FAULTS if name.startswith("cancel")]
STORE_FAULTS = {
    "claim written, answer lost": StoreFault("reset", "PUT", "*/claims/*", phase="after"),
    "claim 503": StoreFault("status", "PUT", "*/claims/*", status=503),
    "claim delivered twice": StoreFault("twice", "PUT", "*/claims/*"),
    "claim unreadable": StoreFault("status", "GET", "*/claims/*", status=403),
    "claim refused": StoreFault("status", "PUT", "*/claims/*", status=403),
    "payload expired": StoreFault("status", "GET", "*/payload", status=403, code="ExpiredToken"),
    "payload tampered": StoreFault("tamper", "GET", "*/payload", at_byte=-1),
    "payload cannot be put": StoreFault("status", "PUT", "*/payload", status=403),
}


_POSTING = [name for name in API_FAULTS if name.startswith("post")]
# What goes wrong beside kills and cancels in one set of sequences: few things, so that each of them does.
TROUBLES = {
    "posting": _POSTING[:6],
    "posting oddly": _POSTING[6:],
    "looking": [name for name in API_FAULTS if name.startswith(("list", "task"))],
    "collecting": [name for name in API_FAULTS if name.startswith(("artifacts", "download", "log"))],
    "storing": list(STORE_FAULTS),
}


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
    """

    def __init__(self, *, real: bool = False) -> None:
        # In memory where that can be: nobody cuts the power, and each step of a journal waits for its disk.
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="dokrun-machine-", dir=memory))
        self.evil = self.folder / "evil"
        self.happened: Counter[str] = Counter()
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
        # What boto3 reads of its own files for each client would take longer than all the rest.
        self._loads_once = patch("botocore.session.create_loader", functools.cache(botocore.session.create_loader))
        self._loads_once.start()
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
        self._loads_once.stop()
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
        self.retire(dying)

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
        if name in API_FAULTS:
            self._api_rules[self.dok.faults.add(API_FAULTS[name])] = name
        else:
            self._store_rules[self.store.add(STORE_FAULTS[name])] = name

    def await_trouble(self) -> None:
        """Wait until something has gone wrong."""
        come_true(lambda: bool(self.dok.faults.injected or self.store.injected), "nothing has gone wrong")

    def end_outages(self) -> None:
        """Let what always goes wrong do so no longer; what goes wrong once may still."""
        for number, fault in self.dok.faults.rules.items():
            if fault.occurrence is None:
                self.dok.faults.remove(number)
        if self.scripted is not None:
            self.scripted.going.set()

    def heal(self) -> None:
        """Let nothing more go wrong, and take down what did."""
        self.happened.update(self._api_rules.get(one.rule, "hang") for one in self.dok.faults.injected)
        self.happened.update(self._store_rules[one.rule] for one in self.store.injected)
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


@dataclass(frozen=True)
class Told:
    """What a future said: `what` is value, raised, cancelled, or the class of our error, which alone has `ran`."""

    what: str
    value: Any = None
    ran: str = ""
    still_runs: bool = False
    # Whether it was heard by somebody who watches while the client that submitted it may yet try again.
    watched: bool = False
    text: str = field(default="", compare=False)

    @property
    def lasting(self) -> bool:
        """Whether there is nothing more to be learnt, so that every other future must say the same."""
        return not self.still_runs and not self.watched and self.what not in ("cancelled", "ResultNotFetched")


def told(future: dok.Future[Any]) -> Told:
    """Tell what a future says, which is done."""
    try:
        return Told("value", future.result(timeout=0))
    except CancelledError:
        return Told("cancelled")
    except counting.Raised as error:
        return Told("raised", error.args)
    except dok.CallFailed as error:
        return Told(type(error).__name__, None, error.ran, error.still_runs, text=f"{error} / {error.__cause__!r}")


def agree(first: Told, second: Told) -> bool:
    """Tell whether two futures of one call may both be right; what one could not find out the other may know.

    Of an attempt that was given up, who did so says that it was not submitted, and who sees it end that it failed.
    """
    if first.ran == second.ran == "no":
        return True
    if (first.what, first.value) != (second.what, second.value):
        return False
    return first.ran == second.ran or "maybe" in (first.ran, second.ran)


class Case:
    """One call: what was asked for, and all that was said of it."""

    def __init__(self, world: World, number: int, acts: tuple[str, ...], retries: int, *, secret: bool) -> None:
        self.number = number
        self.retries = retries
        self._world = world
        # Beside the sequence's others; unique over all of them, so that a late start counts for its own call.
        self.folder = Path(tempfile.mkdtemp(prefix=f"call-{number}-", dir=world.folder))
        self.handle = ""
        # Futures of the living client, and of dead ones.
        self.living: list[dok.Future[Any]] = []
        self._watching: set[int] = set()
        self.dead: list[dok.Future[Any]] = []
        self.settled: list[Told] = []
        self.impostors: list[str] = []
        options = Options(
            plan=PLAN,
            retries=dok.Retry(retries, on=(counting.Raised,)) if retries else None,
            secrets={"SECRET": Secret("secret")} if secret else {},
            detach=True,
        )
        self._submitted = world.person().engine.call(TARGET, (str(self.folder), number, acts), {}, options)
        self.living.append(self._submitted)

    @property
    def starts(self) -> int:
        path = self.folder / f"{self.number}.starts"
        return path.stat().st_size if path.exists() else 0

    def release(self) -> None:
        (self.folder / f"{self.number}.released").touch()

    def client_died(self) -> None:
        """Its futures were the dead client's; those that were told before keep what they said."""
        self.find_handle()
        self._note()
        self.dead += self.living
        self.living = []
        self._watching.clear()

    def find_handle(self) -> str:
        """Learn the handle, if there is one by now."""
        for future in (*self.living, *self.dead):
            self.handle = self.handle or future._progress.handle or ""
        return self.handle

    def _note(self) -> None:
        done = [(number, told(future)) for number, future in enumerate(self.living) if future.done()]
        self.settled += [replace(said, watched=number in self._watching) for number, said in done]

    def await_handle(self) -> str:
        """Wait until the handle is there, or never will be."""
        come_true(
            lambda: bool(self.find_handle()) or all(future.done() for future in self.living), "the call has no handle"
        )
        return self.find_handle()

    def attach(self) -> bool:
        """Have another future, where that can be. Tells whether it can."""
        if not self.await_handle():
            return False
        if self.retries and self._submitted in self.living and not self._submitted.done():
            self._watching.add(len(self.living))
        future = self._world.person().engine.attach(self.handle)
        assert isinstance(future, dok.Future)
        self.living.append(future)
        return True

    @property
    def job_id(self) -> str:
        handle = keys.read_handle(self.find_handle())
        return "" if handle is None else handle.job_id

    def tasks(self) -> list[Task]:
        """Tell the tasks that are really of this call: an impostor's are not."""
        found = self._world.tasks(self.job_id) if self.job_id else []
        return [task for task in found if task.containers[0].entrypoint != [IMPOSTOR]]

    def all_ended(self) -> bool:
        """Whether none of its tasks waits or runs."""
        return all(task.ended for task in self.tasks())

    @property
    def all_told(self) -> bool:
        """Whether the user believes that nothing of it runs any more."""
        return bool(self.living) and all(
            future.done() and (future.cancelled() or not told(future).still_runs) for future in self.living
        )

    def impersonate(self) -> None:
        """Make a task that bears the job's tag, says that it is its first attempt, and runs something else."""
        if not self.await_handle():
            return
        container = ContainerRequest(
            image="any",
            plan=PLAN,
            entrypoint=[IMPOSTOR],
            command=[self.job_id],
            environment={"DOKRUN_ATTEMPT": "1", "DOKRUN_JOB_ID": self.job_id},
        )
        tags = [keys.OURS, keys.job_tag(self.job_id)]
        with contextlib.suppress(dok.ApiError):
            made = self._world.client.tasks.create(CreateTaskRequest("impostor", [container], tags, 86400 * 30))
            self.impostors.append(made.id)
            self._world.happened["impostor"] += 1

    def impostors_were_left_alone(self) -> bool:
        """Whether each impostor's task has come to its own end."""
        return all(self._world.client.tasks.get(task_id).status == "done" for task_id in self.impostors)

    def cancel_its_tasks(self) -> None:
        """Let somebody end its tasks, who is no client of ours."""
        with contextlib.suppress(dok.ApiError):
            for task in self.tasks():
                if not task.ended:
                    self._world.client.tasks.cancel(task.id)
                    self._world.happened["cancelled by somebody"] += 1

    def await_bound(self) -> None:
        """Wait until the last future has a task, or its outcome."""
        future = self.living[-1]
        come_true(lambda: future.task_id is not None or future.done(), "the call is neither bound nor over")

    def await_all(self) -> None:
        late = wait(self.living, PATIENCE_S).not_done
        assert not late, f"call {self.number}: {late} after {PATIENCE_S} s; its tasks: {shown(self.tasks())}"
        self._note()


def shown(tasks: list[Task]) -> str:
    return ", ".join(f"{task.id[:8]} {task.status}" for task in tasks) or "none"


def come_true(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that must come, for a bounded time."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"{what} after {PATIENCE_S} s"
        threading.Event().wait(0.01)
