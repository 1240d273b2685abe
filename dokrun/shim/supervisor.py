"""The container's first process: receives and verifies the payload, has it drained, writes every outcome, exits 0.

No code of the user's runs here, so nothing that the user's code does can keep it from telling what happened. Once an
outcome is written it exits 0, whatever the outcome is: a task that exits otherwise may lose its artifact.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import base64
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import zlib
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from . import envelope, protocol
from .drain import Drain, Stopped
from .layout import lay_out
from .process import Worker

if TYPE_CHECKING:
    from .checkpoint import Checkpoints

# A file that is given up when the manifest is written: a disk that the user's function has filled must have room for
# what became of it.
RESERVE_BYTES = 64 << 10
RESERVE_BYTES_PER_CALL = 1 << 10


class PayloadRefused(Exception):
    """The payload cannot be used; no code of the user's was started."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Unclaimed(Exception):
    """This container may not start the attempt; `status` is what it exits with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def main(payload: str, addresses: str) -> int:
    """Run the whole job. Returns 0 once an outcome is written, another status where nothing may be started.

    `payload` is the envelope, compressed by zlib, in base 64, or `protocol.FETCHED`; `addresses` is the table, as JSON.
    """
    signal.signal(signal.SIGTERM, _stop)
    out = os.path.join(os.environ[protocol.ARTIFACT_DIR], protocol.OWN_DIR)
    for name in ("values", "blobs"):
        os.makedirs(os.path.join(out, name), exist_ok=True)
    manifest: Dict[str, Any] = {"format": protocol.FORMAT, "failure": None, "checkpoint": None, "calls": []}
    reserve = os.path.join(out, "reserve")

    def tell() -> None:
        if os.path.exists(reserve):
            os.unlink(reserve)
        write_manifest(os.path.join(out, "outcome.json"), manifest)

    folder = tempfile.mkdtemp(prefix="dokrun-")
    worker: Optional[Worker] = None
    status = 0
    try:
        worker = Worker()  # before the payload is there: its interpreter starts while we fetch
        table = read_addresses(addresses)
        header = receive(folder, payload, table)
        manifest.update(job=header["job"], attempt=attempt())
        checkpoints = restore(folder, header, table)
        take_claim(table)
        keep_room(reserve, RESERVE_BYTES + RESERVE_BYTES_PER_CALL * len(header["calls"]))
        run(Drain(worker, header, folder, out, manifest["calls"]), checkpoints, manifest, tell)
    except PayloadRefused as error:
        manifest["failure"] = {"reason": error.reason, "ran": "no", "message": str(error)}
    except Stopped:
        status = not_started(manifest, Unclaimed("the container was stopped", protocol.STOPPED_EARLY))
    except Unclaimed as error:
        status = not_started(manifest, error)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if worker is not None:
            worker.kill()
        tell()
        shutil.rmtree(folder, ignore_errors=True)
    return status


def not_started(manifest: Dict[str, Any], why: Unclaimed) -> int:
    """Say that nothing was started, nor will be by this container. Returns what it exits with."""
    print(f"[dokrun] {why}; nothing was started", file=sys.stderr, flush=True)
    manifest["failure"] = {"reason": protocol.UNCLAIMED, "ran": "no", "message": str(why)}
    return why.status


def run(drain: Drain, checkpoints: Optional["Checkpoints"], manifest: Dict[str, Any], tell: Callable[[], None]) -> None:
    """Have the calls drained, and save what a next attempt may need if one of them has failed."""
    if checkpoints is None:
        drain.run()
        return
    checkpoints.start()
    try:
        drain.run()
    finally:
        if not drain.good:
            tell()  # the container may be ended before all is packed and sent
            checkpoints.finish()
        manifest["checkpoint"] = checkpoints.last


def _stop(_number: int, _frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def attempt() -> int:
    """Tell which attempt of its job this container is."""
    return int(os.environ.get(protocol.ATTEMPT, "1"))


def read_addresses(text: str) -> Dict[str, Any]:
    """Read the table of addresses, which may itself lie at one."""
    table: Dict[str, Any] = json.loads(text)
    if "addresses" in table:
        from . import fetch

        try:
            table = dict(json.loads(fetch.read(table["addresses"])))
        except (OSError, ValueError, TypeError) as error:
            raise PayloadRefused(
                protocol.NOT_FETCHED, f"the table of addresses could not be fetched: {error}"
            ) from error
    return table


def receive(folder: str, payload: str, addresses: Dict[str, Any]) -> Dict[str, Any]:
    """Bring the payload, what it names, and lay out the user's source; all of it verified. Returns the header."""
    path = os.path.join(folder, "payload")
    try:
        if payload == protocol.FETCHED:
            from . import fetch  # urllib costs milliseconds that a payload in the command saves

            sha256, size = (os.environ.get(name, "") for name in protocol.PAYLOAD_VARIABLES)
            fetch.fetch(addresses.get("payload", ""), path, sha256, int(size))
        else:
            unfold(payload, path)
        with open(path, "rb") as file:
            header, segments = envelope.unpack(file.read())
        check_versions(header)
        fetch_blobs(segments, addresses.get("blobs", {}), os.path.join(folder, "blobs"))
        lay_out(header.get("source", []), segments, folder)
    except envelope.FormatError as error:
        raise PayloadRefused(protocol.WRONG_VERSION, str(error)) from error
    except (OSError, ValueError, zlib.error) as error:
        raise refused(error, "the payload") from error
    return header


def refused(error: Exception, what: str) -> PayloadRefused:
    """Say why something could not be received. The class is told by name: its module may not be loaded."""
    reason = _REASONS.get(type(error).__name__, protocol.UNREADABLE_PAYLOAD)
    return PayloadRefused(reason, f"{what} could not be received: {error}")


_REASONS = {"FetchError": protocol.NOT_FETCHED, "DigestError": protocol.TAMPERED}


def restore(folder: str, header: Dict[str, Any], addresses: Dict[str, Any]) -> Optional["Checkpoints"]:
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
    return Checkpoints(files, folder, where["put"], header["checkpoint_s"])


def take_claim(addresses: Dict[str, Any]) -> None:
    """Be the one that starts this attempt: the last step before anything of the user's is unpickled."""
    where = addresses.get("claim")
    if where is None:
        return  # there is no bucket, so nobody can hold a claim
    from . import claim

    try:
        claim.take(where["put"], where["get"], os.environ.get(protocol.TASK_ID, ""))
    except claim.ClaimLost as error:
        raise Unclaimed(f"this attempt is not this task's to start: {error}", protocol.CLAIM_LOST) from error
    except claim.ClaimFailed as error:
        raise Unclaimed(f"the claim of this attempt cannot be taken: {error}", protocol.CLAIM_FAILED) from error


def unfold(payload: str, path: str) -> None:
    """Write the payload that came with the command to a file."""
    data = zlib.decompress(base64.b64decode(payload))
    if hashlib.sha256(data).hexdigest() != os.environ.get(protocol.PAYLOAD_SHA256):
        raise PayloadRefused(protocol.TAMPERED, "the command's payload does not match its digest; nothing was started")
    with open(path, "wb") as file:
        file.write(data)


def check_versions(header: Dict[str, Any]) -> None:
    """Refuse what this side cannot unpickle.

    That is what another minor version of Python has pickled, since code objects do not survive the difference, and what
    another cloudpickle has, which promises nothing across its versions.
    """
    theirs = header["python"]
    ours = "{}.{}.{}".format(*sys.version_info[:3])
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        wanted = ".".join(theirs.split(".")[:2])
        message = (
            f"the call was pickled by Python {theirs}, and the image has Python {ours}; "
            f'write image=dok.Image.debian_slim("{wanted}"), or another image that has Python {wanted}'
        )
        raise PayloadRefused(protocol.WRONG_VERSION, message)
    if header["cloudpickle"] != (carried := cloudpickle_version()):
        message = (
            f"the call was pickled by cloudpickle {header['cloudpickle']}, and the shim carries {carried}; "
            "bake the shim of the dokrun that makes the call, or none"
        )
        raise PayloadRefused(protocol.WRONG_VERSION, message)


def cloudpickle_version() -> str:
    """Tell the version of the cloudpickle that the worker will use, without the cost of loading it here."""
    spec = importlib.util.find_spec("cloudpickle")
    if spec is None or spec.origin is None:
        return "none"
    source = spec.loader.get_data(spec.origin).decode()  # type: ignore[union-attr]  # a file's loader and zipimport's do
    found = re.search(r"^__version__ = ['\"]([^'\"]+)", source, re.MULTILINE)
    return found.group(1) if found else "unknown"


def fetch_blobs(segments: List[envelope.Segment], addresses: Dict[str, str], folder: str) -> None:
    """Fetch every segment that lies elsewhere, several at a time."""
    os.makedirs(folder, exist_ok=True)
    wanted = {segment.sha256: segment for segment in segments if segment.data is None}
    if not wanted:
        return
    from concurrent.futures import ThreadPoolExecutor  # costs milliseconds that most jobs need not spend

    from . import fetch

    def fetch_one(segment: envelope.Segment) -> None:
        path = os.path.join(folder, segment.sha256)
        fetch.fetch(addresses.get(segment.sha256, ""), path, segment.sha256, segment.size)

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(fetch_one, wanted.values()))


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
