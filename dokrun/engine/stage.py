"""From a job to a task definition: what the container will fetch is put into the bucket first.

A payload that fits rides in the command itself: nothing to fetch, no address that could expire, no bucket needed.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import logging
import math
import zlib
from typing import NamedTuple

from dokrun import keys
from dokrun.api.models import ContainerRequest, CreateTaskRequest
from dokrun.bucket import Bucket
from dokrun.config import NO_BUCKET
from dokrun.engine.images import Ready
from dokrun.engine.prepare import Job
from dokrun.errors import ConfigError, StorageError
from dokrun.payload import shim
from dokrun.shim import protocol
from dokrun.shim.envelope import pack

_log = logging.getLogger("dokrun.engine")

# The service accepts no shorter limit. Ours is on top of the calls' own timeouts, which the supervisor keeps; it ends
# a container that cannot be reached any more, so it leaves time for starting and for downloads.
SHORTEST_TIME_LIMIT_S = 600
# The service's line is rated 200 Mbps, best effort; this is a fifth of that.
FETCHED_BYTES_PER_S = 5_000_000
STARTING_S = 300 + protocol.LONGEST_IMPORT_S
# What rides in a command, compressed. Linux takes no argument over 128 KiB, and base 64 makes four bytes of three.
COMMAND_BYTES = 64 << 10
# Likewise, of addresses; a hundred of them are about so long.
CARRIED_ADDRESSES_BYTES = 48 << 10
CHECKPOINT_SLOTS = 2
# A payload larger than this is not even tried: compressing it would take longer than the bucket does.
_TRIED_BYTES = 1 << 20


def check_fits(job: Job) -> None:
    """Refuse what cannot travel without a bucket.

    Raises:
        ConfigError: the job's payload is larger than what rides in a command, or holds secrets.
    """
    if job.header["secrets"]:
        raise ConfigError(
            f"{job.name} has secrets, and without a bucket they would stand in the task's definition, which everybody "
            f"in the project can read; {NO_BUCKET}"
        )
    size = sum(segment.size for segment in job.segments)
    if size > _TRIED_BYTES or _folded(pack(dict(job.header), job.segments)) is None:
        raise ConfigError(
            f"{job.name}, its arguments and its files are {size / 1024:,.0f} KiB, and only {COMMAND_BYTES >> 10} KiB "
            f"(compressed) travel without a bucket; {NO_BUCKET}"
        )


def upload_blobs(job: Job, bucket: Bucket) -> None:
    """Upload what a job keeps in the bucket by content, from where it lies, unless it is there.

    Before the call returns: what the caller does to an array afterwards must change nothing, and it is not copied.

    Raises:
        StorageError: the bucket refused, or gave no answer.
    """
    for number in sorted(job.objects):
        segment = job.segments[number]
        if segment.data is not None:
            bucket.put_once(keys.blob(segment.sha256), segment.data, segment.sha256)


class Checkpoint(NamedTuple):
    """What an attempt has saved for the next one: where, and what its bytes must be."""

    attempt: int
    slot: int
    sha256: str
    size: int


def stage(
    job: Job, bucket: Bucket | None, image: Ready, watch_tag: str, *, attempt: int, checkpoint: Checkpoint | None
) -> CreateTaskRequest:
    """Upload the rest of what the job needs and say what task shall be created for one of its attempts.

    Raises:
        StorageError: the bucket refused, or gave no answer.
    """
    payload = _payload(job, bucket)
    # A definition can be read by everybody in the project for as long as the task is listed; an object by whoever can
    # read the bucket, until the call has its outcome.
    folded = None if bucket is not None and job.header["secrets"] else _folded(payload)
    addresses: dict[str, object] = {}
    if bucket is not None:
        if folded is None:
            bucket.put(keys.payload(job.id), payload)
        addresses = _addresses(job, bucket, attempt, payload=folded is None, checkpoint=checkpoint)
    environment = {
        **job.options.env,
        protocol.PAYLOAD_SHA256: hashlib.sha256(payload).hexdigest(),
        protocol.PAYLOAD_SIZE: str(len(payload)),
        protocol.JOB_ID: job.id,
        protocol.ATTEMPT: str(attempt),
    }
    if job.retry.times:
        environment |= {
            protocol.RETRIES: str(job.retry.times),
            protocol.BACKOFF: str(math.ceil(job.retry.backoff)),
        }
    if checkpoint is not None:
        environment |= {
            protocol.CHECKPOINT_SHA256: checkpoint.sha256,
            protocol.CHECKPOINT_SIZE: str(checkpoint.size),
        }
    container = ContainerRequest(
        image=image.reference,
        registry=image.registry_id,
        command=shim.command(folded, addresses),
        entrypoint=list(shim.ENTRYPOINT),
        plan=job.plan,
        environment=environment,
    )
    return CreateTaskRequest(
        name=keys.task_name(job.name, job.id),
        containers=[container],
        tags=[keys.OURS, keys.job_tag(job.id), watch_tag, *job.options.tags],
        execution_time_limit_sec=max(SHORTEST_TIME_LIMIT_S, math.ceil(job.timeout_s + STARTING_S + _fetching_s(job))),
    )


def _fetching_s(job: Job) -> int:
    """Tell how long the container may take to fetch what a job sends it, on a slow day."""
    return sum(segment.size for segment in job.segments) // FETCHED_BYTES_PER_S


def _payload(job: Job, bucket: Bucket | None) -> bytes:
    """Pack the payload, the same whenever it is packed: where its objects can be fetched is not in it."""
    elsewhere = frozenset() if bucket is None else job.objects
    segments = [
        segment._replace(data=None) if number in elsewhere else segment for number, segment in enumerate(job.segments)
    ]
    return pack(dict(job.header), segments)


def _addresses(
    job: Job, bucket: Bucket, attempt: int, *, payload: bool, checkpoint: Checkpoint | None
) -> dict[str, object]:
    """Presign all that the container may fetch and write, for as long as a task may wait in line."""
    ready = shim.build()
    bucket.put_once(keys.blob(ready.sha256), ready.data, ready.sha256)
    needed: dict[str, object] = {"shim": bucket.address(keys.blob(ready.sha256))}
    claim = keys.claim(job.id, attempt)
    table = {
        **needed,
        "blobs": {digest: bucket.address(keys.blob(digest)) for digest in _blobs(job)},
        "claim": {"put": bucket.address_to_put(claim, once=True), "get": bucket.address(claim)},
    }
    if payload:
        table["payload"] = bucket.address(keys.payload(job.id))
    if job.retry.times:
        table["checkpoint"] = _checkpoint_addresses(job, bucket, attempt, checkpoint)
    text = json.dumps(table).encode()
    if len(text) <= CARRIED_ADDRESSES_BYTES:
        return table
    key = keys.addresses(job.id, attempt)
    bucket.put(key, text)
    return {**needed, "addresses": bucket.address(key)}


def _checkpoint_addresses(job: Job, bucket: Bucket, attempt: int, former: Checkpoint | None) -> dict[str, object]:
    slots = [keys.checkpoint(job.id, attempt, slot) for slot in range(CHECKPOINT_SLOTS)]
    found = "" if former is None else bucket.address(keys.checkpoint(job.id, former.attempt, former.slot))
    return {"put": [bucket.address_to_put(slot) for slot in slots], "get": found}


def _blobs(job: Job) -> list[str]:
    return sorted({job.segments[number].sha256 for number in job.objects})


def _folded(payload: bytes) -> str | None:
    """Make of a payload what a command can carry, or None of one that is too large for it."""
    if len(payload) > _TRIED_BYTES:
        return None
    packed = zlib.compress(payload)
    return base64.b64encode(packed).decode() if len(packed) <= COMMAND_BYTES else None


def unstage(job_id: str, bucket: Bucket, attempts: int, *, checkpoints: bool) -> None:
    """Remove what only the containers of a job needed; what cannot be removed stays, and is told in the log.

    Args:
        job_id: the job.
        bucket: where it was staged.
        attempts: how many attempts it had.
        checkpoints: whether there are any, which nobody needs either.
    """
    numbers = range(1, attempts + 1)
    unused = [keys.payload(job_id), *(keys.addresses(job_id, attempt) for attempt in numbers)]
    if checkpoints:
        slots = itertools.product(numbers, range(CHECKPOINT_SLOTS))
        unused += [keys.checkpoint(job_id, attempt, slot) for attempt, slot in slots]
    for key in unused:
        try:
            bucket.delete(key)
        except StorageError as error:
            _log.warning("an object of job %s stays in the bucket: %s", job_id, error)
