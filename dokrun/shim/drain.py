"""Hand the calls of a payload to workers, and say what became of each.

A *lane* is a place for one worker at a time: a worker that dies is replaced, and its death costs its own call alone.
On a machine with several GPUs there are as many lanes, each with a GPU of its own; a single call has the whole machine.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import hashlib
import os
import queue
import signal
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import memory, protocol
from .process import Worker

Entry = Dict[str, Any]
# The next call's number in the payload and the call itself, or None when all are taken.
Take = Callable[[], Optional[Tuple[int, Dict[str, Any]]]]


class Stopped(Exception):
    """The container was told to end."""


class Drain:
    """Runs all calls of a payload, in as many lanes as it says, and appends an entry for each to `entries`.

    `first` is a worker that was started before anybody knew the payload.
    """

    def __init__(self, first: Worker, header: Dict[str, Any], folder: str, out: str, entries: List[Entry]) -> None:
        self._pending = list(enumerate(header["calls"]))
        self._entries = entries
        self._lock = threading.Lock()
        count = max(1, min(header.get("workers", 1), len(self._pending)))
        gpus = _gpus(count)
        self._lanes = [
            Lane({"folder": folder, "out": out, "environment": environment}, out, first if number == 0 else None)
            for number, environment in enumerate(gpus)
        ]

    def run(self) -> None:
        """Run every call. When the container is stopped, the calls under way and those after them are told as such."""
        threads = [
            threading.Thread(target=lane.run, args=(self._take, self._report), daemon=True) for lane in self._lanes
        ]
        try:
            for thread in threads:
                thread.start()
            self._wait()
            # What has been done is told from here on, however long the sending takes.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        except Stopped:
            with self._lock:
                left, self._pending = self._pending, []
            for lane, thread in zip(self._lanes, threads):  # noqa: B905 - Python 3.9 knows no `strict`
                if thread.ident is None:
                    lane.ended.set()  # it has not begun, and will not
            for lane in self._lanes:
                lane.stop()
            self._wait()
            for _, call in left:
                self._report(call, 0.0, failure(protocol.STOPPED, "no", "the container was stopped"))

    @property
    def good(self) -> bool:
        """Whether every call has brought a value."""
        return all(lane.good for lane in self._lanes) and all(entry["failure"] is None for entry in self._entries)

    def _wait(self) -> None:
        # Not the threads' `join`: one that a signal handler's exception has left takes a live thread for an ended one
        # (https://github.com/python/cpython/issues/90882).
        for lane in self._lanes:
            lane.ended.wait()

    def _take(self) -> Optional[Tuple[int, Dict[str, Any]]]:
        with self._lock:
            return self._pending.pop(0) if self._pending else None

    def _report(self, call: Dict[str, Any], seconds: float, outcome: Entry) -> None:
        with self._lock:
            self._entries.append({"id": call["id"], "seconds": seconds, **outcome})


class Lane:
    """Runs calls one by one, in a worker that is replaced when it dies.

    `start` is what every worker of the lane is told first: where the payload lies, where reports go, which GPU is its.
    """

    def __init__(self, start: Dict[str, Any], out: str, worker: Optional[Worker]) -> None:
        self._start = start
        self._out = out
        self._worker = worker
        # Whether the worker has brought a call to its end.
        self._used = False
        self._stopping = threading.Event()
        self.ended = threading.Event()
        # Whether each call has brought a value, as far as was heard.
        self.good = True
        # Whether the function of the call under way was started, as far as was heard.
        self._ran = "no"
        self._kills = memory.kills()
        if worker is not None:
            worker.send(start)

    def run(self, take: Take, report: Callable[[Dict[str, Any], float, Entry], None]) -> None:
        """Take calls until there is none left."""
        try:
            while True:
                taken = take()
                if taken is None:
                    return
                number, call = taken
                started = time.monotonic()
                try:
                    outcome = self._run_one(number, call)
                except OSError as error:  # no process can be started, or the report that was announced is gone
                    self._discard_worker()
                    outcome = failure(protocol.DIED, self._ran, f"the call could not be seen to its end: {error}")
                report(call, time.monotonic() - started, outcome)
        finally:
            self._discard_worker()
            self.ended.set()

    def stop(self) -> None:
        """End the call under way."""
        self._stopping.set()
        worker = self._worker
        if worker is not None:
            worker.kill()

    def _run_one(self, number: int, call: Dict[str, Any]) -> Entry:
        self._ran = "no"
        worker = self._ready_worker()
        worker.send({"call": number})
        if self._stopping.is_set():
            worker.kill()  # it was started when the others were already being stopped
        try:
            kind, answer = worker.events.get(timeout=min(call["timeout_s"], protocol.LONGEST_IMPORT_S))
            if kind == "answer" and "started" in answer:
                # The function has its whole timeout to itself.
                self._ran = "yes"
                kind, answer = worker.events.get(timeout=call["timeout_s"])
        except queue.Empty:
            return self._too_long(worker, call["timeout_s"])
        if kind == "exit":
            self._worker = None
            worker.kill()  # what it has left running
            if self._used and self._ran == "no" and not self._stopping.is_set():
                return self._run_one(number, call)  # what a call before this one has left running may have killed it
            return self._death(answer)
        self._used = True
        self.good &= answer.get("value", False)
        if "failure" in answer:
            return {"report": None, "failure": answer["failure"]}
        return {"report": self._vouch(answer["report"]), "failure": None}

    def _too_long(self, worker: Worker, timeout_s: float) -> Entry:
        worker.show_stacks()
        self._discard_worker()
        limit_s, what = timeout_s, "the call took longer than its timeout of"
        if self._ran == "no" and timeout_s > protocol.LONGEST_IMPORT_S:
            limit_s, what = protocol.LONGEST_IMPORT_S, "what is imported before the function took longer than"
        message = f"{what} {limit_s:g} s, and was killed; the log says where it was"
        return failure(protocol.TIMEOUT, self._ran, message)

    def _death(self, status: int) -> Entry:
        """Make the entry of a worker that died. Its exit status is negative for a signal."""
        if self._stopping.is_set():
            return failure(protocol.STOPPED, self._ran, "the container was stopped")
        what = "the function" if self._ran == "yes" else "what is imported before the function"
        if status >= 0:
            message = f"{what} ended its process with exit status {status}"
            return failure(protocol.EXITED, self._ran, message, exit_code=status)
        if status == -signal.SIGKILL and memory.kills() > self._kills:
            message = f"the container ran out of memory while {what} ran, and the kernel killed the process"
            return failure(protocol.OUT_OF_MEMORY, self._ran, message, signal=-status)
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return failure(protocol.DIED, self._ran, f"the process was killed by {name} while {what} ran", signal=-status)

    def _ready_worker(self) -> Worker:
        if self._worker is None:
            self._kills = memory.kills()
            self._worker = Worker()
            self._used = False
            self._worker.send(self._start)
        return self._worker

    def _discard_worker(self) -> None:
        """End the worker, and hear its last words: whether it had started the function may still be on its way."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        for kind, answer in worker.last_events():
            if kind == "answer" and "started" in answer:
                self._ran = "yes"

    def _vouch(self, name: str) -> Dict[str, Any]:
        with open(os.path.join(self._out, name), "rb") as file:
            data = file.read()
        return {"path": f"{protocol.OWN_DIR}/{name}", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def failure(reason: str, ran: str, message: str, **details: Any) -> Entry:
    """Make an entry without a report."""
    return {"report": None, "failure": {"reason": reason, "ran": ran, "message": message, **details}}


def _gpus(lanes: int) -> List[Dict[str, str]]:
    """Tell the environment of each lane: with several, each sees one of the GPUs that the container was given."""
    if lanes == 1:
        return [{}]
    given = [name for name in os.environ.get(protocol.VISIBLE_GPUS, "").split(",") if name]
    names = given or [str(number) for number in range(lanes)]
    return [{protocol.VISIBLE_GPUS: names[number % len(names)]} for number in range(lanes)]
