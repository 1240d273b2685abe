"""dokrun's driver: what users write, with the public API, on the profile `local`.

python with_dokrun.py map --n 1000

Where a client's own memory, time or requests are measured, the emulator and the object store are in another process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import parts
from fresh import first, imports
from measure import COPIES, MIB, Counter, Job, array_of, main, stores, touch
from pools import in_flight
from stores import client

import dokrun as dok
from dokrun import config, engine
from dokrun.api import Client

YEN_PLAN, YEN_CALL_S = "h100-80gb", 2.0
HOUR_S = 3600.0
# So many calls come one after another before something else does.
IN_A_ROW = 25
# Between these parts of a long wait nothing happens but that it goes on.
STEADY = (0.5, 0.95)

FIRST = """
import dokrun as dok
@dok.remote(plan="v100-32gb", profile="local")
def nothing(): pass
---
nothing().result()
"""
# As the program `dokrun` begins, whose folder need not be on the PATH.
HELP = """
import os, sys
sys.argv, sys.stdout = ["dokrun", "--help"], open(os.devnull, "w")
from dokrun.cli import main
main()
"""

remote = dok.remote(plan="v100-32gb", timeout=3600)


@remote
def nothing(number: int) -> int:
    """Return what it is given."""
    return number


@remote
def same(array: Any) -> Any:
    """Return what it is given."""
    return array


@remote
def first_of(array: Any, _number: int) -> float:
    """Look at an array."""
    return float(array[0])


@remote
def nap(seconds: float) -> float:
    """Take a while. Tells when it was over."""
    time.sleep(seconds)
    return time.time()


def counter() -> Counter:
    """Count this process's requests to DOK and to the bucket."""
    return Counter("dokrun.api", "urllib3.connectionpool")


@contextmanager
def apart(job: Job, *how: str) -> Iterator[dict[str, str]]:
    """Have calls go to an emulator and an object store in another process."""
    with stores("--dok", "--store", job.store, *how) as told:
        names = {"ACCESS_TOKEN": "token", "ACCESS_TOKEN_SECRET": "secret", "API_URL": "api_url", "BUCKET": "bucket"}
        names |= {"S3_ENDPOINT_URL": "s3", "S3_ACCESS_KEY_ID": "key", "S3_SECRET_ACCESS_KEY": "secret_key"}
        profile = os.environ.pop("DOKRUN_PROFILE")
        os.environ.update({f"DOKRUN_{name}": told[key] for name, key in names.items()})
        yield told
        engine.reset()  # while there is somebody who answers it
        for name in names:
            del os.environ[f"DOKRUN_{name}"]
        os.environ["DOKRUN_PROFILE"] = profile


def tell_time() -> None:
    """Print this machine's monotonic clock, which all of its processes share."""
    print(time.monotonic())


# A task of its own for each call, or for each map.


def calls(job: Job) -> None:
    """Make calls one by one; each is a task."""
    nothing(0).result()
    requests = counter()
    with job.measured():
        for number in range(job.n):
            with job.step():
                nothing(number).result()
    job.requests = requests.count


def many(job: Job) -> None:
    """Make a map of no-ops, which is one task."""
    nothing(0).result()
    requests = counter()
    with job.measured():
        assert sum(nothing.map(range(job.n), progress=False)) == sum(range(job.n))
    job.requests = requests.count


def early(job: Job) -> None:
    """Wait for the first result of a map whose calls take a second each: how long after the call's end is it here?"""
    nothing(0).result()
    naps = nap.map([1.0] * job.n, workers=2, progress=False)
    with job.measured():
        ended = next(naps)
        job.each.append(time.time() - ended)
    naps.cancel()


def array(job: Job) -> None:
    """Bring an array there and back, through the object store."""
    with apart(job):
        nothing(0).result()
        touch(job.size, COPIES)
        data = array_of(job.size)
        requests = counter()
        with job.measured():
            assert same(data).result()[0] == data[0]
        job.requests = requests.count


def shared(job: Job) -> None:
    """Make calls that share an array, as one map; tells what the bucket has more of than before."""
    with apart(job) as told:
        nothing(0).result()
        touch(job.size, COPIES)
        data, before, requests = array_of(job.size), _stored(told), counter()
        with job.measured():
            results = first_of.map([data] * job.n, range(job.n), progress=False)
            first_result = next(results)
            # Its outcome is read first, so that what is in the bucket for a while only is there.
            uploaded = _stored(told) - before
            assert [first_result, *results] == [float(data[0])] * job.n
        job.requests = requests.count
        job.more = {"uploaded_mib": uploaded / MIB}


def _stored(told: dict[str, str]) -> int:
    pages: Any = client(told)
    found = pages.get_paginator("list_objects_v2").paginate(Bucket=told["bucket"])
    return sum(one["Size"] for page in found for one in page.get("Contents", ()))


def yen(job: Job) -> None:
    """Make calls of two seconds each: what are they billed, and what would their seconds alone be?"""
    with job.measured():
        working = nap.options(plan=YEN_PLAN).map([YEN_CALL_S] * job.n, progress=False)
        futures = working.futures
        list(working)
    while (receipt := futures[0].receipt) is None:
        time.sleep(0.1)
    ideal = job.n * YEN_CALL_S * float(dok.prices()[YEN_PLAN].yen_per_second)
    job.more = {"yen": float(receipt.yen), "ideal_yen": ideal}


def wait(job: Job) -> None:
    """Wait for one task that takes `n` seconds: requests and processor seconds, and what an hour would take.

    The pace between the middle and nearly the end is taken for that of the rest of the hour: from half a minute on, the
    engine asks as often as it ever will. What is asked at the task's beginning and end counts once.
    """
    looks: list[tuple[float, int, float]] = []
    with apart(job):
        nothing(0).result()
        requests = counter()
        started, cpu_s = time.monotonic(), time.process_time()

        def look() -> None:
            looks.append((time.monotonic() - started, requests.count, time.process_time() - cpu_s))

        timers = [threading.Timer(part * job.n, look) for part in STEADY]
        for timer in timers:
            timer.start()
        with job.measured():
            nap(float(job.n)).result()
        for timer in timers:
            timer.join()
        look()
    (from_s, *since), (to_s, *until), (whole_s, *whole) = looks
    rest = max(0.0, HOUR_S - whole_s) / (to_s - from_s)
    in_all = [all_of_it + rest * (after - before) for all_of_it, after, before in zip(whole, until, since, strict=True)]
    job.requests = int(whole[0])
    job.more = {"cpu_s": whole[1], "requests_an_hour": in_all[0], "cpu_s_an_hour": in_all[1]}


# A session: one task, and its workers stay warm.


@contextmanager
def warm() -> Iterator[dok.Session]:
    """Open a session, and have calls go to it."""
    with dok.session(plan="v100-32gb", timeout="20m") as session:
        nothing(0).result()
        yield session


def session_calls(job: Job) -> None:
    """Make calls to a session one by one, and bare requests to the same port, in turns of a few of each."""
    with warm() as session:
        url, bare = _address(session), []
        with httpx.Client() as plain, job.measured():
            for first in range(0, job.n, IN_A_ROW):
                for number in range(first, min(first + IN_A_ROW, job.n)):
                    with job.step():
                        nothing(number).result()
                for _ in range(IN_A_ROW):
                    started = time.perf_counter()
                    plain.post(url)
                    bare.append(time.perf_counter() - started)
    job.more = {"request_ms": 1000 * float(np.median(bare))}


def straight(job: Job) -> None:
    """Do the same without the emulator's proxy between."""
    with apart(job, "--straight"):
        session_calls(job)


def _address(session: dok.Session) -> str:
    settings = config.connect(config.load())
    with Client(settings.access_token, settings.access_token_secret.reveal(), base_url=settings.api_url) as api:
        return str(api.tasks.get(str(session.task_id)).http_uri)


def flight(job: Job) -> None:
    """Make calls to a session, many of them at the same time."""
    with warm(), job.measured():
        in_flight(nothing, lambda future: future.result(), job.n)


def session_array(job: Job) -> None:
    """Bring an array to a session and back, without the emulator's proxy between."""
    with apart(job, "--straight"), warm():
        touch(job.size, COPIES)
        data = array_of(job.size)
        with job.measured():
            assert same(data).result()[0] == data[0]


WORKLOADS = {
    "import": imports("import dokrun"),
    "help": imports(HELP),
    "first": first(FIRST),
    "calls": calls,
    "map": many,
    "early": early,
    "array": array,
    "shared": shared,
    "session": session_calls,
    "straight": straight,
    "flight": flight,
    "session-array": session_array,
    "yen": yen,
    "wait": wait,
    "start": parts.start(tell_time, carried=False),
    "start-carried": parts.start(tell_time, carried=True),
    "image": parts.image,
    "emulator": parts.emulator,
}

if __name__ == "__main__":
    # No setting of whoever measures.
    for name in [name for name in os.environ if name.startswith(("DOKRUN_", "SAKURA")) and "_BENCH_" not in name]:
        del os.environ[name]
    os.environ["DOKRUN_PROFILE"] = "local"
    main("dokrun", "dokrun", WORKLOADS, {}, engine.reset)
