"""What parts of dokrun cost by themselves: a container's start, the look at an image, the emulator."""

from __future__ import annotations

import base64
import hashlib
import http.server
import inspect
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from measure import Job, Workload, environment, stores

import dokrun as dok
from dokrun.api import Client, models
from dokrun.bucket import Bucket
from dokrun.config import BucketSettings, RegistrySettings, Settings
from dokrun.engine.images import Images, Ready
from dokrun.engine.prepare import Preparing
from dokrun.engine.stage import Attempt, stage
from dokrun.engine.target import Target
from dokrun.options import Options
from dokrun.secret import Secret

# The emulator's figures: how many requests, and how many short tasks.
REQUESTS, SHORT = 300, 100
CONFIG = json.dumps({"config": {"Env": [f"PYTHON_VERSION={platform.python_version()}"]}}).encode()
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"digest": f"sha256:{hashlib.sha256(CONFIG).hexdigest()}", "size": len(CONFIG)},
        "layers": [],
    }
).encode()


# A container's start, as a process of this machine: what an engine takes before is the same for every program.


def start(function: Callable[[], None], *, carried: bool) -> Workload:
    """Make a workload: the time until a function runs that prints the monotonic clock, over `python3 -c` of the same.

    Args:
        function: the user's. It is `__main__`'s, so that it is pickled as a script's are.
        carried: whether the command carries all of it, shim included, for want of a bucket; else the shim is fetched
            and the claim is taken, as real calls do.
    """

    def workload(job: Job) -> None:
        if carried:
            _start(job, function, None)
            return
        with stores("--store", job.store) as told:
            secret = Secret(told["secret_key"])
            settings = BucketSettings(told["bucket"], told["s3"], told["region"], told["key"], secret)
            _start(job, function, Bucket(settings))

    return workload


def _start(job: Job, function: Callable[[], None], bucket: Bucket | None) -> None:
    whole, bare = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bin").mkdir()
        (folder / "bin" / "python3").symlink_to(sys.executable)
        with job.measured():
            for _ in range(job.n):
                definition = _definition(function, bucket)
                surroundings = {
                    **environment(),
                    "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
                    **definition.environment,
                    "SAKURA_TASK_ID": "bench",
                    "SAKURA_ARTIFACT_DIR": str(folder / "artifact"),
                }
                code = [*definition.entrypoint, "import time; print(time.monotonic())"]
                bare.append(_until_it_runs(code, surroundings))
                whole.append(_until_it_runs([*definition.entrypoint, *definition.command], surroundings))
    job.each = [taken - beside for taken, beside in zip(whole, bare, strict=True)]
    job.more = {"bare_ms": 1000 * statistics.median(bare)}
    if bucket is None:
        job.more["shim_kib"] = len(base64.b64decode(definition.command[2])) / 1024


def _definition(function: Callable[[], None], bucket: Bucket | None) -> models.ContainerRequest:
    """Stage a job of its own, whose claim nobody has taken yet."""
    target = Target(function, inspect.signature(function), "tell_time")
    preparing = Preparing(target, "v100-32gb", Options())
    preparing.add((), {})
    return stage(preparing.job(), bucket, Ready("any"), "bench", Attempt()).containers[0]


def _until_it_runs(command: list[str], surroundings: dict[str, str]) -> float:
    started = time.monotonic()
    done = subprocess.run(command, env=surroundings, stdout=subprocess.PIPE, text=True, check=True)
    # The shim has its own lines around it.
    return next(float(line) for line in done.stdout.splitlines() if not line.startswith("[dokrun]")) - started


# An image that need not be built.


class Registry(http.server.BaseHTTPRequestHandler):
    """Has every image that it is asked for, and in each of them this Python."""

    asked = 0

    def do_HEAD(self) -> None:
        """Tell a digest."""
        self._answer(MANIFEST)

    def do_GET(self) -> None:
        """Tell a manifest, or what it names."""
        body = MANIFEST if "/manifests/" in self.path else CONFIG
        self._answer(body)
        self.wfile.write(body)

    def _answer(self, body: bytes) -> None:
        Registry.asked += 1
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(body).hexdigest()}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def image(job: Job) -> None:
    """Take the time to decide that an image need not be built, beside a bare request to the same registry."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    wanted = dok.Image.from_registry(f"{host}/library/python:3").pip_install("torch").copy(__file__, "/opt/")
    bare = []
    with tempfile.TemporaryDirectory() as folder, Client("token", "secret") as client:
        settings = Settings("bench", registry=RegistrySettings(f"{host}/team"), state_dir=Path(folder))
        Images(settings, client).ready(wanted)  # an earlier process has seen the base
        with job.measured():
            for _ in range(job.n):
                before, images = Registry.asked, Images(settings, client)
                with job.step():
                    images.ready(wanted)
                job.requests = Registry.asked - before
                started = time.perf_counter()
                httpx.head(f"http://{host}/v2/")
                bare.append(time.perf_counter() - started)
    server.shutdown()
    job.more = {"request_ms": 1000 * statistics.median(bare)}


# The emulator, with many tasks recorded.


def emulator(job: Job) -> None:
    """Take what the emulator bears: requests with `n` tasks recorded, their memory, and a line of short tasks."""
    requests, short = min(REQUESTS, 10 * job.n), min(SHORT, job.n)
    with job.measured():
        with _emulator() as (client, pid):
            bare = _memory_mib(pid)
            empty = _per_second(client.plans.list, requests)
            client.tasks.create(_task("sleep", "600"))
            for _ in range(job.n):
                client.tasks.create(_task("true"))
            lists = _per_second(lambda: client.tasks.list(page_size=100), requests)
            held = _memory_mib(pid)
        with _emulator() as (client, _):
            line_s = 1 / _per_second(lambda: _line_of(client, short), 1)
        here_s = short / _per_second(lambda: subprocess.run(["true"], check=True), short)
    job.more = {"lists_per_s": lists, "plans_per_s": empty, "held_mib": held, "bare_mib": bare}
    job.more |= {"line_s": line_s, "here_s": here_s, "short": short}


@contextmanager
def _emulator() -> Iterator[tuple[Client, int]]:
    """Start `dokrun emulator` as a process of its own; tell a client and its pid."""
    command = [str(Path(sys.executable).with_name("dokrun")), "emulator"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        url, token, secret = (process.stdout.readline().strip().partition("=")[2] for _ in range(3))
        try:
            with Client(token, secret, base_url=url) as client:
                yield client, process.pid
        finally:
            process.terminate()


def _line_of(client: Client, short: int) -> None:
    for _ in range(short):
        last = client.tasks.create(_task("true"))
    while not client.tasks.get(last.id).ended:
        threading.Event().wait(0.01)


def _memory_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def _task(*command: str) -> models.CreateTaskRequest:
    container = models.ContainerRequest("any", list(command[1:]), [command[0]], "v100-32gb")
    return models.CreateTaskRequest("bench", [container], ["bench"], 600)


def _per_second(action: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        action()
    return count / (time.perf_counter() - started)
