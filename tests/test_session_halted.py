"""A session's worker that is about to be ended begins no other call, whatever else somebody wants ended meanwhile."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from alone import Session
from sites import Site, site
from test_shim import Container
from waiting import wait_for

from dokrun.shim import process, protocol

__all__ = ["site"]

MANY = 1000
# Not the first or the last that the worker is given at a time.
LATE = 500
TIMEOUT_S = 3.0


def work(folder: Path, number: int) -> None:
    with (folder / "book").open("a") as book:
        book.write(f"{number}\n")
    if number == LATE:
        # It ends when it is asked where it is.
        signal.pthread_sigmask(signal.SIG_BLOCK, {protocol.STACKS_SIGNAL})
        (folder / "late").touch()
        signal.sigwait({protocol.STACKS_SIGNAL})
    if number == LATE + 1:
        time.sleep(2 * process.STACKS_S)  # the worker would be ended at this one


@pytest.fixture
def session(tmp_path: Path, site: Site) -> Iterator[Session]:
    session = Session(sys.executable, Container(tmp_path, site))
    yield session
    session.process.kill()
    session.process.communicate()


def test_what_comes_after_a_call_that_takes_too_long_runs_once_though_others_are_cancelled(
    session: Session, tmp_path: Path
) -> None:
    job = session.send_all(work, [(tmp_path, number) for number in range(MANY)], timeout_s=TIMEOUT_S)
    wait_for((tmp_path / "late").exists)
    # Some of these the lane has already, so it is looked again and again whether the worker is at them.
    cancelled = list(range(LATE + 2, MANY))
    assert session.speaker.ask(f"/cancel/{job}", json.dumps({"calls": cancelled}).encode()).status == 200
    wait_for(lambda: session.state()["idle_left_s"] is not None)
    events = [event for event, _ in session.events(0, 0)]
    begun = [event["calls"] for event in events if event["kind"] == "begun"]
    assert any(first < LATE and end > LATE + 3 for first, end in begun), "the lane has some that are cancelled"
    failed = Counter(event["failure"]["reason"] for event in events if event["kind"] == "failure")
    assert failed == {protocol.TIMEOUT: 1, protocol.CANCELLED: len(cancelled)}
    assert Counter(map(int, (tmp_path / "book").read_text().split())) == Counter(range(LATE + 2))
