"""What is run, at which sizes, and which figures that gives, with our aims: on two processors, profile `local`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
OURS = ("dokrun", "raw")
PEERS = ("pool", "joblib", "executorlib", "ray", "dask", "parsl", "submitit", "lithops", "lithops-s3")
POOLED = ("dokrun", *PEERS)
# Those that the same S3 server serves.
STORED = ("dokrun", "raw", "lithops-s3")
FIRST_ARRAY, LARGE = 256, 2048


@dataclass(frozen=True)
class Case:
    """One workload at one size.

    Attributes:
        workload: as the drivers know it.
        name: what figures call it; the workload's own, if nothing is said.
        n: how many calls, or what the workload says.
        size: bytes of an array.
        store: which S3 server.
        systems: whose drivers are run.
        rounds: in how many rounds at most: what takes minutes is not done again and again.
    """

    workload: str
    name: str = ""
    n: int = 100
    size: int = 0
    store: str = "moto"
    systems: tuple[str, ...] = ("dokrun",)
    rounds: int = 99

    @property
    def key(self) -> str:
        """What figures call it."""
        return self.name or self.workload

    def is_no_less(self, other: Case) -> bool:
        """Whether it is the same, or more of the same: what cannot do the one will not do the other."""
        same = (self.workload, self.store) == (other.workload, other.store)
        return same and self.n >= other.n and self.size >= other.size


MAPS = (10, 100, 1_000, 10_000, 100_000)
ARRAYS = {"1 KiB": KIB, "32 KiB": 32 * KIB, "1 MiB": MIB, "32 MiB": 32 * MIB, "256 MiB": 256 * MIB, "2 GiB": 2 * GIB}

CASES = (
    Case("python", n=10, systems=("raw",)),
    Case("container", n=5, systems=("raw",)),
    Case("import", n=10, systems=POOLED),
    Case("help", n=5),
    Case("first", n=3, systems=POOLED),
    Case("calls", n=100, systems=POOLED),
    *(Case("map", f"map {n:,}", n=n, systems=POOLED) for n in MAPS),
    Case("early", n=1_000),
    *(
        Case("array", f"array {name}", size=size, systems=(*POOLED, "raw"), rounds=99 if size < GIB else 1)
        for name, size in ARRAYS.items()
    ),
    Case("boto3", size=256 * MIB, systems=("raw",)),
    Case("array", "array 256 MiB, seaweedfs", size=256 * MIB, store="seaweedfs", systems=STORED),
    Case("shared", n=20, size=64 * MIB, systems=POOLED),
    Case("session", n=500, systems=POOLED),
    Case("straight", n=500),
    Case("flight", n=1_000, systems=POOLED),
    Case("session-array", size=256 * MIB),
    Case("start", n=15),
    Case("start-carried", n=15),
    Case("image", n=15),
    Case("emulator", n=10_000, rounds=1),
    Case("yen", n=100, rounds=1),
    Case("wait", n=120, rounds=1),
)

# What one round has measured: by the case and the system.
Round = Mapping[tuple[str, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Figure:
    """A figure of dokrun's that has an aim.

    Attributes:
        what: in words.
        unit: likewise.
        aim: the most that it shall be, or the least, where `more` is better.
        of: takes it from a round; KeyError or TypeError where that has not measured it.
    """

    what: str
    unit: str
    aim: float
    of: Callable[[Round], float]
    more: bool = False


def _of(case: str, field: str, system: str = "dokrun", by: float = 1.0) -> Callable[[Round], float]:
    return lambda taken: float(taken[case, system][field]) / by


def _over(case: str, field: str, beside: tuple[str, str, str]) -> Callable[[Round], float]:
    return lambda taken: float(taken[case, "dokrun"][field]) / float(taken[beside[0], beside[1]][beside[2]])


def _ahead(taken: Round) -> float:
    others = [float(taken["map 1,000", peer]["seconds"]) for peer in ("ray", "dask", "parsl")]
    return float(taken["map 1,000", "dokrun"]["seconds"]) / min(others)


def _client_memory(taken: Round) -> float:
    """Tell what the client held of an argument and its result, over both; the argument is there from the start."""
    told = taken["array 256 MiB", "dokrun"]
    grown = float(told["client_mib"]) - float(told["client_before_mib"])
    return (grown + FIRST_ARRAY) / (2 * FIRST_ARRAY)


def _yen(taken: Round) -> float:
    told = taken["yen", "dokrun"]
    return float(told["yen"]) / float(told["ideal_yen"])


FIGURES = (
    Figure("import dokrun, over a bare interpreter", "ms", 30, _of("import", "p50_ms")),
    Figure("dokrun --help", "ms", 150, _of("help", "whole_ms")),
    Figure("first result in a fresh process", "s", 1.0, _of("first", "p50_ms", by=1000)),
    Figure("one call, its own task, p50", "ms", 150, _of("calls", "p50_ms")),
    Figure("map of 1,000 no-ops", "s", 0.5, _of("map 1,000", "seconds")),
    Figure("the same, over the fastest of ray, dask and parsl", "x", 1.0, _ahead),
    Figure("requests of the client for each of 1,000", "", 0.1, _of("map 1,000", "requests", by=1000)),
    Figure("map of 100,000 no-ops", "s", 20, _of("map 100,000", "seconds")),
    Figure("its process", "MB", 300, _of("map 100,000", "client_mib", by=1e6 / MIB)),
    Figure("first result of 1,000, after its call's end", "ms", 1000, _of("early", "p50_ms")),
    Figure(
        "256 MiB there and back, over a presigned PUT and GET each way",
        "x",
        1.2,
        _over("array 256 MiB", "seconds", ("array 256 MiB", "raw", "seconds")),
    ),
    Figure(
        "the same, on SeaweedFS",
        "x",
        1.2,
        _over("array 256 MiB, seaweedfs", "seconds", ("array 256 MiB, seaweedfs", "raw", "seconds")),
    ),
    Figure("the client's memory, over argument and result", "x", 1.1, _client_memory),
    Figure("uploaded for 20 calls with the same 64 MiB", "MiB", 65, _of("shared", "uploaded_mib")),
    Figure("a warm session's call, p50, straight", "ms", 1.5, _of("straight", "p50_ms")),
    Figure("the same, through the emulator's proxy", "ms", 4, _of("session", "p50_ms")),
    Figure("1,000 warm calls, 32 in flight", "s", 0.5, _of("flight", "seconds")),
    Figure(
        "256 MiB to a session and back, straight, over joblib",
        "x",
        0.75,
        _over("session-array", "seconds", ("array 256 MiB", "joblib", "seconds")),
    ),
    Figure("container's start until the function runs, over python3 -c", "ms", 100, _of("start", "p50_ms")),
    Figure("the same, carried in the command", "ms", 100, _of("start-carried", "p50_ms")),
    Figure("the shim as it travels", "KiB", 64, _of("start-carried", "shim_kib")),
    Figure("deciding that an image need not be built", "ms", 100, _of("image", "p50_ms")),
    Figure("requests for that", "", 1, _of("image", "requests")),
    Figure("an hour's wait for one task: requests", "", 1000, _of("wait", "requests_an_hour")),
    Figure("the same: processor time", "s", 5, _of("wait", "cpu_s_an_hour")),
    Figure("yen of 100 two-second calls on h100-80gb, over the ideal", "x", 1.05, _yen),
    Figure("emulator with 10,000 tasks: GET /tasks/ a second", "", 500, _of("emulator", "lists_per_s"), more=True),
    Figure("the same: memory", "MiB", 150, _of("emulator", "held_mib")),
    Figure("100 tasks of `true` through its one slot", "s", 5, _of("emulator", "line_s")),
)


@dataclass(frozen=True)
class Row:
    """What stands side by side for all systems."""

    what: str
    case: str
    field: str
    unit: str
    by: float = 1.0


ROWS = (
    Row("`python3 -c pass`", "python", "p50_ms", "ms"),
    Row("the same in a container", "container", "p50_ms", "ms"),
    Row("import, over a bare interpreter", "import", "p50_ms", "ms"),
    Row("first result in a fresh process", "first", "p50_ms", "s", 1000),
    Row("calls one by one, p50", "calls", "p50_ms", "ms"),
    Row("the same, p95", "calls", "p95_ms", "ms"),
    *(Row(f"map of {n:,}", f"map {n:,}", "seconds", "s") for n in MAPS),
    Row("memory for 100,000, all processes", "map 100,000", "memory_mib", "MiB"),
    *(Row(f"array of {name} there and back", f"array {name}", "seconds", "s") for name in ARRAYS),
    Row("memory for 256 MiB, all processes", "array 256 MiB", "memory_mib", "MiB"),
    Row("over sockets for 256 MiB", "array 256 MiB", "bytes_moved", "MiB", MIB),
    Row("the same by boto3's put and get", "boto3", "seconds", "s"),
    Row("256 MiB there and back, on SeaweedFS", "array 256 MiB, seaweedfs", "seconds", "s"),
    Row("256 MiB to a session and back, straight", "session-array", "seconds", "s"),
    Row("20 calls that share 64 MiB", "shared", "seconds", "s"),
    Row("over sockets for that", "shared", "bytes_moved", "MiB", MIB),
    Row("warm calls one by one, p50", "session", "p50_ms", "ms"),
    Row("the same, p95", "session", "p95_ms", "ms"),
    Row("a bare request to the same port", "session", "request_ms", "ms"),
    Row("warm calls, straight, p50", "straight", "p50_ms", "ms"),
    Row("a bare request to that port", "straight", "request_ms", "ms"),
    Row("1,000 warm calls, 32 in flight", "flight", "seconds", "s"),
    Row("`python3 -c` as a container starts it", "start", "bare_ms", "ms"),
    Row("a bare request to the registry of the image", "image", "request_ms", "ms"),
    Row("two minutes' wait for one task: requests", "wait", "requests", "requests"),
    Row("the same: processor time", "wait", "cpu_s", "s"),
    Row("the emulator with no task: GET /plans/", "emulator", "plans_per_s", "a second"),
    Row("the same: memory", "emulator", "bare_mib", "MiB"),
    Row("100 times `true`, run here", "emulator", "here_s", "s"),
)
