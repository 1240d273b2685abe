"""Both DOKs, the emulator and the minimal one, with one language for what goes wrong: the minimal one's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from clocks import ManualClock
from minimal import MinimalDok

from dokrun import errors
from dokrun.api import Client
from dokrun.api.transport import Backoff, NetworkTransport
from dokrun.emulator import Emulator, Fault

CREATE, LIST, CANCEL = ("POST", "/tasks/"), ("GET", "/tasks/"), ("POST", "/tasks/{id}/cancel/")
# More than an answer takes on a busy machine, and what a test waits for one that does not come.
TIMEOUT_S = 1.5
_LATE_S = 3600.0

Change = Callable[[Any], Any]


class Wire(httpx.BaseTransport):
    """The network: takes down each request with its answer's status (None: none came), and may change an answer."""

    def __init__(self, base_url: str) -> None:
        self._network = NetworkTransport()
        self._base = urlsplit(base_url).path
        self.sent: list[tuple[str, str, int | None]] = []
        self.changes: dict[tuple[str, str], Change] = {}
        self.changed = 0
        # How many of the next requests bear a key that is no longer good.
        self.refusals = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix(self._base)
        self.sent.append((request.method, path, None))
        if self.refusals:
            self.refusals -= 1
            request.headers["Authorization"] = "Basic ZXhwaXJlZDprZXk="
        response = self._network.handle_request(request)
        self.sent[-1] = (request.method, path, response.status_code)
        change = self.changes.get((request.method, path))
        if change is None or not response.is_success:
            return response
        self.changed += 1
        response.read()
        return httpx.Response(response.status_code, json=change(response.json()))

    def count(self, what: tuple[str, str]) -> int:
        return sum(1 for method, path, _ in self.sent if (method, path) == what)

    @property
    def statuses(self) -> list[int | None]:
        return [status for _, _, status in self.sent]

    def close(self) -> None:
        self._network.close()


class Service:
    """One DOK. `api_url`, `token` and `secret` are for whoever calls it."""

    api_url: str
    token: str
    secret: str

    @cached_property
    def eyes(self) -> Client:
        """Tell a client for the test itself."""
        return self.client()

    def client(self, *, wire: Wire | None = None, secret: str | None = None, **options: Any) -> Client:
        """Make a client that repeats what it may at once; `pause` is called in place of each wait."""
        backoff = Backoff(attempts=options.pop("attempts", 3), sleep=options.pop("pause", lambda _: None))
        return Client(
            self.token,
            secret or self.secret,
            base_url=self.api_url,
            timeout_s=TIMEOUT_S,
            backoff=backoff,
            transport=wire,
            **options,
        )

    def fault(self, what: tuple[str, str], kind: str, *, times: int = 1) -> None:
        """Let the next requests of this kind go wrong."""
        raise NotImplementedError

    @property
    def injected(self) -> int:
        """How many faults have happened."""
        raise NotImplementedError

    def mend(self) -> None:
        """Take back what goes wrong, and end all tasks."""
        raise NotImplementedError

    def commit_late(self) -> None:
        """Create the tasks whose creation was late."""
        raise NotImplementedError

    def expire_key(self) -> None:
        """Refuse the key from now on."""
        raise NotImplementedError

    def shut(self) -> None:
        """Refuse connections."""
        raise NotImplementedError

    def open(self) -> None:
        """Take connections again."""
        raise NotImplementedError


class Minimal(Service):
    def __init__(self) -> None:
        self.dok = MinimalDok()
        self.api_url, self.token, self.secret = self.dok.api_url, self.dok.token, self.dok.secret
        self._shut = False

    def fault(self, what: tuple[str, str], kind: str, *, times: int = 1) -> None:
        self.dok.inject(*what, kind, times=times)

    @property
    def injected(self) -> int:
        return len(self.dok.injected)

    def mend(self) -> None:
        self.dok.secret = self.secret
        self.dok.clear()
        if self._shut:
            self.open()

    def commit_late(self) -> None:
        self.dok.commit_late()

    def expire_key(self) -> None:
        self.dok.secret = "another"

    def shut(self) -> None:
        self.dok.close()
        self._shut = True

    def open(self) -> None:
        self.dok.open()
        self._shut = False

    def close(self) -> None:
        if not self._shut:
            self.dok.close()


class Emulated(Service):
    """The emulator, with a clock that stands still: nothing is late by chance."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clock = ManualClock()
        self._shut = False
        self.dok = Emulator(data=folder, clock=self._clock).start()
        self.api_url, self.token, self.secret = self.dok.api_url, self.dok.token, self.dok.secret

    def fault(self, what: tuple[str, str], kind: str, *, times: int = 1) -> None:
        for _ in range(times):
            self.dok.faults.add(_fault(what[0], what[1].replace("{id}", "*"), kind))

    @property
    def injected(self) -> int:
        return len(self.dok.faults.injected)

    def mend(self) -> None:
        self.dok.faults.clear()
        if self._shut:
            self.open()
        for task in self.eyes.tasks.iterate(status=("waiting", "running")):
            with suppress(errors.Forbidden):  # it has just ended
                self.eyes.tasks.cancel(task.id)

    def commit_late(self) -> None:
        self._clock.pass_time(_LATE_S)

    def expire_key(self) -> None:
        self.dok.faults.add(Fault("status", status=401, occurrence=None))

    def shut(self) -> None:
        self.dok.close()
        self._shut = True

    def open(self) -> None:
        port = urlsplit(self.api_url).port or 0
        self.dok = Emulator(port=port, data=self._folder, clock=self._clock).start()
        self._shut = False

    def close(self) -> None:
        self.dok.close()


def _fault(method: str, path: str, kind: str) -> Fault:
    what: dict[str, Any] = {"what": kind}
    match kind.split():
        case ["status", status, when, _]:
            what = {"what": "status", "phase": when, "status": int(status)}
        case ["reset" | "hang" as broken, when, _]:
            what = {"what": broken, "phase": when}
        case ["cut", *_]:
            what = {"what": "cut", "phase": "body", "at_byte": 20}
        case ["slow", *_]:
            what = {"what": "drip", "phase": "body", "at_byte": 20}
        case ["not", *_]:
            what = {"what": "garbage", "phase": "after"}
        case ["late"]:
            what = {"what": "status", "phase": "during", "status": 504, "late_s": _LATE_S}
        case ["twice"]:
            what = {"what": "duplicate", "phase": "after"}
    return Fault(method=method, path=path, **what)


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Service]:
    service: Minimal | Emulated = Minimal() if name == "minimal" else Emulated(folder)
    try:
        yield service
    finally:
        service.eyes.close()
        service.close()
