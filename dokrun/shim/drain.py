"""Have the calls of a payload run: each lane takes of what is pending, and the reports are gathered.

On a machine with several GPUs there are as many lanes, each with a GPU of its own; a single call has the whole machine.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import os
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Protocol

from . import protocol, stopping
from .envelope import Span
from .lane import Calls, Lane, Pending, Reports
from .output import Heard, nobody
from .packs import Packs
from .process import STACKS_S, Worker
from .stopping import Stopped
from .threads import processors

# How long lanes may take to end what they are at when the container is told to end: a worker's last words, mostly.
STOPPING_S = 5.0


class AllPending(Protocol):
    """What is pending, for all lanes."""

    # Why nothing more is given out: the failure's reason, and in words.
    reason: str
    trouble: str

    def of_lane(self, number: int) -> Pending:
        """Tell where a lane gets its calls."""

    def close(self) -> None:
        """Give out nothing more."""

    def rest(self) -> List[Span]:
        """Tell what was not given out."""


class Drain:
    """Has calls run in some lanes, which take them from what is pending; what became of each goes to the `reports`."""

    def __init__(self, lanes: List[Lane], pending: AllPending, reports: Reports) -> None:
        self._lanes = lanes
        self._pending = pending
        self._reports = reports

    def run(self) -> Optional[Stopped]:
        """Run every call. Tells why the container is to end, if it is; what was not done is told as such."""
        threads = [
            threading.Thread(target=lane.run, args=(self._pending.of_lane(number), self._reports), daemon=True)
            for number, lane in enumerate(self._lanes)
        ]
        told: Optional[Stopped] = None
        try:
            for thread in threads:
                thread.start()
            self._wait()
            stopping.ignore()
        except Stopped as stopped:
            told = stopped
            self._pending.close()
            for lane, thread in zip(self._lanes, threads):  # noqa: B905 - Python 3.9 knows no `strict`
                if thread.ident is None:
                    lane.ended.set()  # it has not begun, and will not
            self._stop(stopped)
            # A lane that is about to take further calls waits for the store, and has nothing under way.
            self._wait(STOPPING_S)
        reason, message = (self._pending.reason, self._pending.trouble) if told is None else (told.reason, str(told))
        for span in self._pending.rest():
            self._reports.failed(span, protocol.failure(reason, "no", message))
        return told

    @property
    def gpu_memory(self) -> Optional[int]:
        """The most that a worker has heard its GPU to hold for it, in bytes; None where none could tell."""
        return max((lane.gpu_memory for lane in self._lanes if lane.gpu_memory is not None), default=None)

    def _stop(self, stopped: Stopped) -> None:
        if stopped.reason == protocol.TOO_DEAR:
            # Whoever pays for more shall know what it would be spent on.
            for lane in self._lanes:
                lane.show_stacks()
            time.sleep(STACKS_S)
        for lane in self._lanes:
            lane.stop(stopped.reason, str(stopped))

    def _wait(self, longest_s: Optional[float] = None) -> None:
        # Not the threads' `join`: one that a signal handler's exception has left takes a live thread for an ended one
        # (https://github.com/python/cpython/issues/90882).
        deadline = None if longest_s is None else time.monotonic() + longest_s
        for lane in self._lanes:
            lane.ended.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))


def count_lanes(header: Dict[str, Any], spans: List[Span]) -> int:
    """Tell how many lanes run some calls: as many as the payload says, and no more than there are calls."""
    workers: int = header["workers"]
    if workers == protocol.EACH_PROCESSOR:
        workers = processors()
    return max(1, workers if "session" in header else min(workers, sum(end - first for first, end in spans)))


class Places(NamedTuple):
    """Of a payload, its header; how many lanes share its calls; where they work; and where their reports go."""

    header: Dict[str, Any]
    lanes: int
    folder: str
    out: str


def make_lanes(first: Worker, places: Places) -> List[Lane]:
    """Make lanes for a payload; `first` is a worker that was started before it was known."""
    packs = Packs(places.header["calls"])
    return lanes_for(first, packs, nobody if len(packs) > 1 else None, places)


def lanes_for(first: Worker, calls: Calls, heard: Optional[Heard], places: Places) -> List[Lane]:
    """Make lanes for some calls; see `Lane`."""
    # A session is asked for what is large, in pieces.
    start = {"folder": places.folder, "hashed": "session" in places.header}
    return [
        Lane(
            {**start, "cell": os.path.join(places.folder, f"cell-{number}"), "environment": environment},
            os.path.join(places.out, f"{number}-"),
            calls,
            heard,
            first if number == 0 else None,
        )
        for number, environment in enumerate(_gpus(places.lanes))
    ]


def _gpus(lanes: int, devices: str = "/dev") -> List[Dict[str, str]]:
    """Tell the environment of each lane: with several, each sees one of the GPUs that the container was given."""
    if lanes == 1:
        return [{}]
    names = [name for name in os.environ.get(protocol.VISIBLE_GPUS, "").split(",") if name]
    if not names:
        # Whoever is given the number of one that is not there sees none.
        count = sum(name[len("nvidia") :].isdigit() for name in os.listdir(devices) if name.startswith("nvidia"))
        names = [str(number) for number in range(count or lanes)]
    return [{protocol.VISIBLE_GPUS: names[number % len(names)]} for number in range(lanes)]
