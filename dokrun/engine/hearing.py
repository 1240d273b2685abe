"""What comes back from a session's container: what becomes of calls, what they print, and what they come to."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable
from typing import Any

from dokrun import errors
from dokrun.engine.flight import Flight, Where
from dokrun.engine.flights import Flights
from dokrun.engine.reports import Outcome, described, room
from dokrun.engine.speaking import Gone
from dokrun.engine.ways import Ways
from dokrun.shim.envelope import Segment, unpack, unpack_all

# How long the container is asked to wait until there is something to tell.
WAIT_S = 20.0
# How many large results are brought at the same time.
BRINGING = 4


class Hearing:
    """Hears what one container tells.

    Args:
        ways: lead to the container.
        where: which one that is.
        flights: the jobs that it has.
        tell_state: told how the container is, whenever that is heard.
    """

    def __init__(
        self, ways: Ways, where: Where, flights: Flights, tell_state: Callable[[dict[str, Any]], object]
    ) -> None:
        self._ways = ways
        self._where = where
        self._flights = flights
        self._tell_state = tell_state
        self._lock = threading.Lock()
        # The events whose reports are on their way.
        self._pending: list[int] = []
        # Those that have come since the container was told.
        self._new: list[int] = []
        self._bringing = threading.BoundedSemaphore(BRINGING)

    def run(self) -> None:
        """Hear what there is, as it comes. Raises as `Speaking.ask` does."""
        after = 0
        while True:
            asked = {"after": after, **self._taken(after), "wait_s": WAIT_S}
            header, segments = unpack(self._ways.speaking.ask("/ask", asked, wait_s=WAIT_S))
            self._tell_state(header["state"])
            for event, segment in zip(header["events"], segments, strict=True):
                after = max(after, int(event["number"]))
                if self._hear(event, segment):
                    with self._lock:
                        self._new.append(int(event["number"]))

    def _taken(self, after: int) -> dict[str, Any]:
        """Tell up to which event all have come, of those up to one; and which others have, each once."""
        with self._lock:
            taken = min(self._pending, default=after + 1) - 1
            new, self._new = [number for number in self._new if number > taken], []
            return {"taken": taken, "also": new}

    def find(self, flight: Flight) -> None:
        """Ask what becomes of a job that another process has sent, and hear it from now on."""
        try:
            known = set(json.loads(self._ways.speaking.ask(f"/find/{flight.ticket}"))["calls"])
        except Gone:
            return  # what became of it shows when the container has ended
        except Exception as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            unheard = f"it cannot be heard what becomes of {flight.name}: {described(error)}"
            flight.fail(lambda _number: errors.CallFailed(unheard, ran="maybe", still_runs=True))
            self._flights.forget(flight)
            return
        for number in flight.left:
            if number not in known:
                self._flights.settle(flight, number, Outcome(error=flight.elsewhere()))

    def _hear(self, event: dict[str, Any], segment: Segment) -> bool:
        """Take what is told. Tells whether that is all: not where it has to be fetched."""
        flight = self._flights.of(event["job"])
        if flight is None or segment.data is None:
            return True  # of a call that has its outcome
        base = int(event["base"])
        if flight.base is None:
            flight.taken(base, self._where)
        if event["kind"] == "begun":
            flight.begun()
        elif event["kind"] == "output":
            flight.printed(int(event["call"]) - base).add(bytes(segment.data).decode(errors="replace"))
        elif event["kind"] == "failure":
            outcome = self._flights.reader(flight, self._where.task, base).failed(event["failure"])
            self._flights.heard(flight, int(event["call"]) - base, outcome)
        elif segment.size == event["size"]:
            self._open(flight, base, bytearray(segment.data))
        else:
            with self._lock:
                self._pending.append(int(event["number"]))
            bring = functools.partial(self._bring, flight, event)
            # Not the engine's threads, which have to see to it that the container's end is heard of.
            threading.Thread(target=bring, name="dokrun-bring", daemon=True).start()
            return False
        return True

    def _open(self, flight: Flight, base: int, data: Any) -> None:
        reader = self._flights.reader(flight, self._where.task, base)
        for _, header, segments in unpack_all(data):
            number = int(header["call"]) - base
            self._flights.settle(flight, number, reader.outcome(header, segments))

    def _bring(self, flight: Flight, event: dict[str, Any]) -> None:
        """Fetch a report that is too large to be told."""
        number, size = int(event["call"]), int(event["size"])
        try:
            with self._bringing:
                data = room(size)
                self._ways.get(number, memoryview(data))
                self._open(flight, int(event["base"]), data)
        except Gone:
            return
        except Exception as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            message = f"the result is there, and cannot be brought here: {described(error)}"
            failed = errors.ResultNotFetched(message, ran="yes")
            failed.__cause__ = error
            self._flights.settle(flight, number - int(event["base"]), Outcome(error=failed))
            return  # the container keeps it, and so does its artifact
        with self._lock:
            self._pending.remove(int(event["number"]))
            self._new.append(int(event["number"]))
