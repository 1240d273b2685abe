"""Print what the emulator bears: requests with 10,000 tasks recorded, their memory, and a line of short tasks.

python benchmarks/emulator.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dokrun.api import Client, models

TASKS = 10_000
REQUESTS = 300
SHORT = 100


@contextmanager
def emulator() -> Iterator[tuple[Client, int]]:
    """Start `dokrun emulator` as a process of its own; tell a client and its pid."""
    command = [str(Path(sys.executable).with_name("dokrun")), "emulator"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        url, token, secret = (process.stdout.readline().strip().partition("=")[2] for _ in range(3))
        try:
            with Client(token, secret, base_url=url) as client:
                yield client, process.pid
        finally:
            process.terminate()


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else float("nan")


def task(*command: str) -> models.CreateTaskRequest:
    container = models.ContainerRequest("any", list(command[1:]), [command[0]], "v100-32gb")
    return models.CreateTaskRequest("bench", [container], ["bench"], 600)


def per_second(action: object, count: int) -> float:
    assert callable(action)
    started = time.perf_counter()
    for _ in range(count):
        action()
    return count / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    with emulator() as (client, pid):
        bare = memory_mib(pid)
        empty = per_second(client.plans.list, REQUESTS)
        client.tasks.create(task("sleep", "600"))
        for _ in range(TASKS):
            client.tasks.create(task("true"))
        lists = per_second(lambda: client.tasks.list(page_size=100), REQUESTS)
        held = memory_mib(pid)
    with emulator() as (client, _):
        started = time.perf_counter()
        for _ in range(SHORT):
            last = client.tasks.create(task("true"))
        while not client.tasks.get(last.id).ended:
            threading.Event().wait(0.01)
        line_s = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(SHORT):
            subprocess.run(["true"], check=True)
        bare_s = time.perf_counter() - started
    print(f"{f'emulator, {TASKS:,} tasks recorded':<44}{'':>9}{'aim':>9}")
    print(f"{'GET /tasks/ with 100 on a page, per second':<44}{lists:>9.0f}{500:>9}   GET /plans/: {empty:.0f}")
    print(f"{'memory, MiB':<44}{held:>9.0f}{150:>9}   with no task: {bare:.0f}")
    print(f"{f'{SHORT} tasks of `true` through one slot, s':<44}{line_s:>9.2f}{5:>9}   run here: {bare_s:.2f}")


if __name__ == "__main__":
    main()
