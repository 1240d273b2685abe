"""From a job to a task definition: what the container will fetch is put into the bucket first.

A payload that fits rides in the command itself: nothing to fetch, no address that could expire, no bucket needed.
"""

from __future__ import annotations

import base64
import itertools
import json
import logging
import math
import zlib
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import NamedTuple

from dokrun import keys
from dokrun.api.models import ContainerRequest, CreateTaskRequest, HttpPort
from dokrun.bucket import Bucket
from dokrun.config import NO_BUCKET
from dokrun.engine.images import Ready
from dokrun.engine.prepare import Job
from dokrun.errors import ConfigError, StorageError
from dokrun.payload import pyz, shim
from dokrun.shim import protocol
from dokrun.shim.digests import digest_of
from dokrun.shim.envelope import pack, write_chosen

_log = logging.getLogger("dokrun.engine")

# The service accepts no shorter limit. Ours is on top of the calls' own timeouts, which the supervisor keeps; it ends
# a container that cannot be reached any more, so it leaves time for starting and for downloads.
SHORTEST_TIME_LIMIT_S = 600
# The service's line is rated 200 Mbps, best effort; this is a fifth of that.
FETCHED_BYTES_PER_S = 5_000_000
# What the service itself sets where nobody does.
LONGEST_TIME_LIMIT_S = 20 * 86400
STARTING_S = 300 + protocol.LONGEST_IMPORT_S
# What rides in a command, compressed. Linux takes no argument over 128 KiB, and base 64 makes four bytes of three.
COMMAND_BYTES = 64 << 10
# Likewise, of addresses; a hundred of them are about so long.
CARRIED_ADDRESSES_BYTES = 48 << 10
CHECKPOINT_SLOTS = 2
# How long the shim is taken to lie in the bucket since it was seen there: many calls are staged one after another.
SEEN_S = 60.0
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
    if any(segment.data is None for segment in job.segments):
        raise ConfigError(f"{job.name} is given a value that was put into a bucket, and {NO_BUCKET}")
    size = sum(segment.size for segment in job.segments)
    if size > _TRIED_BYTES or _folded(pack(dict(job.header), job.segments)) is None:
        raise ConfigError(
            f"{job.name}, its arguments and its files are {size / 1024:,.0f} KiB, and only {COMMAND_BYTES >> 10} KiB "
            f"(compressed) travel without a bucket; {NO_BUCKET}"
        )


class Checkpoint(NamedTuple):
    """What an attempt has saved for the next one: where, and what its bytes must be."""

    attempt: int
    slot: int
    sha256: str
    size: int


class Attempt(NamedTuple):
    """One of a job's attempts: its number, which calls it is for (None is all of them), what it goes on from.

    `spent` is what the ones before it have cost, in yen; `again` is whether a task of it could not begin, for which
    something may be missing that was there.
    """

    number: int = 1
    calls: Sequence[int] | None = None
    checkpoint: Checkpoint | None = None
    spent: Decimal = Decimal(0)
    again: bool = False


def stage(job: Job, bucket: Bucket | None, image: Ready, watch_tag: str, attempt: Attempt) -> CreateTaskRequest:
    """Upload the rest of what the job needs and say what task shall be created for one of its attempts.

    Raises:
        StorageError: the bucket refused, or gave no answer.
    """
    payload = pack(dict(job.header), job.segments)
    # A definition can be read by everybody in the project for as long as the task is listed; an object by whoever can
    # read the bucket, until the call has its outcome.
    folded = None if bucket is not None and job.header["secrets"] else _folded(payload)
    addresses: dict[str, object] = {}
    if bucket is not None:
        if folded is None:
            bucket.put(keys.payload(job.id), payload)
        addresses = _addresses(job, bucket, attempt, payload=folded is None)
    environment = {
        **job.options.env,
        protocol.PAYLOAD_SHA256: digest_of(payload),
        protocol.PAYLOAD_SIZE: str(len(payload)),
        **_environment(job, attempt),
    }
    container = ContainerRequest(
        image=image.reference,
        registry=image.registry_id,
        command=shim.command(folded, addresses, calls=_chosen(job, attempt)),
        entrypoint=list(shim.ENTRYPOINT),
        plan=job.plan,
        environment=environment,
        http=None if job.options.http is None else HttpPort(job.options.http.port, job.options.http.path),
    )
    return CreateTaskRequest(
        name=keys.task_name(job.name, job.id),
        containers=[container],
        tags=[keys.OURS, keys.job_tag(job.id), watch_tag, *job.options.tags],
        execution_time_limit_sec=_time_limit_s(job),
    )


def _environment(job: Job, attempt: Attempt) -> dict[str, str]:
    """Tell what the supervisor is told of a job and of one of its attempts."""
    environment = {
        protocol.JOB_ID: job.id,
        protocol.ATTEMPT: str(attempt.number),
    }
    if job.calls > 1:
        environment[protocol.CALLS] = str(job.calls)
    if job.retry.times:
        environment |= {
            protocol.RETRIES: str(job.retry.times),
            protocol.BACKOFF: str(math.ceil(job.retry.backoff)),
        }
    if attempt.checkpoint is not None:
        environment |= {
            protocol.CHECKPOINT_SHA256: attempt.checkpoint.sha256,
            protocol.CHECKPOINT_SIZE: str(attempt.checkpoint.size),
        }
    if job.session_sha256:
        environment[protocol.SESSION_SHA256] = job.session_sha256
    paid_s = job.paid_s(attempt.spent)
    if paid_s is not None:
        environment[protocol.LIMIT_S] = str(paid_s)
    return environment


def _time_limit_s(job: Job) -> int:
    limit_s, paid_s = time_limit_s(job.calls, job.lanes, job.timeout_s, _fetching_s(job)), job.paid_s()
    # The same for every attempt, as all that makes a task the job's own. What is left, its supervisor keeps.
    return limit_s if paid_s is None else max(SHORTEST_TIME_LIMIT_S, min(limit_s, paid_s))


def time_limit_s(calls: int, lanes: int, timeout_s: float, fetching_s: float = 0.0) -> int:
    """Tell how long a task may run: as long as all of its calls may take, one after another in each lane.

    Many calls seldom take as long as they may, so there is an end to that; one alone is given its whole timeout.
    """
    rounds = -(-calls // lanes)
    calls_s = max(timeout_s, min(rounds * timeout_s, LONGEST_TIME_LIMIT_S))
    return max(SHORTEST_TIME_LIMIT_S, math.ceil(calls_s + STARTING_S + fetching_s))


def _chosen(job: Job, attempt: Attempt) -> str:
    return "" if attempt.calls is None or len(attempt.calls) == job.calls else write_chosen(attempt.calls, job.calls)


def _fetching_s(job: Job) -> int:
    """Tell how long the container may take to fetch what a job sends it, on a slow day."""
    return sum(segment.size for segment in job.segments) // FETCHED_BYTES_PER_S


def _addresses(job: Job, bucket: Bucket, attempt: Attempt, *, payload: bool) -> dict[str, object]:
    """Presign all that the container may fetch and write, for as long as a task may wait in line."""
    packed = pyz.build(with_code=True).packed
    good_for_s = 0.0 if attempt.again else SEEN_S
    bucket.put_once(keys.blob(packed.sha256), packed.data or b"", packed.sha256, good_for_s=good_for_s)
    needed: dict[str, object] = {"shim": bucket.address(keys.blob(packed.sha256))}
    claim = keys.claim(job.id, attempt.number)
    table = {
        **needed,
        "blobs": {it.sha256: bucket.address(keys.blob(it.sha256)) for it in job.segments if it.data is None},
        "claim": {"put": bucket.address_to_put(claim, once=True), "get": bucket.address(claim)},
    }
    if payload:
        table["payload"] = bucket.address(keys.payload(job.id))
    if job.retry.times:
        table["checkpoint"] = _checkpoint_addresses(job, bucket, attempt)
    if job.calls > 1:
        slots = range(count_slots(job))
        table["results"] = [bucket.address_to_put(keys.results(job.id, attempt.number, slot)) for slot in slots]
        table["begun"] = bucket.address_to_put(keys.begun(job.id, attempt.number))
    text = json.dumps(table).encode()
    if len(text) <= CARRIED_ADDRESSES_BYTES:
        return table
    key = keys.addresses(job.id, attempt.number)
    bucket.put(key, text)
    return {**needed, "addresses": bucket.address(key)}


def count_slots(job: Job) -> int:
    """Tell how many files of results a container may send ahead of the artifact, however long it runs."""
    longest_s = _time_limit_s(job)
    # First one every so often, then ever more seldom, by a part of the time that has passed.
    growing = math.log(max(1.0, longest_s * protocol.RESULTS_WAIT / protocol.RESULTS_LEAST_WAIT_S))
    often = math.ceil(1 / protocol.RESULTS_WAIT) + math.ceil(growing / math.log1p(protocol.RESULTS_WAIT))
    return min(job.calls, often)


def _checkpoint_addresses(job: Job, bucket: Bucket, attempt: Attempt) -> dict[str, object]:
    slots, former = (
        [keys.checkpoint(job.id, attempt.number, slot) for slot in range(CHECKPOINT_SLOTS)],
        attempt.checkpoint,
    )
    found = "" if former is None else bucket.address(keys.checkpoint(job.id, former.attempt, former.slot))
    return {"put": [bucket.address_to_put(slot) for slot in slots], "get": found}


def _folded(payload: bytes) -> str | None:
    """Make of a payload what a command can carry, or None of one that is too large for it."""
    if len(payload) > _TRIED_BYTES:
        return None
    packed = zlib.compress(payload)
    return base64.b64encode(packed).decode() if len(packed) <= COMMAND_BYTES else None


def unstage(
    job_id: str, bucket: Bucket, attempts: int, *, checkpoints: bool, without_artifact: Collection[int] = ()
) -> None:
    """Remove what only the containers of a job needed; what cannot be removed stays, and is told in the log.

    Args:
        job_id: the job.
        bucket: where it was staged.
        attempts: how many attempts it had.
        checkpoints: whether there are any, which nobody needs either.
        without_artifact: those of its attempts that left none: how far they came, and what they sent ahead, is
            nowhere else for whoever attaches.
    """
    staying = tuple(
        key for attempt in without_artifact for key in (keys.begun(job_id, attempt), keys.all_results(job_id, attempt))
    )
    try:
        for key in bucket.keys(keys.of_job(job_id)):
            if not key.startswith(staying):
                bucket.delete(key)
        for attempt, slot in itertools.product(range(1, attempts + 1), range(CHECKPOINT_SLOTS)) if checkpoints else ():
            bucket.delete(keys.checkpoint(job_id, attempt, slot))
    except StorageError as error:
        _log.warning("what job %s has sent stays in the bucket: %s", job_id, error)
