"""The project's line, of which the service lets one task run at a time: who stands where, asked for now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime

from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.cost import utc_now
from dokrun.errors import ApiError
from dokrun.progress import Place

_log = logging.getLogger("dokrun.engine")

# The service is not asked more often.
INTERVAL_S = 10.0


class Queue:
    """Tells where tasks stand in the line. May be used from any thread.

    Args:
        client: DOK.
        aside: has something done by another thread; tells whether it will be.
        now: tells seconds that only grow.
    """

    def __init__(
        self, client: Client, aside: Callable[[Callable[[], object]], bool], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._aside = aside
        self._now = now
        self._asking = threading.Lock()
        self._asked_at: float | None = None
        self._places: dict[str, Place] = {}

    def place(self, task_id: str, ask: bool) -> Place | None:  # noqa: FBT001 - `Progress.line` has no names
        """Tell where a task stands; None where it does not wait, as far as was last heard.

        Args:
            task_id: whose.
            ask: whether to wait for an answer that is no older than ten seconds; without, one is asked for aside.

        Raises:
            ApiError: the service refused or did not answer, and was to be waited for.
        """
        if self._old():
            if ask:
                self._ask()
            elif self._asking.acquire(blocking=False) and not self._aside(self._ask_quietly):
                self._asking.release()
        return self._places.get(task_id)

    def _old(self) -> bool:
        return self._asked_at is None or self._now() - self._asked_at >= INTERVAL_S

    def _ask(self) -> None:
        with self._asking:
            if self._old():  # nobody has asked meanwhile
                self._look()

    def _ask_quietly(self) -> None:
        try:
            self._look()
        except ApiError as error:
            _log.debug("cannot see the line of tasks, and will ask again: %s", error)
        finally:
            self._asking.release()

    def _look(self) -> None:
        # Also where it fails: whoever does not answer is not asked again at once.
        self._asked_at = self._now()
        self._places = places(self._client.tasks.iterate(status=("waiting", "running")), utc_now())


def places(newest_first: Iterable[Task], now: datetime) -> dict[str, Place]:
    """Tell where each waiting task stands, by its id.

    Args:
        newest_first: the tasks that wait and run, as the service lists them; one that comes twice counts once.
        now: the time.
    """
    tasks = list({task.id: task for task in newest_first}.values())
    running = [task for task in tasks if task.status == "running"]
    found: dict[str, Place] = {}
    before = len(running)
    longest_s = _sum(_left_s(task, now) for task in running)
    for task in reversed(tasks):
        if task.status == "waiting":
            found[task.id] = Place(before, longest_s)
            before, longest_s = before + 1, _sum((longest_s, _left_s(task, now)))
    return found


def _left_s(task: Task, now: datetime) -> float | None:
    """Tell for how many seconds a task may run yet; what has not started, or was not heard to, has all of its time."""
    if task.execution_time_limit_sec is None:
        return None  # twenty days, which is no help to anybody
    ran_s = 0.0 if task.started_at is None else max(0.0, (now - task.started_at).total_seconds())
    return max(0.0, task.execution_time_limit_sec - ran_s)


def _sum(seconds: Iterable[float | None]) -> float | None:
    known = list(seconds)
    return None if None in known else sum(each for each in known if each is not None)
