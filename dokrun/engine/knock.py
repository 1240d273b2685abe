"""Whether the server in a task's container answers at its public address: asked once somebody wants to know."""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

from dokrun.api.models import Task
from dokrun.engine.parts import Parts
from dokrun.jobstate import Progress

# A server may take minutes to load what it serves.
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
GROWTH = 1.6


class Knock:
    """Asks at a job's public address until there is an answer, at growing intervals.

    Args:
        parts: the client, and what waits.
        progress: told the address, and that it answers.
        over: tells whether nobody waits for the job any more.
    """

    def __init__(self, parts: Parts, progress: Progress, over: Callable[[], bool]) -> None:
        self._parts = parts
        self._progress = progress
        self._over = over
        self._lock = threading.Lock()
        self._asking = False

    def see(self, task: Task) -> None:
        """Take down what a task's definition says, and where it can be reached while it runs."""
        http = task.containers[0].http if task.containers else None
        running = task.status == "running" and http is not None and task.http_uri
        address = _opened(str(task.http_uri), http.path) if running and http else None
        if (http is not None, address) != (self._progress.serves, self._progress.address):
            self._progress.update(serves=http is not None, address=address)

    def begin(self) -> None:
        """Ask from now on, in a thread of its own, unless one does, or there was an answer."""
        with self._lock:
            if not self._asking and self._progress.http_uri is None:
                self._asking = True
                threading.Thread(target=self._ask, name="dokrun-knock", daemon=True).start()

    def _ask(self) -> None:
        pause_s = FIRST_PAUSE_S
        while (address := self._progress.wait_for("address", self._over)) is not None and not self._over():
            if self._parts.client.tasks.answers(address):
                self._progress.update(answered=address)
            # Another attempt, which may have begun meanwhile, has another address.
            if self._progress.http_uri is not None or self._parts.sleep(pause_s):
                break
            pause_s = min(pause_s * GROWTH, LONGEST_PAUSE_S)
        with self._lock:
            self._asking = False


def _opened(uri: str, path: str) -> str:
    """Make the address of a path; whether the service's own has it already is not known in public."""
    parts = urlsplit(uri)
    return uri if parts.path.strip("/") else urlunsplit(parts._replace(path=path))
