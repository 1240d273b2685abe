"""What all drivers share: one command line, one line of JSON, and how time, memory, bytes and requests are measured.

    python with_ray.py map --n 1000
    {"system": "ray", "workload": "map", "n": 1000, "seconds": 0.65, ...}

Standard library only: each driver runs in the environment of its system. What Linux does not tell is null:
`memory_mib`, the most that the driver and all its child processes held at once, each shared page counted once;
`client_mib`, the most of the driver alone, and `client_before_mib`, what that held when the measured part began;
`bytes_moved`, over loopback sockets, both ways, headers too, where nobody else uses them, as in a network namespace of
the runner's.
"""

from __future__ import annotations

import argparse
import json
import logging
import mmap
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import proc

MIB = 1 << 20
UNITS = {"KiB": 1 << 10, "MiB": MIB, "GiB": 1 << 30}
# Set by the runner, where loopback is its alone.
ALONE = "DOKRUN_BENCH_ALONE"
# A folder for all that a driver leaves, which the runner removes, however the driver ends.
FOLDER = "DOKRUN_BENCH_FOLDER"
# The interpreter that has what `stores.py` needs, for drivers that run in another environment.
PYTHON = "DOKRUN_BENCH_PYTHON"
_STORES = Path(__file__).with_name("stores.py")
_PAGE = mmap.PAGESIZE
# Of a large array: an argument and a result, each once at whoever calls, on its way, and where it is computed.
COPIES = 6
# A system that has more in files, and not on its disk yet, stops for that.
_MOST_IN_FILES = 3 << 29


class Unsupported(Exception):
    """The system cannot do this, for the reason that is told."""


@dataclass
class Job:
    """What is to be done, and what was measured of it.

    Attributes:
        n: how many calls, or what the workload says.
        size: bytes of an array.
        store: which object store.
        each: seconds of the single steps.
        more: what else is worth telling.
        requests: how many there were, where they can be counted.
    """

    n: int
    size: int
    store: str
    each: list[float] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    requests: int | None = None
    taken: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure what is done in the block, all of it together."""
        proc.forget_peak()
        before = proc.status("VmRSS")
        watching = proc.Watching()
        moved = proc.loopback_bytes() if ALONE in os.environ else 0
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.taken = {
            "seconds": seconds,
            "memory_mib": watching.most_mib(),
            "client_mib": proc.status("VmHWM"),
            "client_before_mib": before,
            "bytes_moved": proc.loopback_bytes() - moved if ALONE in os.environ else None,
        }

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure one step of many."""
        started = time.perf_counter()
        yield
        self.each.append(time.perf_counter() - started)

    def told(self) -> dict[str, Any]:
        """Tell all of it."""
        half, most = _quantiles(self.each)
        return {**self.taken, "p50_ms": half, "p95_ms": most, "requests": self.requests, **self.more}


Workload = Callable[[Job], None]


def main(
    system: str,
    distribution: str | None,
    workloads: Mapping[str, Workload],
    cannot: Mapping[str, str],
    close: Callable[[], object] = lambda: None,
) -> None:
    """Do what the command line says, and print a line of JSON for each workload.

    Args:
        system: whose driver this is.
        distribution: the package whose version is told.
        workloads: what it can do, by name.
        cannot: what it cannot do, and why.
        close: called after each workload, before the folders go.
    """
    parser = argparse.ArgumentParser(description=f"Run workloads on {system}, and print a line of JSON for each.")
    parser.add_argument("workloads", nargs="+", choices=sorted({*workloads, *cannot}), metavar="WORKLOAD")
    parser.add_argument("--n", type=int, default=100, help="how many calls")
    parser.add_argument("--size", type=size_of, default=0, help="of an array, as in 64MiB")
    parser.add_argument(
        "--store", choices=("moto", "seaweedfs"), default="moto", help="which S3 server, if one is used"
    )
    told = parser.parse_args()
    version = platform.python_version() if distribution is None else metadata.version(distribution)
    proc.adopt_orphans()
    with _home():
        for name in told.workloads:
            job = Job(told.n, told.size, told.store)
            line = {"system": system, "workload": name, "n": job.n, "size": job.size, "store": job.store}
            try:
                line |= {"version": version, **_done(job, workloads, name, cannot)}
            except Unsupported as error:
                line |= {"version": version, "unsupported": str(error)}
            close()
            print(json.dumps(line), flush=True)


def _done(job: Job, workloads: Mapping[str, Workload], name: str, cannot: Mapping[str, str]) -> dict[str, Any]:
    if name in cannot:
        raise Unsupported(cannot[name])
    workloads[name](job)
    return job.told()


@contextmanager
def _home() -> Iterator[None]:
    """Have all that is looked up or kept in the user's folders be in one that is empty, and goes."""
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[name]
    with _folder() as folder:
        # The environment is as if activated, since some begin their workers by name; which find `work` where we are.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        os.environ |= {"HOME": folder, "TMPDIR": folder, "PATH": path, "PYTHONPATH": str(Path(__file__).parent)}
        tempfile.tempdir, before = folder, Path.cwd()
        os.chdir(folder)
        yield
        os.chdir(before)


def _folder() -> AbstractContextManager[str]:
    if FOLDER in os.environ:
        return nullcontext(os.environ[FOLDER])
    return tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)


class Counter(logging.Handler):
    """Counts the requests that logs tell of, in this process."""

    def __init__(self, *loggers: str) -> None:
        super().__init__(logging.DEBUG)
        self.count = 0
        for name in loggers:
            logging.getLogger(name).addHandler(self)
            logging.getLogger(name).setLevel(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        """Count one, if the record is of one."""
        self.count += "HTTP/1.1" in record.getMessage() or " -> " in record.getMessage()


def size_of(text: str) -> int:
    """Tell how many bytes «64MiB» are."""
    for unit, size in UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * size)
    return int(text)


def environment() -> dict[str, str]:
    """Tell the environment for child processes, as users have it.

    Whoever sets PYTHONDONTWRITEBYTECODE, as many images do, has every import compiled anew in each process, which
    doubles the time that it takes. A user's machine does not.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


# Data, and where it lies.


def array_of(size: int) -> Any:
    """Make an array of random numbers, another one each time. It holds memory that has been touched before."""
    import numpy as np

    return np.random.default_rng().random(max(1, size // 8))


def touch(size: int, times: int) -> None:
    """Use memory, of this process and for files, and give it back, just before a large array needs it.

    A virtual machine's host takes free pages back after a while, and hands them out again slowly: what is measured then
    is the host. Those for files are other ones than those for processes, since files take many at a time.

    Raises:
        Unsupported: there is not so much.
    """
    wanted, free_mib = size * times, proc.memory_available()
    if wanted > free_mib * MIB:
        raise Unsupported(f"needs {wanted >> 30} GiB of memory, and {free_mib / 1024:.0f} are free")
    if wanted >= MIB:
        with mmap.mmap(-1, wanted) as held:
            for page in range(0, wanted, _PAGE):
                held[page] = 1
        with tempfile.TemporaryFile(buffering=0) as file:
            for _ in range(0, min(wanted, _MOST_IN_FILES), MIB):
                file.write(bytes(MIB))


@contextmanager
def stores(*arguments: str) -> Iterator[dict[str, str]]:
    """Start an S3 server, and with `--dok` an emulator, in a process apart; tells where they are."""
    command = [os.environ.get(PYTHON, sys.executable), str(_STORES), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        told = json.loads(line or '{"unsupported": "the object store did not start"}')
        try:
            if "unsupported" in told:
                raise Unsupported(told["unsupported"])
            yield told
        finally:
            process.stdin.close()


def _quantiles(seconds: list[float]) -> tuple[float | None, float | None]:
    if not seconds:
        return None, None
    if len(seconds) == 1:
        return 1000 * seconds[0], 1000 * seconds[0]
    return 1000 * statistics.median(seconds), 1000 * statistics.quantiles(seconds, n=20, method="inclusive")[18]
