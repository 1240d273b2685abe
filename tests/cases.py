"""The jobs of the property test: what was asked for, who waits for it, and all that was said of each call."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import counting
from machine import PATIENCE_S, World, come_true, shown
from scripted import IMPOSTOR

import dokrun as dok
from dokrun import keys
from dokrun.api.models import ContainerRequest, CreateTaskRequest, Task
from dokrun.map import Packing
from dokrun.options import Options
from dokrun.secret import Secret

PLAN = "v100-32gb"


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


def told(get: Callable[[], Any]) -> Told:
    """Tell what comes of getting a result that is there."""
    try:
        return Told("value", get())
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


class Waiting:
    """What one client has of a job: a future for each call, and of several, the map that hands them out."""

    def __init__(self, given: dok.Future[Any] | dok.Map[Any], *, ordered: bool = True, watches: bool = False) -> None:
        self._map = None if isinstance(given, dok.Future) else given
        self.futures = [given] if isinstance(given, dok.Future) else given.futures
        self._ordered = ordered
        self._watches = watches

    @property
    def done(self) -> bool:
        return all(future.done() for future in self.futures)

    def cancel(self, number: int | None) -> bool:
        """Cancel one call, or all of them."""
        if self._map is None or number is not None:
            return self.futures[(number or 0) % len(self.futures)].cancel()
        return self._map.cancel()

    def told(self) -> list[tuple[int, Told]]:
        """Tell what was said so far, by the calls' numbers."""
        done = [(number, future) for number, future in enumerate(self.futures) if future.done()]
        return [(number, replace(told(future.result), watched=self._watches)) for number, future in done]

    def check_map(self) -> None:
        """See that a map whose calls are all over hands each out once, and nothing else than the futures say."""
        if self._map is None:
            return
        results, self._map = self._map, None
        # Those that were cancelled at the last moment may have come to something else before.
        said = [told(future.result) for future in self.futures]
        came: list[Told] = []
        with contextlib.suppress(StopIteration):
            while len(came) <= len(said):
                came.append(told(lambda: next(results)))
        assert len(came) == len(said), f"{len(said)} calls have brought {len(came)} results"
        if any(one.what == "cancelled" for one in said):
            return
        assert came == said if self._ordered else Counter(came) == Counter(said), f"{came} is not {said}"


class Call:
    """One call of a job: what it does, and what was said of it."""

    def __init__(self, folder: Path, number: int, acts: Sequence[str]) -> None:
        self.arguments = (str(folder), number, tuple(acts))
        self.acts = acts
        self._path = folder / str(number)
        self.settled: list[Told] = []

    @property
    def starts(self) -> int:
        path = self._path.with_suffix(".starts")
        return path.stat().st_size if path.exists() else 0

    def release(self) -> None:
        self._path.with_suffix(".released").touch()


class Case:
    """One job of some calls, and those who wait for it."""

    def __init__(
        self, world: World, number: int, calls: Sequence[Sequence[str]], retries: int, *, secret: bool, ordered: bool
    ) -> None:
        self.number = number
        self.retries = retries
        self._world = world
        # Beside the sequence's others; unique over all of them, so that a late start counts for its own call.
        folder = Path(tempfile.mkdtemp(prefix=f"job-{number}-", dir=world.folder))
        self.calls = [Call(folder, place, acts) for place, acts in enumerate(calls)]
        self.handle = ""
        # Whether nobody has ended any of it, nor the client that submitted it.
        self.left_alone = True
        self.impostors: list[str] = []
        options = Options(
            plan=PLAN,
            retries=dok.Retry(retries, on=(counting.Raised,)) if retries else None,
            secrets={"SECRET": Secret("secret")} if secret else {},
            detach=True,
        )
        self._submitted = Waiting(self._submit(options, ordered=ordered), ordered=ordered)
        # Of the living client, and of dead ones.
        self.living = [self._submitted]
        self._dead: list[Waiting] = []

    def _submit(self, options: Options, *, ordered: bool) -> dok.Future[Any] | dok.Map[Any]:
        engine, target = self._world.person().engine, self._world.target
        if len(self.calls) == 1:
            return engine.call(target, self.calls[0].arguments, {}, options)
        packing = Packing(order=ordered, progress=False)
        return engine.map(target, (call.arguments for call in self.calls), len(self.calls), options, packing)

    def release(self) -> None:
        for call in self.calls:
            call.release()

    def cancel(self, number: int | None) -> bool:
        """Cancel a call of the last who waits, or all of them. Tells whether there was anything."""
        self.left_alone = False
        return self.living[-1].cancel(number)

    def client_died(self) -> None:
        """Its futures were the dead client's; those that were told before keep what they said."""
        self.find_handle()
        self._note()
        self.left_alone &= self._submitted.done
        self._dead += self.living
        self.living = []

    def find_handle(self) -> str:
        """Learn the handle, if there is one by now."""
        for waiting in (*self.living, *self._dead):
            self.handle = self.handle or waiting.futures[0]._progress.handle or ""
        return self.handle

    def _note(self) -> None:
        for waiting in self.living:
            for number, said in waiting.told():
                self.calls[number].settled.append(said)

    def await_handle(self) -> str:
        """Wait until the handle is there, or never will be."""
        come_true(
            lambda: bool(self.find_handle()) or all(waiting.done for waiting in self.living), "the job has no handle"
        )
        return self.find_handle()

    def attach(self) -> bool:
        """Have somebody else wait for it, where that can be. Tells whether it can."""
        if not self.await_handle():
            return False
        watches = bool(self.retries) and self._submitted in self.living and not self._submitted.done
        # Whoever finds no task yet takes the claim.
        self.left_alone &= self._submitted.futures[0].task_id is not None
        given = self._world.person().engine.attach(self.handle)
        assert isinstance(given, (dok.Future, dok.Map))
        assert isinstance(given, dok.Future) == (len(self.calls) == 1)
        self.living.append(Waiting(given, watches=watches))
        return True

    @property
    def job_id(self) -> str:
        handle = keys.read_handle(self.find_handle())
        return "" if handle is None else handle.job_id

    def tasks(self) -> list[Task]:
        """Tell the tasks that are really of this job: an impostor's are not."""
        found = self._world.tasks(self.job_id) if self.job_id else []
        return [task for task in found if task.containers[0].entrypoint != [IMPOSTOR]]

    @property
    def canceled(self) -> bool:
        """Whether a task of it was, maybe by its own client, since the service had made two."""
        return any(task.status == "canceled" for task in self.tasks())

    def all_ended(self) -> bool:
        """Whether none of its tasks waits or runs."""
        return all(task.ended for task in self.tasks())

    @property
    def all_told(self) -> bool:
        """Whether the user believes that nothing of it runs any more."""
        return bool(self.living) and all(
            waiting.done and not any(said.still_runs for _, said in waiting.told()) for waiting in self.living
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
                    self.left_alone = False
                    self._world.client.tasks.cancel(task.id)
                    self._world.happened["cancelled by somebody"] += 1

    def await_bound(self) -> None:
        """Wait until whoever waits last has a task, or all outcomes."""
        waiting = self.living[-1]
        come_true(lambda: waiting.futures[0].task_id is not None or waiting.done, "the job is neither bound nor over")

    def await_all(self) -> None:
        late = wait([future for waiting in self.living for future in waiting.futures], PATIENCE_S).not_done
        assert not late, f"job {self.number}: {late} after {PATIENCE_S} s; its tasks: {shown(self.tasks())}"
        self._note()
        for waiting in self.living:
            waiting.check_map()
