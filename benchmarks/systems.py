"""Where the drivers run: an environment for each peer, and a network that has nothing but loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "drivers"))
import proc
from measure import ALONE, FOLDER, PYTHON, environment
from plan import Case

TOP = Path(__file__).parent.parent
DRIVERS = TOP / "benchmarks" / "drivers"
REQUIREMENTS = TOP / "benchmarks" / "peers"
ENVIRONMENTS = TOP / ".bench"
# Whoever takes longer is not waited for.
LIMIT_S = 300.0
# Has an environment of its own, but is no system: the second S3 server.
SEAWEEDFS = "seaweedfs"
# Whose driver runs in whose environment; the others in this one.
_ENVIRONMENT_OF = {
    "joblib": "joblib",
    "executorlib": "executorlib",
    "ray": "ray",
    "dask": "dask",
    "parsl": "parsl",
    "submitit": "submitit",
    "lithops": "lithops",
    "lithops-s3": "lithops",
}


def install() -> None:
    """Make the environments that are not there yet, or not as they are wanted now; say which cannot be made."""
    for name in sorted({*_ENVIRONMENT_OF.values(), SEAWEEDFS}):
        wanted, folder = REQUIREMENTS / f"{name}.txt", ENVIRONMENTS / name
        made_of = folder / "made-of.txt"
        if made_of.exists() and made_of.read_text() == wanted.read_text():
            continue
        print(f"installing {name}", file=sys.stderr)
        try:
            _make(folder, wanted)
        except subprocess.CalledProcessError:
            print(f"{name} could not be installed, and is left out", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
        else:
            made_of.write_text(wanted.read_text())


def _make(folder: Path, wanted: Path) -> None:
    """Make an environment with this interpreter: with uv where it is there, else with venv and pip."""
    requirements, uv = ["install", "--quiet", "--requirement", str(wanted)], shutil.which("uv")
    if uv is None:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *requirements])
    else:
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        _run([uv, "pip", *requirements, "--compile-bytecode"], VIRTUAL_ENV=str(folder))


def _run(command: list[str], **more: str) -> None:
    subprocess.run(command, check=True, env={**environment(), **more})


def is_apart() -> bool:
    """Whether this program runs in a network namespace that has only loopback."""
    return ALONE in os.environ


def way_apart() -> list[str] | None:
    """Find what has a command run in such a namespace; None where there can be none."""
    up = ["sh", "-c", 'ip link set lo up && exec "$0" "$@"']
    for how in (["--net"], ["--user", "--map-root-user", "--net"]):
        way = ["unshare", *how, *up]
        try:
            if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:
                return way
        except FileNotFoundError:
            pass  # it is Linux's
    return None


def go_apart(way: list[str]) -> None:
    """Begin this program anew in such a namespace."""
    sys.stdout.flush()
    os.execvpe(way[0], [*way, sys.executable, *sys.argv], {**os.environ, ALONE: "1"})


def run(system: str, case: Case, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Run a driver in an interpreter of its own, and tell what it told; `unsupported` says why there is nothing."""
    named = _ENVIRONMENT_OF.get(system)
    python = sys.executable if named is None else str(ENVIRONMENTS / named / "bin" / "python")
    if not Path(python).exists():
        return {"unsupported": "it is not installed"}
    driver = DRIVERS / f"with_{system.replace('-', '_')}.py"
    command = [python, str(driver), case.workload, "--n", str(case.n), "--size", str(case.size), "--store", case.store]
    proc.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        # Some start programs of their own environment by name.
        path = f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        more = {PYTHON: sys.executable, FOLDER: folder, "PATH": path}
        child = subprocess.Popen(
            command,
            env={**environment(), **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            proc.end_children()
            child.communicate()
            return {"unsupported": f"takes more than {limit_s:.0f} s"}
        finally:
            proc.end_children()  # what a driver has left
    return _told(output, errors)


def _told(output: str, errors: str) -> dict[str, Any]:
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            told: dict[str, Any] = json.loads(line)
            return told
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "it told nothing")
    return {"unsupported": f"failed: {last[:200]}"}


def machine() -> Mapping[str, Any]:
    """Tell what machine this is."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    virtual = any(line.startswith("flags") and "hypervisor" in line.split() for line in lines)
    return {
        "processor": models[0] if models else "unknown",
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)),
        "system": f"{os.uname().sysname} {os.uname().release}",
        "virtual": virtual,
    }
