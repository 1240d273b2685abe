"""From a job to a task definition: what the container will fetch is put into the bucket first."""

from __future__ import annotations

import hashlib
import math
import sys

from dokrun import keys
from dokrun.api.models import ContainerRequest, CreateTaskRequest
from dokrun.bucket import Bucket
from dokrun.engine.prepare import Job
from dokrun.payload import shim
from dokrun.shim import protocol
from dokrun.shim.envelope import Segment, pack

# The service accepts no shorter limit. Ours is on top of the calls' own timeouts, which the supervisor keeps; it ends
# a container that cannot be reached any more, so it leaves time for starting and for downloads.
SHORTEST_TIME_LIMIT_S = 600
STARTING_S = 300


def upload_blobs(job: Job, bucket: Bucket) -> None:
    """Upload a job's large segments from where they lie, as objects named by their content, unless they are there.

    Before the call returns: what the caller does to an array afterwards must change nothing, and it is not copied.

    Raises:
        StorageError: the bucket refused, or gave no answer.
    """
    for segment in job.segments:
        if segment.size >= protocol.BLOB_SIZE and segment.data is not None:
            bucket.put_once(keys.blob(segment.sha256), segment.data, segment.sha256)


def stage(job: Job, bucket: Bucket, tags: list[str]) -> CreateTaskRequest:
    """Upload the rest of what the job needs and say what task shall be created.

    Raises:
        StorageError: the bucket refused, or gave no answer.
    """
    ready = shim.build()
    bucket.put_once(keys.blob(ready.sha256), ready.data, ready.sha256)
    payload = pack(dict(job.header), [_placed(segment, bucket) for segment in job.segments])
    key = keys.payload(job.id, job.attempt)
    bucket.put(key, payload)
    container = ContainerRequest(
        image=job.options.image or default_image(),
        command=shim.injected_command(bucket.address(keys.blob(ready.sha256)), ready.sha256),
        entrypoint=list(shim.ENTRYPOINT),
        plan=job.plan,
        environment={
            **job.options.env,
            protocol.PAYLOAD_URL: bucket.address(key),
            protocol.PAYLOAD_SHA256: hashlib.sha256(payload).hexdigest(),
            protocol.PAYLOAD_SIZE: str(len(payload)),
        },
    )
    return CreateTaskRequest(
        name=keys.task_name(job.name, job.id),
        containers=[container],
        tags=[keys.OURS, keys.job_tag(job.id), *tags, *job.options.tags],
        execution_time_limit_sec=max(SHORTEST_TIME_LIMIT_S, math.ceil(job.timeout_s + STARTING_S)),
    )


def default_image() -> str:
    """Tell the official slim image of this interpreter's own version, whose pickles it can read."""
    return f"docker.io/library/python:{sys.version_info.major}.{sys.version_info.minor}-slim"


def _placed(segment: Segment, bucket: Bucket) -> Segment:
    if segment.size < protocol.BLOB_SIZE or segment.data is None:
        return segment
    return segment._replace(url=bucket.address(keys.blob(segment.sha256)))
