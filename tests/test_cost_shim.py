"""A container keeps its limit by itself: counted from its start, and held even when something hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempts import Attempt, held_at_its_last_checkpoint
from storefaults import FaultyStore, StoreFault
from waiting import wait_for

import dokrun as dok
from dokrun.emulator.objects import ObjectStore
from dokrun.shim import protocol

# How exactly Linux tells when a process has started.
TICK_S = 0.011

# What a container does before the shim is there is counted too.
LISTEN = """
import signal, time
time.sleep(0.2)
from dokrun.shim import stopping
before = stopping.age_s()
stopping.listen()
print(before, signal.getitimer(signal.ITIMER_REAL)[0], stopping.age_s())
"""


@pytest.fixture
def faulty(store: ObjectStore) -> Iterator[FaultyStore]:
    with FaultyStore(store) as faulty:
        yield faulty


def listening(**environment: str) -> tuple[float, float, float]:
    """Tell a process's age, in how many seconds it will be told to end, and its age thereafter."""
    done = subprocess.run(
        [sys.executable, "-c", LISTEN], env={"PATH": os.environ["PATH"], **environment}, capture_output=True, check=True
    )
    before, left, after = map(float, done.stdout.split())
    return before, left, after


def test_a_limit_counts_from_the_start_of_the_containers_first_process() -> None:
    started = time.monotonic()
    before, left, after = listening(DOKRUN_LIMIT_S="600")
    assert 0.2 - TICK_S < before <= after <= time.monotonic() - started + TICK_S
    # Ten seconds of a long limit are kept for what is to be written and sent then.
    assert 590 - after - TICK_S <= left <= 590 - before + TICK_S


def test_without_a_limit_nothing_rings() -> None:
    assert listening()[1] == 0


def test_a_limit_that_comes_before_the_function_says_that_it_did_not_run(tmp_path: Path, faulty: FaultyStore) -> None:
    attempt = Attempt(tmp_path, faulty, (tmp_path / "started").touch)
    attempt.environment[protocol.LIMIT_S] = "1"
    faulty.add(StoreFault("hang", "GET", "*/payload"))
    container = attempt.container()
    assert container.end() == 0, "so that the artifact is kept"
    assert (container.failure["reason"], container.failure["ran"]) == (protocol.TOO_DEAR, "no")
    assert "before its 1 s were over" in container.failure["message"]
    assert not (tmp_path / "started").exists()


def test_at_its_limit_a_container_exits_whatever_it_still_sends_since_all_is_written(
    tmp_path: Path, faulty: FaultyStore
) -> None:
    container = held_at_its_last_checkpoint(tmp_path, faulty, **{protocol.LIMIT_S: "600"})
    container.process.send_signal(signal.SIGALRM)
    assert container.end() == 0
    header, _ = container.report()
    assert header["kind"] == "exception"


def test_a_call_that_is_ended_for_its_cost_is_shown_in_the_log_and_its_checkpoint_is_saved(
    tmp_path: Path, faulty: FaultyStore
) -> None:
    def stay() -> None:
        (dok.checkpoint_dir() / "epoch").write_text("1")
        (tmp_path / "started").touch()
        threading.Event().wait()

    attempt = Attempt(tmp_path, faulty, stay, checkpoint_s=600.0)
    attempt.save_checkpoints()
    attempt.environment[protocol.LIMIT_S] = "600"
    container = attempt.container()
    wait_for((tmp_path / "started").exists)
    container.process.send_signal(signal.SIGALRM)
    assert container.end() == 0
    failed = container.failed()
    assert (failed["reason"], failed["ran"]) == (protocol.TOO_DEAR, "yes")
    assert "in stay" in container.output
    assert container.manifest["checkpoint"] is not None


def test_the_manifest_tells_what_was_spent_on_what(tmp_path: Path, faulty: FaultyStore) -> None:
    container = Attempt(tmp_path, faulty, int, int).container()
    started = time.monotonic()
    assert container.end() == 0
    told = container.manifest["spent"]
    assert (told["calls"], told["lanes"], told["gpu_memory"]) == (2, 1, None)
    phases = [told[name] for name in ("downloading", "running", "uploading")]
    assert min(phases) > 0
    assert sum(phases) <= time.monotonic() - started + 1
    assert told["memory"] > 1 << 20
