"""What a session's client tells its container that it has heard: all of it, each once, whatever is still on its way."""

from __future__ import annotations

import pickle
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from account import Account, account
from waiting import PATIENCE_S

from dokrun import keys
from dokrun.engine.definition import Identity
from dokrun.engine.flight import Flight, Where
from dokrun.engine.flights import Flights
from dokrun.engine.hearing import Hearing
from dokrun.engine.prepare import Job
from dokrun.engine.run import Run
from dokrun.engine.speaking import Gone, Speaking
from dokrun.engine.ways import Ways
from dokrun.jobstate import Progress
from dokrun.options import Options
from dokrun.outcomes import Outcomes
from dokrun.shim.envelope import pack, segment_of

__all__ = ["account"]

REPORT = pack({"kind": "value", "value": [0], "call": 1, "seconds": 0.0}, [segment_of(pickle.dumps("large"))])


class Scripted:
    """Answers as a container does that tells four events, then one more; the second is too large to be told at once."""

    def __init__(self, ticket: str) -> None:
        self.asked: list[dict[str, Any]] = []
        self.wanted = threading.Event()
        self._ticket = ticket

    def fill(self, path: str, into: memoryview, **_more: Any) -> int:
        assert path == "/get/1/0"
        assert self.wanted.wait(PATIENCE_S)
        into[:] = REPORT
        return len(REPORT)

    def ask(self, _path: str, body: Any = b"", **_more: Any) -> bytes:
        self.asked.append(body)
        if body["taken"] == 5:
            raise Gone(asked=True)
        new = {1: range(1, 5), 2: [5]}.get(len(self.asked), [])
        if not new:
            self.wanted.set()
        return pack({"events": [self.event(number) for number in new], "state": {}}, [segment_of(b"") for _ in new])

    def event(self, number: int) -> dict[str, Any]:
        told = {"number": number, "kind": "report", "base": 1, "call": number, "size": 0}
        return (
            {**told, "job": self._ticket, "call": 1, "size": len(REPORT)} if number == 2 else {**told, "job": "other"}
        )


def test_one_large_result_on_its_way_holds_back_nothing_else(account: Account) -> None:
    here, job_id = account.here(), keys.new_id()
    calls = Outcomes(job_id, 1, "large", Progress())
    scripted = Scripted(job_id)
    run = cast("Run", SimpleNamespace(identity=Identity(job_id, ""), calls=calls))
    flights = Flights(here._parts, run, lambda *_failed: False)
    assert flights.add(Flight(Job(job_id, "large", "", Options(), {}, [], 1, 1, 0.0), calls, {}, set()))
    task = cast("Any", SimpleNamespace(id="task"))
    ways = Ways(here._parts, cast("Speaking", scripted), job_id)
    hearing = Hearing(ways, Where(task, keys.Handle("session", job_id, "")), flights, lambda _state: None)
    with pytest.raises(Gone):
        hearing.run()
    assert calls.future(0).result(PATIENCE_S) == "large"
    told = [(asked["after"], asked["taken"], asked["also"]) for asked in scripted.asked]
    assert told[:3] == [(0, 0, []), (4, 1, [3, 4]), (5, 1, [5])]
    assert all(one in ((5, 1, []), (5, 5, [])) for one in told[3:])
    assert told[-1] == (5, 5, [])
