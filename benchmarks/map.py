"""Print what a map of many calls costs: time, memory, requests, bytes and yen, each beside what it could be at best.

make bench
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import boto3
import numpy as np

import dokrun as dok
from dokrun import config
from dokrun.config import Settings

MIB = 1 << 20
SHARED_MIB = 64
YEN_CALLS, YEN_CALL_S = 100, 2.0

remote = dok.remote(plan="v100-32gb", profile="local", timeout=60)


@remote
def nothing(number: int) -> int:
    """Return what it is given."""
    return number


def same(number: int) -> int:
    """Return what it is given, here."""
    return number


@remote
def nap(_number: int) -> float:
    """Take a second. Tells when it was over."""
    time.sleep(1)
    return time.time()


@dok.remote(plan="h100-80gb", profile="local", timeout=60)
def work(_number: int) -> None:
    """Take a while."""
    time.sleep(YEN_CALL_S)


@remote
def first_of(array: Any, _number: int) -> float:
    """Look at an array."""
    return float(array[0])


class Counter(logging.Handler):
    """Counts the requests that a log tells of."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one, if the record is of one."""
        self.count += "HTTP/1.1" in record.getMessage() or " -> " in record.getMessage()


@contextmanager
def counted() -> Iterator[Counter]:
    """Count this process's requests to DOK and to the bucket."""
    counter, loggers = Counter(), [logging.getLogger(name) for name in ("dokrun.api", "urllib3.connectionpool")]
    for logger in loggers:
        logger.addHandler(counter)
        logger.setLevel(logging.DEBUG)
    yield counter
    for logger in loggers:
        logger.removeHandler(counter)
        logger.setLevel(logging.NOTSET)


def stored_bytes(settings: Settings) -> int:
    """Tell how much lies in the bucket."""
    bucket = settings.bucket
    assert bucket is not None
    secret = bucket.secret_access_key
    client = boto3.client(
        "s3",
        endpoint_url=bucket.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=bucket.access_key_id,
        aws_secret_access_key=secret.reveal() if secret else None,
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
    return sum(found["Size"] for page in pages for found in page.get("Contents", ()))


def line(what: str, value: str, aim: str, beside: str) -> None:
    """Print a row."""
    print(f"{what:<58}{value:>12}{aim:>12}   {beside}")


def main() -> None:
    """Measure and print."""
    nothing(0).result()
    line("on profile local", "", "aim", "beside")
    with counted() as counter:
        started = time.perf_counter()
        assert sum(nothing.map(range(1000), progress=False)) == sum(range(1000))
        thousand_s = time.perf_counter() - started
    with ProcessPoolExecutor(1) as pool:
        started = time.perf_counter()
        list(pool.map(same, range(1000)))
        pool_s = time.perf_counter() - started
    line(
        "map of 1,000 no-ops",
        f"{thousand_s:.2f} s",
        "3 s",
        f"{thousand_s / pool_s:.1f} x a process pool's ({pool_s:.2f} s)",
    )
    line("the client's requests for each of them", f"{counter.count / 1000:.3f}", "0.1", "")
    naps = nap.map(range(1000), workers=2, progress=False)
    ended = next(naps)
    line("the first of 1,000 naps, after its end", f"{time.time() - ended:.2f} s", "1 s", "")
    naps.cancel()
    settings = config.connect(config.load("local"))
    before, array = stored_bytes(settings), np.ones(SHARED_MIB * MIB // 8)
    shared = first_of.map([array] * 100, range(100), progress=False)
    next(shared)
    sent = (stored_bytes(settings) - before) / MIB
    list(shared)
    line("sent for 100 calls that share 64 MiB", f"{sent:.1f} MiB", "65 MiB", "64 MiB")
    working = work.map(range(YEN_CALLS), progress=False)
    futures = working.futures
    list(working)
    while futures[0].receipt is None:
        time.sleep(0.1)
    yen, ideal = float(futures[0].receipt.yen), YEN_CALLS * YEN_CALL_S * 0.28
    line(
        f"yen of {YEN_CALLS} calls of {YEN_CALL_S} s on h100-80gb",
        f"{yen:.2f}",
        f"{1.05 * ideal:.2f}",
        f"{yen / ideal:.3f} x {ideal:.2f}",
    )
    started = time.perf_counter()
    assert sum(nothing.map(range(100_000), progress=False)) == sum(range(100_000))
    line("map of 100,000 no-ops", f"{time.perf_counter() - started:.1f} s", "60 s", "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line("this process's most memory, emulator and store within", f"{peak:.0f} MiB", "500 MB", "")


if __name__ == "__main__":
    main()
