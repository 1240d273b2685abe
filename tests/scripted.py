"""A runtime for the emulator whose containers play dokrun's shim, in a thread and a few milliseconds each.

It keeps to the protocol: reads the payload of the real definition, verifies it, takes the claim and gives the calls out
with the shim's own code at the real addresses, counts each call's start, sends its result ahead and announces it, and
leaves a real manifest and real envelopes. What the supervisor itself does with a process, other tests show; here it is
only the client's other half.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import pickle
import secrets
import signal
import struct
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import counting

from dokrun.api.models import ContainerRequest
from dokrun.emulator.log import Log
from dokrun.emulator.runtime import CannotStart
from dokrun.shim import claim, envelope, fetch, protocol, report
from dokrun.shim.pending import Pending, begun_with

# The entrypoint of a task that is somebody else's, and whose artifact says that it is ours.
IMPOSTOR = "impostor"
FATES = ("cannot start", "dies early", "stalls", "dies after the claim", "sends nothing ahead")
_LOOK_S = 0.02


class Killed(Exception):
    """The container is being killed: nothing in it goes on."""


class Stopped(Exception):
    """The container is told to end."""


class Evil:
    """What touches a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return open, (self._path, "w")


@dataclass
class Scripted:
    """The runtime. `fates` are those of the next containers, in order; `happened` counts what was played.

    `reach` makes of an address in a definition one that containers reach; `evil` is the file that nobody may touch.
    `idle` counts, for each job, the containers that have started none of its calls.
    """

    reach: Callable[[str], str]
    evil: str
    fates: deque[str] = field(default_factory=deque)
    going: threading.Event = field(default_factory=threading.Event)
    happened: Counter[str] = field(default_factory=Counter)
    idle: Counter[str] = field(default_factory=Counter)
    defects: list[BaseException] = field(default_factory=list)
    folder: Path = Path()

    def __call__(self, folder: Path) -> Scripted:
        self.folder = folder
        return self

    async def start(self, task_id: str, container: ContainerRequest, log: Log) -> Container:
        fate = self.fates.popleft() if self.fates and container.entrypoint != [IMPOSTOR] else ""
        self.happened[fate] += 1
        if fate == "cannot start":
            self.idle[container.environment[protocol.JOB_ID]] += 1
            log.end()
            raise CannotStart("there is no such program")
        (self.folder / task_id / "artifact").mkdir(parents=True)
        return Container(self, task_id, container, log, fate)

    def give_up(self, task_id: str) -> None:
        """Do nothing: a container starts at once."""

    def close(self) -> None:
        """Do nothing: every container has ended by now."""


class Container:
    """One container, and the thread that plays it."""

    def __init__(self, runtime: Scripted, task_id: str, request: ContainerRequest, log: Log, fate: str) -> None:
        self.folder = runtime.folder / task_id
        self.artifact_dir = self.folder / "artifact"
        self.log = log
        self._runtime = runtime
        self._task_id = task_id
        self._request = request
        self._fate = fate
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._killed = threading.Event()
        self._terminated = threading.Event()
        self._manifest: dict[str, Any] = {"format": protocol.FORMAT, "failure": None, "checkpoint": None}
        self._manifest.update(reports=[], calls=[])
        self._started = False
        # What its lines in the log bear, and where results may go ahead.
        self._word = secrets.token_hex(8)
        self._slots: deque[tuple[int, str]] = deque()
        threading.Thread(target=self._main, name=f"container {task_id}", daemon=True).start()

    async def wait(self) -> int:
        status = await self._ended
        self.log.end()
        return status

    def terminate(self) -> None:
        self._terminated.set()

    def kill(self) -> None:
        self._killed.set()

    def _main(self) -> None:
        status = 128 + signal.SIGKILL
        try:
            status = self._play()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - a defect of the script's own, which the test shall see
            self._runtime.defects.append(error)
        if not self._started and self._request.entrypoint != [IMPOSTOR]:
            self._runtime.idle[self._request.environment[protocol.JOB_ID]] += 1
        self._loop.call_soon_threadsafe(self._ended.set_result, status)

    def _say(self, line: str) -> None:
        self._loop.call_soon_threadsafe(self.log.append, f"{line}\n".encode())

    def _pause(self, until: Callable[[], bool]) -> None:
        """Wait for something, as long as the container is left alone."""
        while not self._killed.is_set():
            if self._terminated.is_set():
                raise Stopped
            if until():
                return
            self._killed.wait(_LOOK_S)
        raise Killed

    def _play(self) -> int:
        if self._request.entrypoint == [IMPOSTOR]:
            return self._play_impostor()
        if self._fate == "dies early":
            self._say("no space left on device")
            return 1
        try:
            if self._fate == "stalls":
                self._pause(self._runtime.going.is_set)
            calls = self._receive()
            self._manifest.update(job=calls.job_id, attempt=self._attempt)
            spans = envelope.read_chosen("".join(self._request.command[protocol.CHOSEN_ARGUMENT :]), len(calls))
            self._take_claim(spans)
            if self._fate == "dies after the claim":
                raise Killed
            self._drain(calls, spans)
        except fetch.DigestError as error:
            self._fail(protocol.TAMPERED, str(error))
        except fetch.FetchError as error:
            self._fail(protocol.NOT_FETCHED, str(error))
        except Stopped:
            self._fail(protocol.UNCLAIMED, "the container was stopped")
            return self._end(protocol.STOPPED_EARLY)
        except claim.ClaimLost as error:
            self._runtime.happened["claim lost"] += 1
            self._fail(protocol.UNCLAIMED, str(error))
            return self._end(protocol.CLAIM_LOST)
        except claim.ClaimFailed as error:
            self._fail(protocol.UNCLAIMED, str(error))
            return self._end(protocol.CLAIM_FAILED)
        return self._end(0)

    @property
    def _attempt(self) -> int:
        return int(self._request.environment[protocol.ATTEMPT])

    @property
    def _addresses(self) -> Any:
        return json.loads(self._runtime.reach(self._request.command[protocol.ADDRESSES_ARGUMENT]))

    def _receive(self) -> Calls:
        payload = self._request.command[protocol.ADDRESSES_ARGUMENT - 1]
        sha256, size = (self._request.environment[name] for name in protocol.PAYLOAD_VARIABLES)
        if payload == protocol.FETCHED:
            path = self.folder / "payload"
            fetch.fetch(self._addresses["payload"], str(path), sha256, int(size))
            data = path.read_bytes()
        else:
            data = zlib.decompress(base64.b64decode(payload))
        assert hashlib.sha256(data).hexdigest() == sha256
        return Calls(*envelope.unpack(data))

    def _take_claim(self, spans: list[envelope.Span]) -> None:
        self._pause(lambda: True)
        where = self._addresses["claim"]
        claim.take(where["put"], where["get"], self._task_id, begun_with(spans, 1))

    def _drain(self, calls: Calls, spans: list[envelope.Span]) -> None:
        """Run the calls, one by one; each is given out only when it is written down how far they have come."""
        self._say(protocol.WORD.format(self._word))
        where = self._addresses
        if self._fate != "sends nothing ahead":
            self._slots.extend(enumerate(where.get("results", [])))
        pending, reason = Pending(spans, 1, where.get("begun", ""), self._without), protocol.NOT_BEGUN
        try:
            self._pause(lambda: True)
            # None is known to be quick, so none is announced ahead of its turn.
            while (span := pending.take(1, 0.0)) is not None:
                self._run(span[0], *calls.arguments(span[0]))
                self._pause(lambda: True)
        except Stopped:
            reason = protocol.STOPPED
        for span in pending.rest():
            message = protocol.WAS_STOPPED if reason == protocol.STOPPED else pending.trouble
            self._without(span, protocol.failure(reason, "no", message))

    def _run(self, call: int, folder: str, number: int, acts: tuple[str, ...]) -> None:
        self._say(protocol.STARTED.format(call, call, self._attempt))
        self._started = True
        start = counting.begin(folder, number)
        act = acts[min(start, len(acts)) - 1]
        self._runtime.happened[act] += 1
        if act == "vanishes":
            raise Killed
        try:
            if act == "hangs":
                self._pause(lambda: counting.released(folder, number))
        except Stopped:
            self._without((call, call + 1), protocol.failure(protocol.STOPPED, "yes", protocol.WAS_STOPPED))
            raise
        self._tell(call, act, number, start)

    def _tell(self, call: int, act: str, number: int, start: int) -> None:
        if act == "dies":
            message = "the process was killed by SIGKILL"
            failure = protocol.failure(protocol.DIED, "yes", message, signal=int(signal.SIGKILL))
            self._without((call, call + 1), failure)
        elif act == "raises":
            header, segments = report.exception_report(counting.Raised(number, start))
            self._report(call, envelope.pack({**header, "call": call}, segments))
        elif act == "tampers":
            evil = _value(call, Evil(self._runtime.evil))
            self._report(call, evil, sha256=hashlib.sha256(b"").hexdigest())
        else:
            self._report(call, _value(call, (number, start)))

    def _play_impostor(self) -> int:
        """Say that the job's call has ended with a value, in a manifest that names it rightly."""
        self._pause(self._runtime.going.is_set)
        (job,) = self._request.command
        self._manifest.update(job=job, attempt=1)
        self._report(0, _value(0, Evil(self._runtime.evil)))
        self._say(protocol.STARTED.format(0, 0, 1))
        return self._end(0)

    def _report(self, call: int, data: bytes, *, sha256: str = "") -> None:
        path = f"{protocol.REPORTS_DIR}/0-{call + 1}"
        file = self.artifact_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        entry = {"path": path, "sha256": sha256 or hashlib.sha256(data).hexdigest(), "size": len(data)}
        self._manifest["reports"].append(entry)
        if self._slots:
            slot, address = self._slots.popleft()
            try:
                fetch.send(address, data, "application/octet-stream")
            except fetch.FetchError:
                return  # it waits for the artifact
            self._say(protocol.RESULTS.format(self._word, slot, entry["sha256"], entry["size"]))

    def _without(self, span: envelope.Span, failure: dict[str, Any]) -> None:
        """Say why some calls have no report."""
        self._manifest["calls"].append({"calls": list(span), "failure": failure})

    def _fail(self, reason: str, message: str) -> None:
        self._manifest["failure"] = protocol.failure(reason, "no", message)

    def _end(self, status: int) -> int:
        if self._killed.is_set():
            raise Killed
        path = self.artifact_dir / protocol.MANIFEST
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._manifest))
        return status


class Calls:
    """The calls of a payload, of one function all of them."""

    def __init__(self, header: dict[str, Any], segments: list[envelope.Segment]) -> None:
        self.job_id = header["job"]
        (pack,) = header["calls"]
        records, offsets = segments[pack["records"]].data, segments[pack["offsets"]].data
        assert records is not None
        assert offsets is not None
        bounds = struct.unpack(f"<{pack['count'] + 1}Q", offsets)
        self._records = [records[first:end] for first, end in itertools.pairwise(bounds)]

    def __len__(self) -> int:
        return len(self._records)

    def arguments(self, number: int) -> Any:
        """Unpickle what a call is called with."""
        record = envelope.read_record(self._records[number])
        assert not record.buffers
        assert not record.given
        args, _ = envelope.load_value([record.pickled])
        return args


def _value(call: int, value: Any) -> bytes:
    segments = envelope.dump_value(value, pickle.dumps)
    return envelope.pack({"kind": "value", "value": list(range(len(segments))), "call": call}, segments)
