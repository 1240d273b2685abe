"""Print what a session's calls cost: the time of one, of many side by side, and of a large array, there and back.

Each stands beside what it could be at best on the same machine, in the same run: a bare request to the same port, and a
plain copy through the same object store.

make bench
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import boto3
import httpx
import numpy as np

import dokrun as dok
from dokrun import config
from dokrun.config import Settings

MIB = 1 << 20
ARRAY_MIB = 256
CALLS, ROUNDS, MANY, IN_FLIGHT = 500, 3, 1000, 32


@dok.remote(timeout=60)
def nothing() -> None:
    """Do nothing."""


@dok.remote(timeout=60)
def same(array: Any) -> Any:
    """Return what it is given."""
    return array


def seconds_of(step: Callable[[], object]) -> float:
    """Tell how long something takes."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def many() -> None:
    """Make calls, so many of them at the same time."""
    flying: deque[dok.Future[None]] = deque()
    for _ in range(MANY):
        if len(flying) == IN_FLIGHT:
            flying.popleft().result()
        flying.append(nothing())
    while flying:
        flying.popleft().result()


def copy(settings: Settings, data: bytes) -> None:
    """Bring some bytes to the object store and back, and again, as a call's argument and its result would go."""
    bucket = settings.bucket
    assert bucket is not None
    store = boto3.client(
        "s3",
        endpoint_url=bucket.endpoint_url,
        region_name=bucket.region,
        aws_access_key_id=bucket.access_key_id,
        aws_secret_access_key=bucket.secret_access_key.reveal() if bucket.secret_access_key else None,
    )
    for key in ("there", "back"):
        store.put_object(Bucket=bucket.name, Key=key, Body=data)
        assert len(store.get_object(Bucket=bucket.name, Key=key)["Body"].read()) == len(data)


def main() -> None:
    """Print the table."""
    settings = config.connect(config.load("local"))
    with dok.session(plan="v100-32gb", profile="local", timeout="20m") as session:
        nothing().result()
        url = str(session._future._progress.address)  # noqa: SLF001 - the same port, without what makes it a session
        calls, bare = [], []
        with httpx.Client() as client:
            for _ in range(CALLS):
                calls.append(seconds_of(lambda: nothing().result()))
                bare.append(seconds_of(lambda: client.post(url)))
        rounds = [seconds_of(many) for _ in range(ROUNDS)]
        array = np.random.default_rng(0).random(ARRAY_MIB * MIB // 8)
        data = array.tobytes()
        arrays, copies = [], []
        for number in range(ROUNDS):
            array[0] = number  # another one each time, of which the container has nothing yet
            arrays.append(seconds_of(lambda: same(array).result()))
            copies.append(seconds_of(lambda: copy(settings, data)))
    half, most = (f"{1000 * statistics.quantiles(calls, n=20)[which]:.1f}" for which in (9, 18))
    request = 1000 * statistics.median(bare)
    there, plain = statistics.median(arrays), statistics.median(copies)
    print(f"{'a session':<52}{'':>8}{'aim':>8}")
    print(f"{'a no-op call, p50, ms':<52}{half:>8}{3:>8}   a bare request to the same port takes {request:.1f} ms")
    print(f"{'a no-op call, p95, ms':<52}{most:>8}{8:>8}")
    print(f"{f'{MANY:,} no-ops, {IN_FLIGHT} in flight, s':<52}{statistics.median(rounds):>8.2f}{1:>8}")
    what = f"{ARRAY_MIB} MiB there and back, over a plain copy"
    print(f"{what:<52}{there / plain:>8.2f}{2:>8}   {there:.1f} s; through the object store {plain:.1f} s")


if __name__ == "__main__":
    main()
