"""When a session's container is to end, it is told of each call why it was not run, or not to its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alone import Session
from sites import Site, site
from test_shim import Container
from waiting import PATIENCE_S, wait_for

from dokrun.shim import protocol

__all__ = ["site"]

# So that a call has begun by then, even where many others run.
LIMIT_S = 8.0


def stay(started: Path) -> None:
    started.touch()
    while True:
        time.sleep(1)


@pytest.fixture
def container(tmp_path: Path, site: Site) -> Container:
    return Container(tmp_path, site)


@pytest.fixture
def session(container: Container, request: pytest.FixtureRequest) -> Iterator[Session]:
    session = Session(sys.executable, container, limit_s=request.param)
    yield session
    session.process.kill()
    session.process.communicate()


def ended(session: Session, container: Container) -> dict[int, tuple[str, str]]:
    """Wait for the end. Tells why which call has no report, and whether it ran."""
    session.process.communicate(timeout=PATIENCE_S)
    return {number: (it["reason"], it["ran"]) for number, it in container.failures().items()}


def begin(session: Session, tmp_path: Path) -> None:
    """Have a call run that does not end, and another one wait."""
    session.send(stay, tmp_path / "started")
    session.send(pow, 2, 5)
    wait_for((tmp_path / "started").exists)


@pytest.mark.parametrize("session", [LIMIT_S], indirect=True)
def test_when_its_time_is_over_what_has_not_begun_may_do_so_elsewhere(
    session: Session, container: Container, tmp_path: Path
) -> None:
    begin(session, tmp_path)
    assert ended(session, container) == {1: (protocol.STOPPED, "yes"), 2: (protocol.OVER, "no")}
    assert {it["message"] for it in container.failures().values()} == {
        f"the session has lasted as long as its timeout of {LIMIT_S:g} s"
    }


@pytest.mark.parametrize("session", [PATIENCE_S], indirect=True)
def test_when_it_is_cancelled_so_is_what_has_not_begun(session: Session, container: Container, tmp_path: Path) -> None:
    begin(session, tmp_path)
    session.speaker.ask("/close", json.dumps({"now": True}).encode())
    assert ended(session, container) == {1: (protocol.CANCELLED, "yes"), 2: (protocol.CANCELLED, "no")}


@pytest.mark.parametrize("session", [PATIENCE_S], indirect=True)
def test_it_tells_how_long_it_may_last(session: Session) -> None:
    assert session.call(pow, 2, 5)["kind"] == "value"
    state = session.state()
    assert state["age_s"] + state["left_s"] == pytest.approx(PATIENCE_S)
    assert 0 < state["left_s"] < PATIENCE_S
