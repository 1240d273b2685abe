"""Jobs are sent to a session's container, one after another, those that wait together."""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dokrun import errors
from dokrun.engine.flight import Flight, Where
from dokrun.engine.flights import Flights
from dokrun.engine.parts import Parts
from dokrun.engine.reports import described
from dokrun.engine.speaking import Gone, Speaking, TooLarge
from dokrun.engine.ways import COMING_S, Ways
from dokrun.shim import protocol

_log = logging.getLogger("dokrun.engine")

# What is smaller is sent with others.
TOGETHER_BYTES = 1 << 20
TOGETHER = 64

# Something else than to send a job, in its turn.
Chore = Callable[[Speaking], object]
# What is to be done, one after another, until the end, which is None.
Queue = queue.SimpleQueue[Flight | Chore | None]


class Sending:
    """Sends jobs to one container. `cancel` is for any thread.

    Args:
        parts: the engine's.
        ways: lead to the container.
        where: which one that is.
        flights: where the jobs are kept.
        lost: hears of a job that the container takes no more.
    """

    def __init__(
        self, parts: Parts, ways: Ways, where: Where, flights: Flights, lost: Callable[[Flight], object]
    ) -> None:
        self._parts = parts
        self._ways = ways
        self._speaking = ways.speaking
        self._where = where
        self._flights = flights
        self._lost = lost
        self._orders = 0

    def run(self, waiting: Queue) -> None:
        """Do what is to be done, as it comes."""
        flights: list[Flight] = []
        while (one := waiting.get()) is not None:
            if isinstance(one, Flight):
                flights.append(one)
                if len(flights) < TOGETHER and not waiting.empty():
                    continue  # those that wait go together
            self._send_some(flights)
            flights = []
            if not isinstance(one, Flight):
                one(self._speaking)
        self._send_some(flights)

    def cancel(self, flight: Flight) -> None:
        """Tell the container which of a job's calls were cancelled."""
        if flight.base is None and not flight.found:
            return  # it is told when the container has taken the job
        numbers = flight.newly_cancelled()
        if numbers:
            self._parts.cancels.submit(lambda: self._tell_cancelled(flight, numbers))

    def _tell_cancelled(self, flight: Flight, numbers: list[int]) -> None:
        try:
            self._speaking.ask(f"/cancel/{flight.ticket}", {"calls": numbers})
        except (Gone, errors.DokrunError) as error:
            _log.info("calls of %s could not be cancelled: %s", flight.name, error)

    def _send_some(self, flights: Iterable[Flight]) -> None:
        together: list[tuple[Flight, bytes]] = []
        for flight in flights:
            if not flight.left:  # each was cancelled
                flight.held.clear()
                self._flights.remove(flight)
                continue
            most_bytes = min(TOGETHER_BYTES, self._ways.piece)
            try:
                self._supply(flight)
                payload = flight.payload
                if len(payload) > most_bytes:
                    self._send_alone(flight, payload)
                    continue
                if sum(len(data) for _, data in together) + len(payload) > most_bytes:
                    self._send_together(together)
                    together = []
                together.append((flight, payload))
            except Gone:
                return
            except Exception as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
                self._not_sent(flight, error)
        self._send_together(together)

    def _supply(self, flight: Flight) -> None:
        """See to it that the container has, or fetches, what a job's calls are given."""
        needs = flight.needs(self._parts.bucket)
        if needs:
            for sha256 in self._ways.need(flight.ticket, needs):
                if sha256 not in flight.held:
                    raise errors.DokrunError("what it is given lay in a container that is gone")
                self._ways.put(flight.ticket, flight.held[sha256].segment)

    def _send_together(self, together: Sequence[tuple[Flight, bytes]]) -> None:
        if together:
            body = b"".join(data for _, data in together)
            try:
                self._post([flight for flight, _ in together], "", body)
            except TooLarge:
                for flight, payload in together:
                    self._send_alone(flight, payload)

    def _send_alone(self, flight: Flight, payload: bytes) -> None:
        """Send a job in pieces, which is too large for one request."""
        try:
            with self._ways.order(flight.ticket, payload) as sha256:
                self._post([flight], f"/{sha256}", b"")
        except Gone:
            pass  # what becomes of it shows when the container has ended
        except Exception as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            self._not_sent(flight, error)

    def _post(self, flights: Sequence[Flight], what: str, body: bytes) -> None:
        self._orders += 1
        for flight in flights:
            flight.sent = True
        try:
            asked = f"/calls/{self._orders}{what}"
            while not (told := json.loads(self._speaking.ask(asked, body))):
                self._parts.sleep(COMING_S)
            for flight, answer in zip(flights, told["taken"], strict=True):
                self._answered(flight, answer)
        except Gone as gone:
            # What became of them shows when the container has ended.
            for flight in flights if not gone.asked else ():
                flight.sent = False
        except TooLarge:
            for flight in flights:
                flight.sent = False
            raise
        except Exception as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            for flight in flights:
                self._not_sent(flight, error)

    def _answered(self, flight: Flight, answer: dict[str, Any]) -> None:
        if "base" in answer:
            flight.taken(int(answer["base"]), self._where)
            if flight.calls.left_out:
                self.cancel(flight)
        else:
            flight.sent = False
            self._refused(flight, answer["refused"])

    def _refused(self, flight: Flight, why: dict[str, Any]) -> None:
        if why["reason"] == protocol.OVER:
            self._flights.remove(flight)
            self._lost(flight)
            return
        failure = protocol.failure(why["reason"], "no", str(why["message"]))
        outcome = self._flights.reader(flight, self._where.task).failed(failure)
        flight.fail(lambda _: outcome.error)  # type: ignore[arg-type, return-value]  # of ours, as the reason is
        self._flights.forget(flight)

    def _not_sent(self, flight: Flight, error: Exception) -> None:
        ran: errors.Ran = "maybe" if flight.sent else "no"
        told = error.args[0] if isinstance(error, errors.DokrunError) else described(error)

        def failed(_number: int) -> errors.CallFailed:
            made = errors.SubmitFailed(f"{flight.name} could not be sent to its session: {told}", ran=ran)
            made.__cause__ = error
            return made

        flight.fail(failed)
        self._flights.forget(flight)
