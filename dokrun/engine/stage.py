"""From a job to a task definition: what the container will fetch is put into the bucket first.

A payload that fits rides in the command itself: nothing to fetch, no address that could expire, no bucket needed.
"""

from __future__ import annotations

import base64
import hashlib
import math
import zlib

from dokrun import keys
from dokrun.api.models import ContainerRequest, CreateTaskRequest
from dokrun.bucket import Bucket
from dokrun.config import NO_BUCKET
from dokrun.engine.images import Ready
from dokrun.engine.prepare import Job
from dokrun.errors import ConfigError
from dokrun.payload import shim
from dokrun.shim import protocol
from dokrun.shim.envelope import pack

# The service accepts no shorter limit. Ours is on top of the calls' own timeouts, which the supervisor keeps; it ends
# a container that cannot be reached any more, so it leaves time for starting and for downloads.
SHORTEST_TIME_LIMIT_S = 600
STARTING_S = 300 + protocol.LONGEST_IMPORT_S
# What rides in a command, compressed. Linux takes no argument over 128 KiB, and base 64 makes four bytes of three.
COMMAND_BYTES = 64 << 10
# A payload larger than this is not even tried: compressing it would take longer than the bucket does.
_TRIED_BYTES = 1 << 20


def check_fits(job: Job) -> None:
    """Refuse what cannot travel without a bucket.

    Raises:
        ConfigError: the job's payload is larger than what rides in a command.
    """
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


def stage(job: Job, bucket: Bucket | None, image: Ready, tags: list[str]) -> CreateTaskRequest:
    """Upload the rest of what the job needs and say what task shall be created.

    Raises:
        StorageError: the bucket refused, or gave no answer.
    """
    segments = list(job.segments)
    shim_source = None
    if bucket is not None:
        for number in job.objects:
            segments[number] = segments[number]._replace(url=bucket.address(keys.blob(segments[number].sha256)))
        ready = shim.build()
        bucket.put_once(keys.blob(ready.sha256), ready.data, ready.sha256)
        shim_source = bucket.address(keys.blob(ready.sha256))
    payload = pack(dict(job.header), segments)
    environment = {**job.options.env, protocol.PAYLOAD_SHA256: hashlib.sha256(payload).hexdigest()}
    folded = _folded(payload)
    if folded is None and bucket is not None:
        key = keys.payload(job.id, job.attempt)
        bucket.put(key, payload)
        environment |= {protocol.PAYLOAD_URL: bucket.address(key), protocol.PAYLOAD_SIZE: str(len(payload))}
    container = ContainerRequest(
        image=image.reference,
        registry=image.registry_id,
        command=shim.command(shim_source, folded),
        entrypoint=list(shim.ENTRYPOINT),
        plan=job.plan,
        environment=environment,
    )
    return CreateTaskRequest(
        name=keys.task_name(job.name, job.id),
        containers=[container],
        tags=[keys.OURS, keys.job_tag(job.id), *tags, *job.options.tags],
        execution_time_limit_sec=max(SHORTEST_TIME_LIMIT_S, math.ceil(job.timeout_s + STARTING_S)),
    )


def _folded(payload: bytes) -> str | None:
    """Make of a payload what a command can carry, or None of one that is too large for it."""
    if len(payload) > _TRIED_BYTES:
        return None
    packed = zlib.compress(payload)
    return base64.b64encode(packed).decode() if len(packed) <= COMMAND_BYTES else None
