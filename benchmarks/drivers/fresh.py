"""Workloads whose processes are fresh, which are the same for all systems: an import, and a first result."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Job, Workload, environment

# The script has its result.
_THERE = "there"


def imports(code: str) -> Workload:
    """Make the workload `import`: how much longer than `python -c pass` a process takes that imports something."""

    def workload(job: Job) -> None:
        bare = [_process("-c", "pass") for _ in range(2)]
        _process("-c", code)  # compiles what has not been compiled yet
        bare.clear()
        whole: list[float] = []
        with job.measured():
            for _ in range(job.n):
                bare.append(_process("-c", "pass"))
                whole.append(_process("-c", code))
        job.more = {"bare_ms": 1000 * statistics.median(bare), "whole_ms": 1000 * statistics.median(whole)}
        job.each = [taken - beside for taken, beside in zip(whole, bare, strict=True)]

    return workload


def first(code: str) -> Workload:
    """Make the workload `first`: from a process's start until it has the result of a call.

    Args:
        code: definitions, a line `---`, and a call whose result is waited for.
    """

    def workload(job: Job) -> None:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "first_result.py")
            script.write_text(_guarded(code))
            _until_there(script)  # compiles what has not been compiled yet
            ends = []
            with job.measured():
                for _ in range(job.n):
                    there, end = _until_there(script)
                    job.each.append(there)
                    ends.append(end)
        job.more = {"until_end_ms": 1000 * statistics.median(ends)}

    return workload


def _guarded(code: str) -> str:
    # What starts its workers anew imports the script in each of them.
    definitions, _, work = code.strip().partition("\n---\n")
    body = "\n".join(f"    {line}" for line in [*work.splitlines(), f"print('{_THERE}', flush=True)"])
    return f"{definitions}\nif __name__ == '__main__':\n{body}\n"


def _until_there(script: Path) -> tuple[float, float]:
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=script.parent,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == _THERE:
                break
        there = time.perf_counter() - started
        child.stdout.read()
        if child.wait() != 0:
            errors.seek(0)
            raise SystemExit(f"the script failed: {errors.read()[-2000:]}")
    return there, time.perf_counter() - started


def _process(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, env=environment(), stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
