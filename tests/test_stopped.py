"""A container that is told to end: what it still says, and what becomes of its job."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempts import Attempt, held_at_its_last_checkpoint, job_of, main_process
from storefaults import FaultyStore, StoreFault

import dokrun as dok
from dokrun.api import Client
from dokrun.emulator.objects import ObjectStore
from dokrun.shim import protocol

PAYLOAD = "*/payload"
CLAIMS = "*/claims/*"


@pytest.fixture
def faulty(store: ObjectStore) -> Iterator[FaultyStore]:
    with FaultyStore(store) as faulty:
        yield faulty


def test_what_became_of_a_call_is_written_before_its_last_checkpoint_is_sent(
    tmp_path: Path, faulty: FaultyStore
) -> None:
    container = held_at_its_last_checkpoint(tmp_path, faulty)
    container.process.kill()
    container.end()
    assert container.report()[0]["kind"] == "exception"
    assert container.failures() == {}
    assert container.manifest["checkpoint"] is None


def test_a_container_that_is_stopped_before_its_claim_says_that_it_has_started_nothing(
    tmp_path: Path, faulty: FaultyStore
) -> None:
    attempt = Attempt(tmp_path, faulty, (tmp_path / "started").touch)
    faulty.add(StoreFault("hang", "GET", PAYLOAD))
    container = attempt.container()
    faulty.wait_for("hang")
    container.process.send_signal(signal.SIGTERM)
    assert container.end() == protocol.STOPPED_EARLY
    assert container.failure == {
        "reason": protocol.UNCLAIMED,
        "ran": "no",
        "message": "the container was stopped",
    }
    assert attempt.claim is None
    assert not (tmp_path / "started").exists()


@dok.remote(plan="v100-32gb", timeout=60)
def start(folder: Path) -> int:
    (folder / f"started-{dok.current().attempt}").touch()
    return 42


@pytest.mark.parametrize("when", ["before its claim", "with its claim"])
def test_a_job_whose_container_is_stopped_before_it_starts_anything_is_staged_again(
    account: pytest.MonkeyPatch, client: Client, faulty: FaultyStore, tmp_path: Path, when: str
) -> None:
    account.setenv("DOKRUN_S3_ENDPOINT_URL", faulty.url)
    faulty.add(StoreFault("hang", "PUT", CLAIMS, phase="before" if when == "before its claim" else "after"))
    future = start(tmp_path)
    faulty.wait_for("hang")
    os.kill(main_process(job_of(future)), signal.SIGTERM)
    assert future.result(timeout=60) == 42
    tasks = list(client.tasks.iterate(tag=f"dokrun-job-{job_of(future)}"))
    assert sorted(task.status for task in tasks) == ["done", "error"]
    assert [path.name for path in tmp_path.glob("started-*")] == ["started-2"]


def test_a_container_that_is_stopped_when_all_is_done_tells_what_was_done(tmp_path: Path, faulty: FaultyStore) -> None:
    container = held_at_its_last_checkpoint(tmp_path, faulty)
    container.process.send_signal(signal.SIGTERM)
    faulty.let_go()
    assert container.end() == 0
    assert container.failure is None
    assert container.report()[0]["kind"] == "exception"
    assert container.failures() == {}
    assert container.manifest["checkpoint"] is not None
