"""The container's first process: fetches and verifies the payload, drives a worker, writes every outcome, exits 0.

No code of the user's runs here, so nothing that the user's code does can keep it from telling what happened. Once an
outcome is written it exits 0, whatever the outcome is: a task that exits otherwise may lose its artifact.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import envelope, fetch, protocol

# How long a dead worker's last words may take to arrive through the pipe.
LAST_WORDS_S = 2.0


class Stopped(Exception):
    """The container was told to end."""


class PayloadRefused(Exception):
    """The payload cannot be used; no code of the user's was started."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def main() -> int:
    """Run the whole job. Returns 0 once an outcome is written."""
    signal.signal(signal.SIGTERM, _stop)
    out = os.path.join(os.environ[protocol.ARTIFACT_DIR], protocol.OWN_DIR)
    for name in ("values", "blobs"):
        os.makedirs(os.path.join(out, name), exist_ok=True)
    manifest: Dict[str, Any] = {"format": protocol.FORMAT, "failure": None, "calls": []}
    folder = tempfile.mkdtemp(prefix="dokrun-")
    worker: Optional[Worker] = None
    try:
        worker = Worker()  # before the payload is there: its interpreter starts while we fetch
        header = receive(folder)
        manifest.update(job=header["job"], attempt=header["attempt"])
        Drain(worker, header["calls"], folder, out, manifest["calls"]).run()
    except PayloadRefused as error:
        manifest["failure"] = {"reason": error.reason, "ran": "no", "message": str(error)}
    except Stopped:
        manifest["failure"] = {"reason": protocol.STOPPED, "ran": "no", "message": "the container was stopped"}
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if worker is not None:
            worker.kill()
        write_manifest(os.path.join(out, "outcome.json"), manifest)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _stop(_number: int, _frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def receive(folder: str) -> Dict[str, Any]:
    """Fetch the payload, what it names, and lay out the user's source; all of it verified. Returns the header."""
    url, sha256, size = (os.environ.get(name, "") for name in protocol.PAYLOAD_VARIABLES)
    path = os.path.join(folder, "payload")
    try:
        fetch.fetch(url, path, sha256, int(size))
        with open(path, "rb") as file:
            header, segments = envelope.unpack(file.read())
        check_version(header)
        fetch_blobs(segments, os.path.join(folder, "blobs"))
        lay_out_source(header.get("source", []), segments, folder)
    except (fetch.FetchError, OSError, ValueError) as error:
        raise PayloadRefused(protocol.UNREADABLE_PAYLOAD, f"the payload could not be received: {error}") from error
    return header


def check_version(header: Dict[str, Any]) -> None:
    """Refuse what another minor version of Python has pickled: code objects do not survive the difference."""
    theirs = header["python"]
    ours = "{}.{}.{}".format(*sys.version_info[:3])
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        message = f"the call was pickled by Python {theirs}, and the image has Python {ours}; use an image with Python "
        raise PayloadRefused(protocol.WRONG_VERSION, message + ".".join(theirs.split(".")[:2]))


def fetch_blobs(segments: List[envelope.Segment], folder: str) -> None:
    """Fetch every segment that lies elsewhere, several at a time."""
    os.makedirs(folder, exist_ok=True)
    wanted = {segment.sha256: segment for segment in segments if segment.url is not None}
    if not wanted:
        return
    from concurrent.futures import ThreadPoolExecutor  # costs milliseconds that most jobs need not spend

    def fetch_one(segment: envelope.Segment) -> None:
        fetch.fetch(segment.url or "", os.path.join(folder, segment.sha256), segment.sha256, segment.size)

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(fetch_one, wanted.values()))


def lay_out_source(source: List[Dict[str, Any]], segments: List[envelope.Segment], folder: str) -> None:
    """Write the user's source files where the worker will import them from."""
    root = os.path.join(folder, "source")
    os.makedirs(root, exist_ok=True)
    for entry in source:
        path = os.path.normpath(os.path.join(root, entry["path"]))
        if not path.startswith(root + os.sep):
            raise envelope.EnvelopeError(f"a source file lies outside of its folder: {entry['path']}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        segment = segments[entry["segment"]]
        if segment.data is None:
            os.link(os.path.join(folder, "blobs", segment.sha256), path)
        else:
            with open(path, "wb") as file:
                file.write(segment.data)


class Worker:
    """A worker process. It makes a process group of its own, so that it ends with all its children."""

    def __init__(self) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # The folder or archive that this package was loaded from runs as `python THAT worker …`.
        archive = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-u", archive, "worker", str(commands), str(answers)],
            stdin=subprocess.DEVNULL,
            pass_fds=(commands, answers),
            # The user's code has no business with the payload's URL, which is a signature.
            env={k: v for k, v in os.environ.items() if k not in protocol.PAYLOAD_VARIABLES},
        )
        os.close(commands)
        os.close(answers)
        self._killed = False
        self.events: queue.Queue[Tuple[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, daemon=True).start()

    def send(self, command: Dict[str, Any]) -> None:
        """Tell the worker something; if it is dead, its exit arrives as an event."""
        try:
            os.write(self._commands, json.dumps(command).encode() + b"\n")
        except BrokenPipeError:
            pass

    def kill(self) -> None:
        """End the worker and all its children. Once is enough: afterwards its group's number may be another's."""
        if self._killed:
            return
        self._killed = True
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            pass
        self._process.kill()  # it may not have made its group yet
        self._process.wait()

    def last_events(self) -> Iterator[Tuple[str, Any]]:
        """Yield what has not been taken from the events, up to the exit, if that has not been taken itself."""
        while True:
            try:
                event = self.events.get(timeout=LAST_WORDS_S + 1)
            except queue.Empty:
                return
            yield event
            if event[0] == "exit":
                return

    def _read(self) -> None:
        with open(self._answers, encoding="utf-8") as answers:
            for line in answers:
                self.events.put(("answer", json.loads(line)))

    def _wait(self) -> None:
        status = self._process.wait()
        # A child of the worker's may hold the pipe open for ever, so this wait has an end.
        self._reader.join(LAST_WORDS_S)
        self.events.put(("exit", status))


class Drain:
    """Hands the calls to a worker one by one, and appends an entry for each to the manifest."""

    def __init__(
        self, worker: Worker, calls: List[Dict[str, Any]], folder: str, out: str, entries: List[Dict[str, Any]]
    ) -> None:
        self._calls = calls
        self._start = {"folder": folder, "out": out}
        self._out = out
        self._entries = entries
        self._ran = "no"
        self._worker: Optional[Worker] = worker
        worker.send(self._start)

    def run(self) -> None:
        """Run every call. When the container is stopped, the call under way and those after it are told as such."""
        try:
            for number, call in enumerate(self._calls):
                started = time.monotonic()
                self._ran = "no"
                outcome = self._run_one(number, call)
                self._entries.append({"id": call["id"], "seconds": time.monotonic() - started, **outcome})
        except Stopped:
            self._discard_worker()
            for call in self._calls[len(self._entries) :]:
                stopped = self._failure(protocol.STOPPED, "the container was stopped")
                self._entries.append({"id": call["id"], "seconds": 0.0, **stopped})
                self._ran = "no"
        finally:
            self._discard_worker()

    def _run_one(self, number: int, call: Dict[str, Any]) -> Dict[str, Any]:
        worker = self._ready_worker()
        worker.send({"call": number})
        try:
            kind, answer = worker.events.get(timeout=call["timeout_s"])
            if kind == "answer" and "started" in answer:
                # The function has its whole timeout to itself; what came before, imports mostly, had as much.
                self._ran = "yes"
                kind, answer = worker.events.get(timeout=call["timeout_s"])
        except queue.Empty:
            self._discard_worker()
            message = f"the call took longer than its timeout of {call['timeout_s']:g} s, and was killed"
            return self._failure(protocol.TIMEOUT, message)
        if kind == "exit":
            self._worker = None
            worker.kill()  # what it has left running
            return self._death(answer)
        if "failure" in answer:
            return {"report": None, "failure": answer["failure"]}
        return {"report": self._vouch(answer["report"]), "failure": None}

    def _failure(self, reason: str, message: str, **details: Any) -> Dict[str, Any]:
        """Make an entry without a report. `ran` is what the worker has said of the function's start."""
        return {"report": None, "failure": {"reason": reason, "ran": self._ran, "message": message, **details}}

    def _death(self, status: int) -> Dict[str, Any]:
        """Make the entry of a worker that died. Its exit status is negative for a signal."""
        what = "the function" if self._ran == "yes" else "what is imported before the function"
        if status >= 0:
            return self._failure(
                protocol.EXITED, f"{what} ended its process with exit status {status}", exit_code=status
            )
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return self._failure(protocol.DIED, f"the process was killed by {name} while {what} ran", signal=-status)

    def _ready_worker(self) -> Worker:
        if self._worker is None:
            self._worker = Worker()
            self._worker.send(self._start)
        return self._worker

    def _discard_worker(self) -> None:
        """End the worker, and hear its last words: whether it had started the function may still be on its way."""
        if self._worker is None:
            return
        self._worker.kill()
        for kind, answer in self._worker.last_events():
            if kind == "answer" and "started" in answer:
                self._ran = "yes"
        self._worker = None

    def _vouch(self, name: str) -> Dict[str, Any]:
        with open(os.path.join(self._out, name), "rb") as file:
            data = file.read()
        return {"path": f"{protocol.OWN_DIR}/{name}", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def write_manifest(path: str, manifest: Dict[str, Any]) -> None:
    """Write the manifest, last of all: aside, then renamed."""
    aside = f"{path}.{os.getpid()}.part"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(manifest, file)
    os.replace(aside, path)
