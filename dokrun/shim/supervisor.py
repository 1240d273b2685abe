"""The container's first process: receives and verifies the payload, has it drained, writes every outcome, exits 0.

No code of the user's runs here, so nothing that the user's code does can keep it from telling what happened. Once an
outcome is written it exits 0, whatever the outcome is: a task that exits otherwise may lose its artifact.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import itertools
import json
import os
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Union

from . import claim, output, protocol, spent, stopping
from .bootstrap import make_folder, remove_folder
from .drain import Drain, Places, count_lanes, make_lanes
from .envelope import Span
from .pending import Pending, begun_with
from .process import Worker
from .receive import PayloadRefused, read_addresses, receive, refused
from .reports import Reports
from .spent import Spent
from .stopping import Stopped

if TYPE_CHECKING:
    from .checkpoint import Checkpoints
    from .session import Session
    from .supplies import Supplies

# A file that is given up when the manifest is written: a disk that the user's function has filled must have room for
# what became of it.
RESERVE_BYTES = 256 << 10
BLANK = {"format": protocol.FORMAT, "failure": None, "checkpoint": None}


class Unclaimed(Exception):
    """This container may not start the attempt; `status` is what it exits with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def main(worker: Worker, payload: str, addresses: str, calls: str = "") -> int:
    """Run the whole job. Returns 0 once an outcome is written, another status where nothing may be started.

    `worker` is the first one, which has been started already.
    `payload` is the envelope, compressed by zlib, in base 64, or `protocol.FETCHED`; `addresses` is the table, as JSON;
    `calls` says which calls, where not all are to be run.
    """
    out = os.path.join(os.environ[protocol.ARTIFACT_DIR], protocol.OWN_DIR)
    reports = os.path.join(out, "reports")
    os.makedirs(reports, exist_ok=True)
    manifest = Manifest(out)
    folder = make_folder()
    status = 0
    try:
        stopping.listen()
        table = read_addresses(addresses)
        header, spans, supplies = receive(folder, payload, table, calls)
        manifest.told.update(job=header["job"], attempt=attempt())
        word = os.urandom(8).hex()
        checkpoints = restore(folder, header, table, word)
        places = Places(header, count_lanes(header, spans), folder, reports)
        manifest.count(places.lanes, spans)
        session = open_session(places) if "session" in header else None
        wait_for_first(supplies, spans, places.lanes)
        # A session is a call of its own, which is begun with it: no other container may stand in for this one.
        take_claim(table, begun_with(spans, places.lanes) if session is None else 1)
        manifest.keep_room()
        output.say(protocol.WORD.format(word))
        manifest.passed.begin(spent.RUNNING)
        if session is not None:
            keep_open(session, worker, manifest)
        else:
            gathered = Reports(reports, table.get("results", []), word)
            pending = Pending(spans, places.lanes, table.get("begun", ""), gathered.failed, supplies)
            run(Drain(make_lanes(worker, places), pending, gathered), gathered, checkpoints, manifest)
    except PayloadRefused as error:
        manifest.told["failure"] = {"reason": error.reason, "ran": "no", "message": str(error)}
    except (Stopped, Unclaimed) as error:
        status = not_started(manifest.told, error)
    finally:
        stopping.ignore()
        worker.kill()
        manifest.tell()
        remove_folder(folder)
    return status


def not_started(manifest: Dict[str, Any], why: Union[Stopped, Unclaimed]) -> int:
    """Say that nothing was started, nor will be by this container. Returns what it exits with."""
    if isinstance(why, Stopped):
        if why.reason == protocol.TOO_DEAR:  # there is no money for another try
            manifest["failure"] = {"reason": why.reason, "ran": "no", "message": str(why)}
            return 0
        why = Unclaimed(str(why), protocol.STOPPED_EARLY)
    output.say(f"[dokrun] {why}; nothing was started")
    manifest["failure"] = {"reason": protocol.UNCLAIMED, "ran": "no", "message": str(why)}
    return why.status


class Manifest:
    """What the container tells of all that it did, and the file that it tells it in.

    Attributes:
        told: what it says, as it is now.
        passed: what the container has spent.
    """

    def __init__(self, out: str) -> None:
        self.told: Dict[str, Any] = {**BLANK, "reports": [], "calls": []}
        self.passed = Spent()
        self._path = os.path.join(out, "outcome.json")
        self._reserve = os.path.join(out, "reserve")

    def count(self, lanes: int, spans: List[Span]) -> None:
        """Take note how many calls there are, and how many of them run at the same time."""
        self.passed.lanes, self.passed.calls = lanes, sum(end - first for first, end in spans)

    def keep_room(self) -> None:
        """Write a file that gives room to the manifest, unless the disk is full already."""
        try:
            with open(self._reserve, "wb") as file:
                file.write(bytes(RESERVE_BYTES))
        except OSError:
            pass

    def tell(self) -> None:
        """Write it, as it is now."""
        if os.path.exists(self._reserve):
            os.unlink(self._reserve)
        self.told["spent"] = self.passed.told()
        write_manifest(self._path, self.told)


def run(drain: Drain, reports: Reports, checkpoints: Optional["Checkpoints"], manifest: Manifest) -> None:
    """Have the calls drained, and save what a next attempt may need if one of them has failed."""
    manifest.told.update(reports=reports.entries, calls=reports.failures)
    if checkpoints is not None:
        checkpoints.start()
    stopped = drain.run()
    manifest.passed.begin(spent.UPLOADING)
    manifest.passed.gpu_memory = drain.gpu_memory
    reports.finish()
    manifest.tell()  # the container may be ended before all is packed and sent
    stopping.leave_in_time()
    if stopped is None:
        reports.send_last()
    if checkpoints is not None:
        if not reports.good:
            checkpoints.finish()
        manifest.told["checkpoint"] = checkpoints.last


def open_session(places: Places) -> "Session":
    """Take the http port of a session: where it is taken, nothing is claimed."""
    from .session import Session  # with sockets and much else: only where there is one

    try:
        return Session(places, os.environ.get(protocol.SESSION_SHA256, ""))
    except OSError as error:
        raise PayloadRefused(protocol.NOT_FETCHED, f"the http port cannot be listened on: {error}") from error


def keep_open(session: "Session", worker: Worker, manifest: Manifest) -> None:
    """Have calls run that come over the http port, until the session is over."""
    drain, stopped = session.run(worker)
    manifest.passed.begin(spent.UPLOADING)
    manifest.passed.gpu_memory = drain.gpu_memory
    manifest.passed.calls = session.calls
    session.finish(manifest.told, stopped)


def attempt() -> int:
    """Tell which attempt of its job this container is."""
    return int(os.environ.get(protocol.ATTEMPT, "1"))


def restore(folder: str, header: Dict[str, Any], addresses: Dict[str, Any], word: str) -> Optional["Checkpoints"]:
    """Make the folder for checkpoints, with what a former attempt has left in it."""
    files = os.path.join(folder, protocol.CHECKPOINT_FOLDER)
    os.makedirs(files)
    where = addresses.get("checkpoint")
    if where is None:
        return None
    from .checkpoint import Checkpoints, restore  # with tarfile: only where there are any

    sha256, size = (os.environ.get(name) for name in protocol.CHECKPOINT_VARIABLES)
    if sha256 and size:
        try:
            restore(where["get"], sha256, int(size), files, folder)
        except (OSError, ValueError) as error:
            raise refused(error, "the checkpoint") from error
    return Checkpoints(files, folder, where["put"], header["checkpoint_s"], word)


def wait_for_first(supplies: Optional["Supplies"], spans: List[Span], count: int) -> None:
    """Have what the first calls need, one for each lane: what cannot be fetched now costs no attempt."""
    if supplies is None:
        return
    try:
        supplies.wait(itertools.islice(itertools.chain.from_iterable(itertools.starmap(range, spans)), count))
    except (OSError, ValueError) as error:
        raise refused(error, "what the calls are given") from error


def take_claim(addresses: Dict[str, Any], begun: int) -> None:
    """Be the one that starts this attempt: the last step before anything of the user's is unpickled.

    The claim says up to which number calls may have been begun from then on.
    """
    where = addresses.get("claim")
    if where is None:
        return  # there is no bucket, so nobody can hold a claim
    try:
        claim.take(where["put"], where["get"], os.environ.get(protocol.TASK_ID, ""), begun)
    except claim.ClaimLost as error:
        raise Unclaimed(f"this attempt is not this task's to start: {error}", protocol.CLAIM_LOST) from error
    except claim.ClaimFailed as error:
        raise Unclaimed(f"the claim of this attempt cannot be taken: {error}", protocol.CLAIM_FAILED) from error


def write_manifest(path: str, manifest: Dict[str, Any]) -> None:
    """Write the manifest, last of all: aside, then renamed."""
    # The function may have emptied its artifact folder, and ours in it.
    os.makedirs(os.path.dirname(path), exist_ok=True)
    aside = f"{path}.{os.getpid()}.part"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(manifest, file)
    os.replace(aside, path)
