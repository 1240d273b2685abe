"""The container's first process: receives and verifies the payload, has it drained, writes every outcome, exits 0.

No code of the user's runs here, so nothing that the user's code does can keep it from telling what happened. Once an
outcome is written it exits 0, whatever the outcome is: a task that exits otherwise may lose its artifact.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import itertools
import json
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Union

from . import output, protocol, spent, stopping
from .drain import Drain, count_lanes, make_lanes
from .envelope import Span
from .pending import Pending, begun_with
from .process import Worker
from .receive import PayloadRefused, read_addresses, receive, refused
from .reports import Reports
from .spent import Spent
from .stopping import Stopped

if TYPE_CHECKING:
    from .checkpoint import Checkpoints
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
    manifest: Dict[str, Any] = {**BLANK, "reports": [], "calls": []}
    reserve, passed = os.path.join(out, "reserve"), Spent()

    def tell() -> None:
        if os.path.exists(reserve):
            os.unlink(reserve)
        manifest["spent"] = passed.told()
        write_manifest(os.path.join(out, "outcome.json"), manifest)

    folder = tempfile.mkdtemp(prefix="dokrun-")
    status = 0
    try:
        stopping.listen()
        table = read_addresses(addresses)
        header, spans, supplies = receive(folder, payload, table, calls)
        manifest.update(job=header["job"], attempt=attempt())
        word = os.urandom(8).hex()
        checkpoints = restore(folder, header, table, word)
        count = passed.lanes = count_lanes(header, spans)
        passed.calls = sum(end - first for first, end in spans)
        wait_for_first(supplies, spans, count)
        take_claim(table, begun_with(spans, count))
        keep_room(reserve, RESERVE_BYTES)
        output.say(protocol.WORD.format(word))
        gathered = Reports(reports, table.get("results", []), word)
        manifest.update(reports=gathered.entries, calls=gathered.failures)
        pending = Pending(spans, count, table.get("begun", ""), gathered.failed, supplies)
        drain = Drain(make_lanes(worker, header, count, folder, reports), pending, gathered)
        run(drain, checkpoints, manifest, passed, tell)
    except PayloadRefused as error:
        manifest["failure"] = {"reason": error.reason, "ran": "no", "message": str(error)}
    except (Stopped, Unclaimed) as error:
        status = not_started(manifest, error)
    finally:
        stopping.ignore()
        worker.kill()
        tell()
        shutil.rmtree(folder, ignore_errors=True)
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


def run(
    drain: Drain,
    checkpoints: Optional["Checkpoints"],
    manifest: Dict[str, Any],
    passed: Spent,
    tell: Callable[[], None],
) -> None:
    """Have the calls drained, and save what a next attempt may need if one of them has failed."""
    if checkpoints is not None:
        checkpoints.start()
    passed.begin(spent.RUNNING)
    stopped = drain.run()
    passed.begin(spent.UPLOADING)
    passed.gpu_memory = drain.gpu_memory
    drain.reports.finish()
    tell()  # the container may be ended before all is packed and sent
    stopping.leave_in_time()
    if not stopped:
        drain.reports.send_last()
    if checkpoints is not None:
        if not drain.reports.good:
            checkpoints.finish()
        manifest["checkpoint"] = checkpoints.last


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
    from .checkpoint import Checkpoints, restore  # with tarfile and urllib: only where there are any

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
    from . import claim

    try:
        claim.take(where["put"], where["get"], os.environ.get(protocol.TASK_ID, ""), begun)
    except claim.ClaimLost as error:
        raise Unclaimed(f"this attempt is not this task's to start: {error}", protocol.CLAIM_LOST) from error
    except claim.ClaimFailed as error:
        raise Unclaimed(f"the claim of this attempt cannot be taken: {error}", protocol.CLAIM_FAILED) from error


def keep_room(path: str, size: int) -> None:
    """Write a file of a size, unless the disk is full already."""
    try:
        with open(path, "wb") as file:
            file.write(bytes(size))
    except OSError:
        pass


def write_manifest(path: str, manifest: Dict[str, Any]) -> None:
    """Write the manifest, last of all: aside, then renamed."""
    # The function may have emptied its artifact folder, and ours in it.
    os.makedirs(os.path.dirname(path), exist_ok=True)
    aside = f"{path}.{os.getpid()}.part"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(manifest, file)
    os.replace(aside, path)
