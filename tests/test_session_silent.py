"""Whoever is not heard for long, and comes back, hears what each call has come to; nothing is held for it meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alone import Session
from sites import Site, site
from test_shim import Container
from waiting import PATIENCE_S, wait_for

__all__ = ["site"]

SILENCE_S = 0.3


def stay(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.01)


@pytest.fixture
def session(tmp_path: Path, site: Site) -> Iterator[Session]:
    session = Session(sys.executable, Container(tmp_path, site), lease_s=SILENCE_S)
    yield session
    session.process.kill()
    session.process.communicate()


def reports(session: Session, after: int = 0) -> dict[int, tuple[int, int, int]]:
    """Tell of each report that is told the event's number, the call, how large it is, and how much of it is told."""
    events = session.events(after, 0)
    return {e["number"]: (e["call"], e["size"], len(data)) for e, data in events if e["kind"] == "report"}


def test_what_a_silent_client_was_to_be_told_is_put_away_and_told_again_when_it_is_back(
    session: Session, tmp_path: Path
) -> None:
    session.send(pow, 2, 5)
    session.send(stay, tmp_path / "gate")
    wait_for(lambda: reports(session))
    ((first, (call, size, told)),) = reports(session).items()
    assert (call, told) == (1, size)

    def was_silent() -> bool:
        threading.Event().wait(3 * SILENCE_S)  # nothing shows from outside that it was put away
        return first not in reports(session)

    wait_for(was_silent)
    ((again, (call, _, told)),) = reports(session).items()
    assert again > first
    assert (call, told) == (1, 0)
    assert len(session.speaker.ask("/get/1/0").body) == size, "it is fetched"
    (tmp_path / "gate").touch()
    wait_for(lambda: reports(session, again))
    ((_, (call, size, told)),) = reports(session, again).items()
    assert (call, told) == (2, size), "and what comes from then on is told as ever"


def test_however_short_its_idle_time_is_a_container_waits_for_the_first_word(tmp_path: Path, site: Site) -> None:
    session = Session(sys.executable, Container(tmp_path, site), idle_s=0.0)
    session.process.communicate(timeout=PATIENCE_S)
    assert session.process.returncode == 0, "and then it ends"
