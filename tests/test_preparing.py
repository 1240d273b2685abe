"""Calls of several functions become one job: each runs as itself, for as long as it may."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sites import Site, site
from test_shim import Container

from dokrun.engine.prepare import Job, Preparing
from dokrun.engine.target import Target
from dokrun.options import Options
from dokrun.payload.source import Origin, collect
from dokrun.shim.envelope import pack

__all__ = ["site"]


def target(function: Callable[..., Any]) -> Target:
    return Target(function, inspect.signature(function), function.__name__)


def prepared(*calls: tuple[Callable[..., Any], Any, float | None]) -> Job:
    preparing = Preparing(target(calls[0][0]), "v100-32gb", Options(timeout_s=40.0))
    for function, argument, timeout_s in calls:
        preparing.turn_to(target(function), timeout_s)
        preparing.add((argument,), {})
    assert preparing.calls == len(calls)
    return preparing.job()


def test_calls_of_several_functions_run_in_one_container_in_their_order(tmp_path: Path, site: Site) -> None:
    def double(number: int) -> int:
        return 2 * number

    def say(text: str) -> str:
        return f"{text}!"

    container = Container(tmp_path, site)
    job = prepared((double, 1, None), (double, 2, None), (say, "so", None), (double, 3, None))
    container.give(pack(dict(job.header), job.segments))
    container.run()
    assert [container.value(number) for number in range(4)] == [2, 4, "so!", 6]
    counts = [(each["count"], each["function"]) for each in job.header["calls"]]
    assert counts == [(2, 0), (1, 1), (1, 0)], "what follows one another is a pack, and a function is there once"


def test_each_call_has_its_own_timeout_and_the_job_the_longest(tmp_path: Path, site: Site) -> None:
    def take(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    container = Container(tmp_path, site)
    job = prepared((take, 0.0, 50.0), (take, 60.0, 0.2), (take, 0.1, None))
    assert [each["timeout_s"] for each in job.header["calls"]] == [50.0, 0.2, 40.0]
    assert job.timeout_s == 50.0
    container.give(pack(dict(job.header), job.segments))
    container.run()
    assert container.failed(1)["reason"] == "timeout"
    assert (container.value(0), container.value(2)) == (0.0, 0.1)


@pytest.mark.parametrize("first", ["alpha", "beta"])
def test_the_files_of_every_function_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("alpha", "beta"):
        (tmp_path / f"{name}.py").write_text("def run():\n    pass\n")
    second = {"alpha": "beta", "beta": "alpha"}[first]
    origins = [Origin(first, "run", by_name=True), Origin(second, "run", by_name=True)]
    found = collect([first, second], origins)
    assert [file.name for file in found.files] == ["alpha.py", "beta.py"]
    assert {file.reason for file in found.files} == {"module of run"}
