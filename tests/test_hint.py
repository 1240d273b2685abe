"""What is said, once, to whoever sends many calls as a task each where each task is billed for a minute."""

from __future__ import annotations

import re
import subprocess
from decimal import Decimal

import pytest
from places import Place, place, wait_for

from dokrun.cost import Price
from dokrun.engine.hint import hint

__all__ = ["place"]

SWEEP = """
    import os, sys, threading, time
    import dokrun as dok

    @dok.remote(plan="h100-80gb", timeout=120)
    def job(number, gate):
        while not os.path.exists(gate):
            time.sleep(0.01)
        return number

    def hinting():
        return any(thread.name == "dokrun-hint" for thread in threading.enumerate())

    gate = sys.argv[2]
"""


def ended(place: Place, child: subprocess.Popen[str]) -> tuple[str, str]:
    output, errors = child.communicate(timeout=100)
    assert child.returncode == 0, errors
    wait_for(lambda: all(task.ended for task in place.tasks()))
    return output, errors


def test_it_tells_what_the_calls_cost_at_least_and_what_one_task_would() -> None:
    assert hint("train", 12, Price("h100-80gb", Decimal("0.28"), 60)) == (
        "12 calls of train wait as a task each, which is billed 60 s at least: ¥201.60 or more; "
        "train.map(…) makes one task of them, from ¥16.80"
    )


def test_nothing_is_told_of_a_plan_that_is_billed_by_the_second() -> None:
    assert hint("train", 12, Price("v100-32gb", Decimal("0.016"), 1)) is None


def test_many_calls_are_told_of_once_in_a_process(place: Place) -> None:
    child = place.start(
        SWEEP
        + """
    calls = [job(number, gate) for number in range(6)]
    sys.stdin.readline()
    while hinting():  # who has told it may not have ended yet
        time.sleep(0.01)
    calls += [job.options(name="other")(number, gate) for number in range(6)]
    print(hinting())
    """
    )
    assert child.stderr is not None
    assert child.stdin is not None
    told = child.stderr.readline()
    # It waits a second for more calls, which a machine that is busy may not have made by then.
    assert re.match("dokrun: (5|6) calls of job wait as a task each, .* 60 s at least: ¥(84.00|100.80) or more", told)
    child.stdin.write("go on\n")
    child.stdin.flush()
    output, errors = ended(place, child)
    assert output == "False\n"
    assert "wait as a task each" not in errors


@pytest.mark.parametrize("environ", [{"DOKRUN_HINTS": "0"}, {"DOKRUN_PROFILE": "local"}], ids=["unwanted", "local"])
def test_nothing_is_told_where_nobody_wants_to_hear_or_pays(place: Place, environ: dict[str, str]) -> None:
    script = SWEEP + "    calls = [job(number, gate) for number in range(8)]\n    print(hinting())\n"
    output, errors = ended(place, place.start(script, **environ))
    assert output == "False\n"
    assert "wait as a task each" not in errors


@pytest.mark.parametrize("calls", ["[job(number, gate) for number in range(4)]", "job.map(range(50), [gate] * 50)"])
def test_few_calls_and_maps_are_no_sweep(place: Place, calls: str) -> None:
    output, _ = ended(place, place.start(f"{SWEEP}    calls = {calls}\n    print(hinting())\n"))
    assert output == "False\n"
