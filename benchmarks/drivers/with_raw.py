"""The raw limits: an interpreter, a container, and the same bytes through the same object store by hand.

python with_raw.py array --size 256MiB
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import urllib.parse
from typing import Any

from measure import COPIES, Job, Unsupported, array_of, environment, main, stores, touch
from stores import client

# Any image that has Python; `.ci/containers` brings one.
IMAGE = "DOKRUN_BENCH_IMAGE"
_PATIENCE_S = 600.0


def python(job: Job) -> None:
    """Run `python3 -c pass`."""
    _run(job, [sys.executable, "-c", "pass"])


def container(job: Job) -> None:
    """Run it in a container, with this machine's network."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        raise Unsupported("no container engine answers")
    mirror = os.environ.get("DOKRUN_HUB_MIRROR", "docker.io")
    image = os.environ.get(IMAGE, f"{mirror}/library/python:3.11-slim")
    command = ["docker", "run", "--rm", "--network", "host", image, "python3", "-c", "pass"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise Unsupported(f"{image} cannot be run; set {IMAGE} to an image that has python3")
    _run(job, command)


def _run(job: Job, command: list[str]) -> None:
    with job.measured():
        for _ in range(job.n):
            with job.step():
                subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)


def array(job: Job) -> None:
    """PUT an array's bytes to a presigned address and GET them from there, and once more, as a result would go."""
    with stores("--store", job.store) as told:
        store: Any = client(told)
        touch(job.size, COPIES)
        data = memoryview(array_of(job.size)).cast("B")
        addresses = [
            store.generate_presigned_url(f"{method}_object", Params={"Bucket": told["bucket"], "Key": key})
            for key in ("argument", "result")
            for method in ("put", "get")
        ]
        with job.measured():
            _put(addresses[0], data)
            got = _get(addresses[1])
            _put(addresses[2], got)
            assert _get(addresses[3])[:8] == data[:8]
        job.requests = len(addresses)


def _put(address: str, data: Any) -> None:
    connection, path = _connected(address)
    connection.request("PUT", path, data, {"Content-Length": str(len(data))})
    response = connection.getresponse()
    response.read()
    assert response.status == http.client.OK, response.status
    connection.close()


def _get(address: str) -> memoryview:
    connection, path = _connected(address)
    connection.request("GET", path)
    response = connection.getresponse()
    data, there = memoryview(bytearray(response.length or 0)), 0
    while there < len(data):
        there += response.readinto(data[there:])
    connection.close()
    return data


def _connected(address: str) -> tuple[http.client.HTTPConnection, str]:
    parts = urllib.parse.urlsplit(address)
    return http.client.HTTPConnection(parts.netloc, timeout=_PATIENCE_S), f"{parts.path}?{parts.query}"


def boto3(job: Job) -> None:
    """Do the same as a program would that has the store's keys: boto3's `put_object` and `get_object`."""
    with stores("--store", job.store) as told:
        store: Any = client(told)
        touch(job.size, COPIES)
        data = array_of(job.size).tobytes()
        with job.measured():
            for key in ("argument", "result"):
                store.put_object(Bucket=told["bucket"], Key=key, Body=data)
                data = store.get_object(Bucket=told["bucket"], Key=key)["Body"].read()
        job.requests = 4


if __name__ == "__main__":
    main("raw", None, {"python": python, "container": container, "array": array, "boto3": boto3}, {})
