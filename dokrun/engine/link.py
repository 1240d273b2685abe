"""One container of a session: jobs are sent to it, and what becomes of their calls is heard."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import mmap
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from dokrun import errors, keys
from dokrun.api.container import Container
from dokrun.api.models import Task
from dokrun.engine.flight import Flight, Where
from dokrun.engine.parts import Parts
from dokrun.engine.reports import Expected, NoOutcome, Outcome, Reader, described, read_outcomes
from dokrun.engine.run import Run
from dokrun.engine.speaking import Gone, Speaking, TooLarge
from dokrun.engine.tasklog import Log, read_log
from dokrun.secret import Secret
from dokrun.shim import protocol
from dokrun.shim.envelope import Segment, unpack, unpack_all

_log = logging.getLogger("dokrun.engine")

# How long the container is asked to wait until there is something to tell.
WAIT_S = 20.0
# What is smaller is sent with others.
TOGETHER_BYTES = 1 << 20
TOGETHER = 64
# How often a way that may be shut is tried, before another one is taken: for some seconds.
TRIES = 12
# How many large results are brought at the same time.
BRINGING = 4
SMALLEST_PIECE = 64 << 10
# How long until it is asked again for what goes through the bucket.
COMING_S = 0.2

# Something else than to send a job, in its turn.
Chore = Callable[[Speaking], object]


class Owner(Protocol):
    """Whoever has jobs sent to a container."""

    def lost(self, link: Link, flights: list[Flight]) -> None:
        """Hear that the container is no more, and which jobs have calls that it did not run."""

    def retry(self, flight: Flight, number: int, error: BaseException) -> bool:
        """Hear what a call has failed with. Tells whether it is tried again."""


class Link:
    """Sends jobs to one container, as soon as it is there, and settles their calls. For any thread.

    Args:
        parts: the engine's.
        token: what the container knows its client by.
        owner: whose container it is.
    """

    def __init__(self, parts: Parts, token: Secret, owner: Owner) -> None:
        self._parts = parts
        self._token = token
        self._owner = owner
        self._run: Run
        self._flights: dict[str, Flight] = {}
        self._queue: queue.SimpleQueue[Flight | Chore | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._container: Container | None = None
        self._speaking: Speaking | None = None
        self._sender: threading.Thread | None = None
        self._orders = 0
        self._piece = protocol.PIECE_BYTES
        self._bringing = threading.BoundedSemaphore(BRINGING)
        self._dropped = self._ended = False
        # Why the container cannot be spoken to, though it may be there.
        self.broken: Exception | None = None
        self.state: dict[str, Any] = {}
        self.state_at = 0.0

    def begin(self, run: Run) -> None:
        """Speak to the container of a job as soon as it is there."""
        self._run = run
        threading.Thread(target=self._live, name="dokrun-session", daemon=True).start()

    # What the owner does.

    @property
    def run(self) -> Run:
        """The job that the container is of."""
        return self._run

    @property
    def went_well(self) -> bool:
        """Whether it was spoken to, so that another one in its place may be, too."""
        return self._speaking is not None and self.broken is None and not self._dropped

    @property
    def why(self) -> BaseException | None:
        """Why it is no more, where it did not end by itself."""
        calls = self._run.calls
        if self.broken is not None:
            return self.broken
        return calls.future(0).exception() if calls.over and not calls.cancelled() else None

    @property
    def speaking(self) -> Speaking | None:
        """What asks the container, once it is there."""
        return self._speaking

    def wait(self) -> None:
        """Wait until the container is spoken to, or will not be."""
        progress = self._run.calls.progress
        progress.wait_until(lambda: self._speaking is not None or self._ended or self._dropped)

    def send(self, flight: Flight) -> bool:
        """Have a job sent. Tells whether it will be: not when the container is no more."""
        flight.calls.progress.update(
            status="waiting", session=self._run.calls.progress, cancel=lambda: self._cancel(flight)
        )
        with self._lock:
            if self._ended:
                return False
            self._flights[flight.ticket] = flight
        self._queue.put(flight)
        return True

    def find(self, flight: Flight) -> None:
        """Hear what becomes of a job that another process has sent."""
        flight.sent = True
        flight.calls.progress.update(session=self._run.calls.progress, cancel=lambda: self._cancel(flight))
        with self._lock:
            self._flights[flight.ticket] = flight
            speaking = self._speaking
        if speaking is not None:
            threading.Thread(target=self._find, args=(speaking, flight), name="dokrun-find", daemon=True).start()

    def _find(self, speaking: Speaking, flight: Flight) -> None:
        try:
            known = set(json.loads(speaking.ask(f"/find/{flight.ticket}"))["calls"])
        except Gone:
            return  # what became of it shows when the container has ended
        for number in flight.left:
            if number not in known:
                lost = errors.SessionLost("somebody else has taken what this call came to", ran="maybe")
                self._settle(flight, number, Outcome(error=lost))

    def close(self, *, now: bool) -> None:
        """Let the container end when all is done, or at once. Nothing more may be sent."""
        with self._lock:
            speaking, waits = self._speaking, bool(self._flights)
        if self.broken is None and not now and (speaking is not None or waits):
            self._run.closed = True
            self._queue.put(lambda there: self._tell_closed(there, now=False))  # behind what is to be sent
        elif speaking is None or self.broken is not None:
            self._end_from_outside()  # there is nobody who could end it from within
        else:
            self._tell_closed(speaking, now=now)

    def _tell_closed(self, speaking: Speaking, *, now: bool) -> None:
        try:
            speaking.ask("/close", {"now": now}, tries=TRIES)
            self._run.closed = True
        except (Gone, errors.DokrunError) as error:
            _log.info("the session could not be told to end: %s", error)
            if now:
                self._end_from_outside()

    def _end_from_outside(self) -> None:
        self._run.calls.cancel()
        self._parts.cancels.submit(self._run.cancel)

    def drop(self, *, goes_on: bool) -> None:
        """Ask nothing more: this process is ending. Unless the container goes on, its calls are cancelled."""
        self._dropped = True
        self._run.calls.progress.update()
        with self._lock:
            flights = list(self._flights.values())
        for flight in flights if not goes_on else ():
            flight.calls.cancel()

    # Its life.

    @property
    def _tries(self) -> int | None:
        return None if self._parts.bucket is None else TRIES

    def _there(self) -> bool:
        return not (self._dropped or self._ended or self._run.calls.over)

    def _live(self) -> None:
        try:
            self._speak()
        except Gone:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody shall wait for ever
            self.broken = error
        self._queue.put(None)
        if self._sender is not None:
            self._sender.join()
        self._end()
        if self._container is not None:
            self._container.close()

    def _speak(self) -> None:
        progress = self._run.calls.progress
        url = progress.wait_for("address", lambda: progress.over or self._dropped)
        task = self._run.task
        if url is None or task is None:
            return
        self._container = Container(url, self._token)
        speaking = Speaking(self._container, self._there, self._parts.sleep)
        speaking.hello()
        identity = self._run.identity
        where = Where(task, keys.Handle(self._run.name, identity.job_id, identity.digest))
        with self._lock:
            self._speaking = speaking
            found = [flight for flight in self._flights.values() if flight.sent]
        progress.update()
        for flight in found:
            self._find(speaking, flight)
        self._sender = threading.Thread(target=self._send_all, args=(speaking, where), name="dokrun-send", daemon=True)
        self._sender.start()
        self._listen(speaking, where)

    # What goes there.

    def _send_all(self, speaking: Speaking, where: Where) -> None:
        flights: list[Flight] = []
        while (one := self._queue.get()) is not None:
            if isinstance(one, Flight):
                flights.append(one)
                if len(flights) < TOGETHER and not self._queue.empty():
                    continue  # those that wait go together
            self._send_some(speaking, where, flights)
            flights = []
            if not isinstance(one, Flight):
                one(speaking)
        self._send_some(speaking, where, flights)

    def _send_some(self, speaking: Speaking, where: Where, flights: Iterable[Flight]) -> None:
        together: list[tuple[Flight, bytes]] = []
        for flight in flights:
            if not flight.left:  # each was cancelled
                with self._lock:
                    del self._flights[flight.ticket]
                continue
            try:
                self._supply(speaking, flight)
                payload = flight.payload
                if len(payload) > min(TOGETHER_BYTES, self._piece):
                    self._send_alone(speaking, where, flight, payload)
                    continue
                if sum(len(data) for _, data in together) + len(payload) > min(TOGETHER_BYTES, self._piece):
                    self._send_together(speaking, where, together)
                    together = []
                together.append((flight, payload))
            except Gone:
                return
            except Exception as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
                self._not_sent(flight, error)
        self._send_together(speaking, where, together)

    def _send_together(self, speaking: Speaking, where: Where, together: Sequence[tuple[Flight, bytes]]) -> None:
        if together:
            body = b"".join(data for _, data in together)
            try:
                self._post(speaking, where, [flight for flight, _ in together], "", body)
            except TooLarge:
                for flight, payload in together:
                    self._send_alone(speaking, where, flight, payload)

    def _send_alone(self, speaking: Speaking, where: Where, flight: Flight, payload: bytes) -> None:
        """Send a job in pieces, which is too large for one request."""
        sha256 = hashlib.sha256(payload).hexdigest()
        try:
            self.need(speaking, flight.ticket, {sha256: (len(payload), None)})
            self.put(speaking, flight.ticket, sha256, memoryview(payload))
            self._post(speaking, where, [flight], f"/{sha256}", b"")
        except Gone:
            pass  # what becomes of it shows when the container has ended
        except Exception as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            self._not_sent(flight, error)

    def _post(self, speaking: Speaking, where: Where, flights: Sequence[Flight], what: str, body: bytes) -> None:
        self._orders += 1
        for flight in flights:
            flight.sent = True
        try:
            asked = f"/calls/{self._orders}{what}"
            while not (told := json.loads(speaking.ask(asked, body))):
                self._parts.sleep(COMING_S)
            for flight, answer in zip(flights, told["taken"], strict=True):
                self._answered(flight, where, answer)
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

    def _answered(self, flight: Flight, where: Where, answer: dict[str, Any]) -> None:
        if "base" in answer:
            flight.taken(int(answer["base"]), where)
            if flight.calls.left_out:
                self._cancel(flight)
        else:
            flight.sent = False
            self._refused(flight, where, answer["refused"])

    def _refused(self, flight: Flight, where: Where, why: dict[str, Any]) -> None:
        if why["reason"] == protocol.OVER:
            with self._lock:
                self._flights.pop(flight.ticket, None)
            self._owner.lost(self, [flight])
            return
        outcome = self._reader(flight, where).failed(protocol.failure(why["reason"], "no", str(why["message"])))
        flight.fail(lambda _: outcome.error)  # type: ignore[arg-type, return-value]  # of ours, as the reason is
        self._forget(flight)

    def _not_sent(self, flight: Flight, error: Exception) -> None:
        ran: errors.Ran = "maybe" if flight.sent else "no"

        def failed(_number: int) -> errors.CallFailed:
            made = errors.SubmitFailed(f"{flight.name} could not be sent to its session: {described(error)}", ran=ran)
            made.__cause__ = error
            return made

        flight.fail(failed)
        self._forget(flight)

    def _supply(self, speaking: Speaking, flight: Flight) -> None:
        """See to it that the container has, or fetches, what a job's calls are given."""
        needs = flight.needs(self._parts.bucket)
        if needs:
            for sha256 in self.need(speaking, flight.ticket, needs):
                if sha256 not in flight.held:
                    raise LookupError("what it is given lay in a container that is gone; call the function again")
                self.put(speaking, flight.ticket, sha256, flight.held[sha256])

    def need(self, speaking: Speaking, job_id: str, wanted: dict[str, tuple[int, str | None]]) -> list[str]:
        """Have the container keep some bytes for a job. Tells which it has to be sent. Raises as `ask` does."""
        missing: list[str] = json.loads(speaking.ask(f"/need/{job_id}", dict(wanted)))["missing"]
        return missing

    def put(self, speaking: Speaking, job_id: str, sha256: str, data: memoryview) -> None:
        """Send some bytes that are needed: straight, or through the bucket where that way is shut.

        Raises:
            Gone, Refused, Tampered: as `Speaking.ask` does.
            NoAnswer: they do not get there.
            StorageError: nor through the bucket.
        """
        at = 0
        try:
            while at < len(data):
                piece = data[at : at + self._piece]
                try:
                    at = int(json.loads(speaking.ask(f"/put/{sha256}/{at}", piece, tries=self._tries))["at"])
                except TooLarge:
                    if self._piece <= SMALLEST_PIECE:
                        raise errors.NoAnswer("not even small pieces get to the session") from None
                    self._piece //= 2
        except errors.NoAnswer:
            bucket = self._parts.bucket
            if bucket is None:
                raise
            bucket.put_once(keys.blob(sha256), data, sha256)
            self.need(speaking, job_id, {sha256: (len(data), bucket.address(keys.blob(sha256)))})

    def _cancel(self, flight: Flight) -> None:
        speaking = self._speaking
        if flight.base is None or speaking is None:
            return  # it is told when the container has taken the job
        numbers = flight.newly_cancelled()
        if numbers:
            self._parts.cancels.submit(lambda: self._tell_cancelled(speaking, flight, numbers))

    def _tell_cancelled(self, speaking: Speaking, flight: Flight, numbers: list[int]) -> None:
        try:
            speaking.ask(f"/cancel/{flight.ticket}", {"calls": numbers})
        except (Gone, errors.DokrunError) as error:
            _log.info("calls of %s could not be cancelled: %s", flight.name, error)

    # What comes back.

    def _listen(self, speaking: Speaking, where: Where) -> None:
        after = 0
        pending: list[int] = []
        while True:
            with self._lock:
                taken = min(pending, default=after + 1) - 1
            asked = {"after": after, "taken": taken, "wait_s": WAIT_S}
            header, segments = unpack(speaking.ask("/ask", asked, wait_s=WAIT_S))
            self.state, self.state_at = header["state"], time.monotonic()
            for event, segment in zip(header["events"], segments, strict=True):
                after = max(after, int(event["number"]))
                self._heard(speaking, where, event, segment, pending)

    def _heard(
        self, speaking: Speaking, where: Where, event: dict[str, Any], segment: Segment, pending: list[int]
    ) -> None:
        with self._lock:
            flight = self._flights.get(event["job"])
        if flight is None or segment.data is None:
            return  # of a call that has its outcome
        if flight.base is None:
            flight.taken(int(event["base"]), where)
        base = int(event["base"])
        if event["kind"] == "begun":
            flight.begun()
        elif event["kind"] == "output":
            flight.printed(int(event["call"]) - base).add(bytes(segment.data).decode(errors="replace"))
        elif event["kind"] == "failure":
            self._settle(flight, int(event["call"]) - base, self._reader(flight, where).failed(event["failure"]))
        elif segment.size == event["size"]:
            self._open(flight, where, bytearray(segment.data))
        else:
            number = int(event["number"])
            with self._lock:
                pending.append(number)
            bring = functools.partial(self._bring, speaking, flight, where, event, pending)
            # Not the engine's threads, which have to see to it that the container's end is heard of.
            threading.Thread(target=bring, name="dokrun-bring", daemon=True).start()

    def _open(self, flight: Flight, where: Where, data: Any) -> None:
        reader = self._reader(flight, where)
        for _, header, segments in unpack_all(data):
            self._settle(flight, int(header["call"]) - reader.expected.base, reader.outcome(header, segments))

    def _bring(
        self, speaking: Speaking, flight: Flight, where: Where, event: dict[str, Any], pending: list[int]
    ) -> None:
        """Fetch a report that is too large to be told."""
        number, size = int(event["call"]), int(event["size"])
        try:
            with self._bringing:
                data = mmap.mmap(-1, size)  # costs nothing before it is written to, and begins at a page
                self._get(speaking, number, memoryview(data))
                self._open(flight, where, data)
        except Gone:
            return
        except Exception as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            failed = errors.ResultNotFetched(f"the result is there, and cannot be brought here: {error}", ran="yes")
            failed.__cause__ = error
            self._settle(flight, number - int(event["base"]), Outcome(error=failed))
            return  # the container keeps it, and so does its artifact
        with self._lock:
            pending.remove(int(event["number"]))

    def _get(self, speaking: Speaking, number: int, into: memoryview) -> None:
        """Fetch a report: straight, or through the bucket where that way is shut."""
        at = 0
        try:
            while at < len(into):
                piece = speaking.ask(f"/get/{number}/{at}", tries=self._tries)
                into[at : at + len(piece)] = piece
                at += len(piece)
        except errors.NoAnswer:
            if self._parts.bucket is None:
                raise
            self._get_through(speaking, number, into)

    def _get_through(self, speaking: Speaking, number: int, into: memoryview) -> None:
        bucket, key = self._parts.bucket, keys.report(self._run.identity.job_id, number)
        if bucket is None:
            return
        address = {"address": bucket.address_to_put(key)}
        while not (told := json.loads(speaking.ask(f"/send/{number}", address))):
            self._parts.sleep(COMING_S)
        if "failed" in told:
            raise errors.StorageError(f"the container could not send it to the bucket: {told['failed']}")
        with tempfile.TemporaryDirectory(prefix="dokrun-") as folder:
            path = Path(folder) / "report"
            bucket.fetch(key, path, len(into))
            with path.open("rb") as file:
                file.readinto(into)
        if hashlib.sha256(into).hexdigest() != told["sha256"]:
            raise errors.Tampered("what the bucket has of the result is not what the container has sent", ran="yes")
        bucket.delete(key)

    def _settle(self, flight: Flight, number: int, outcome: Outcome) -> None:
        """Give a call its outcome, unless it is tried again."""
        if flight.come(number) and (outcome.error is None or not self._owner.retry(flight, number, outcome.error)):
            flight.settle(number, outcome)
        self._forget(flight)

    def _reader(self, flight: Flight, where: Where) -> Reader:
        return Reader(self._expected(flight, ()), self._parts.state_dir / "results", where.task)

    def _expected(self, flight: Flight, left: Sequence[int]) -> Expected:
        job, identity = flight.job, self._run.identity
        attempt = self._run.calls.progress.attempt
        return Expected(job.id, attempt, job.name, left, session=identity.job_id, base=flight.base or 0)

    def _forget(self, flight: Flight) -> None:
        if flight.over:
            with self._lock:
                self._flights.pop(flight.ticket, None)

    # Its end.

    def also(self, folder: Path, task: Task) -> None:
        """Read what the container has left of calls whose outcomes nobody has taken. For the run."""
        jobs = _jobs(folder)
        if jobs is None:
            return
        with self._lock:
            flights = [flight for flight in self._flights.values() if flight.sent]
        for flight in flights:
            if flight.ticket not in jobs:
                # The container has never had it, or somebody else has taken what it came to.
                flight.sent = flight.base is not None
                continue
            flight.base = jobs[flight.ticket]
            try:
                numbered = read_outcomes(
                    self._expected(flight, flight.left), task, folder, self._parts.state_dir / "results"
                )
                for number, outcome in numbered:
                    self._settle(flight, number, outcome)
            except NoOutcome as error:
                _log.info("the session has left nothing of %s: %s", flight.name, error)

    def _end(self) -> None:
        """Tell what became of the calls that have no outcome, when the container has ended."""
        progress = self._run.calls.progress
        progress.wait_until(lambda: progress.over or self._dropped or self.broken is not None)
        with self._lock:
            self._ended = True
            flights, self._flights = list(self._flights.values()), {}
        if self._dropped:
            return
        left = [flight for flight in flights if flight.left]
        sent = [flight for flight in left if flight.sent]
        progress.update()
        if self.broken is not None:
            self._give_up(sent, self.broken)
        elif sent:
            self._judge(sent)
        self._owner.lost(self, [flight for flight in left if flight.left])

    def _give_up(self, flights: Sequence[Flight], error: Exception) -> None:
        """Give calls their end whose container cannot be spoken to any more; it may go on with them."""
        for flight in flights:
            for number in flight.left:
                message = f"the session of {flight.name} cannot be spoken to: {described(error)}"
                lost = errors.SessionLost(message, ran=flight.ran(number))
                lost.still_runs, lost.__cause__ = True, error
                self._settle(flight, number, Outcome(error=lost))

    def _judge(self, flights: Sequence[Flight]) -> None:
        """Give calls that a lost container had taken their end: the log may say whether they ran."""
        log, task = Log(), self._run.task
        if task is not None:
            log = read_log(self._parts.client, self._expected(flights[0], ()), task, self._parts.sleep)
        told = "" if self.why is None else f": {described(self.why)}"
        for flight in flights:
            base = flight.base

            def lost(number: int, flight: Flight = flight, base: int | None = base) -> errors.CallFailed:
                heard = None if base is None else log.ran(base + number)
                ran = flight.ran(number) if heard is None else heard
                return errors.SessionLost(f"the session of {flight.name} was lost{told}", ran=ran)

            for number in flight.left:
                self._settle(flight, number, Outcome(error=lost(number)))


def _jobs(folder: Path) -> dict[str, int] | None:
    """Tell whose calls a manifest speaks of, and the number of the first of each; None where that cannot be read."""
    try:
        told = json.loads((folder / protocol.MANIFEST).read_bytes())["jobs"]
        return {str(job): int(base) for job, base in told.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
