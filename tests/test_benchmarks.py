"""The benchmarks are not run here, but each of their workloads still runs, and gives what their figures are made of."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
plan: Any = importlib.import_module("plan")
results: Any = importlib.import_module("results")
# What they need is not there in every place where tests run.
ELSEWHERE = {("raw", "container")}


def run(system: str, workloads: Iterable[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Run a driver's workloads, at sizes that take next to no time."""
    command = [sys.executable, str(BENCHMARKS / "drivers" / f"with_{system}.py"), *sorted(workloads)]
    done = subprocess.run([*command, "--n", "2", "--size", "1KiB"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {(line["system"], line["workload"]): line for line in lines}


@pytest.mark.timeout(300)
def test_every_workload_of_dokrun_and_of_the_raw_limits_runs_and_gives_what_the_figures_are_made_of() -> None:
    wanted = {system: {case.workload for case in plan.CASES if system in case.systems} for system in plan.OURS}
    told = {job: line for system in plan.OURS for job, line in run(system, wanted[system]).items()}
    assert told.keys() == {(system, workload) for system in plan.OURS for workload in wanted[system]}
    unsupported = {job for job, one in told.items() if "unsupported" in one}
    assert unsupported <= ELSEWHERE
    of_systems = {(case.key, name): (name, case.workload) for case in plan.CASES for name in case.systems}
    taken = {cell: told[job] for cell, job in of_systems.items() if job in told}
    missing = [one["what"] for one in results.figures([taken]) if one["verdict"] == results.NOT_MEASURED]
    assert missing == [
        "the same, over the fastest of ray, dask and parsl",
        "256 MiB to a session and back, straight, over joblib",
    ], "these need others, and no figure else"
    rows = {row["what"] for row in results.compared([taken])}
    assert {row.what for row in plan.ROWS if row.field != "bytes_moved"} - rows <= {"the same in a container"}


@pytest.mark.parametrize(
    ("values", "more", "word"),
    [
        ([1.0, 2.0, 3.0], False, "met"),
        ([4.0, 4.5, 6.0], False, "met, narrowly"),
        ([4.0, 5.5, 6.0], False, "missed, narrowly"),
        ([6.0, 7.0], False, "missed"),
        ([6.0, 7.0], True, "met"),
        ([1.0], True, "missed"),
        ([], False, "not measured"),
    ],
)
def test_an_aim_is_met_by_the_median_and_narrowly_where_the_spread_holds_it(
    values: list[float], *, more: bool, word: str
) -> None:
    figure = replace(plan.FIGURES[0], aim=5.0, more=more)
    assert results.verdict(figure, values) == word
