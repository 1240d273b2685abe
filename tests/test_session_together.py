"""Quick calls of a session that have come one by one are given to its worker together; each has its own end."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alone import Session
from sites import Site, site
from test_shim import Container
from waiting import wait_for

from dokrun.shim import protocol

__all__ = ["site"]

JOBS = 120
# Among those that are given out together with others.
UNLUCKY = 60


class Together:
    """A session whose worker is kept busy while many calls are sent, each a job of its own."""

    def __init__(self, session: Session, folder: Path, out: Path) -> None:
        self.session = session
        self.gate, self.book, self.out = folder / "gate", folder / "book", out

    def send(self, function: Any, *args: Any, **told: Any) -> None:
        gate, book = self.gate, self.book

        def wait() -> None:
            while not gate.exists():
                time.sleep(0.01)

        def noted(number: int) -> int:
            with book.open("a") as file:
                file.write(f"{number}\n")
            function(number, *args)
            return number

        self.session.send(wait)
        for number in range(JOBS):
            self.session.send(noted, number, **told)

    def ran(self) -> Counter[int]:
        return Counter(map(int, self.book.read_text().split()))

    def outcomes(self) -> list[dict[str, Any]]:
        return [self.session.outcome() for _ in range(1 + JOBS)]


@pytest.fixture
def together(tmp_path: Path, site: Site) -> Iterator[Together]:
    container = Container(tmp_path, site)
    session = Session(sys.executable, container)
    yield Together(session, tmp_path, container.artifact)
    session.process.kill()
    session.process.communicate()


def test_each_runs_once_and_their_reports_come_together(together: Together) -> None:
    together.send(lambda _number: None)
    together.gate.touch()
    wait_for(lambda: together.session.state()["idle_left_s"] is not None)
    # As nobody has taken any, they lie there still.
    files = [path for path in together.out.rglob("0-*") if path.stat().st_size]
    assert len(files) < JOBS / 2
    assert [outcome["kind"] for outcome in together.outcomes()] == ["value"] * (1 + JOBS)
    assert together.ran() == Counter(range(JOBS))


def test_the_one_that_kills_the_worker_is_blamed_alone(together: Together) -> None:
    together.send(lambda number: os._exit(9) if number == UNLUCKY else None)
    together.gate.touch()
    outcomes = together.outcomes()
    assert [outcome for outcome in outcomes if "reason" in outcome] == [outcomes[1 + UNLUCKY]]
    assert (outcomes[1 + UNLUCKY]["reason"], outcomes[1 + UNLUCKY]["ran"]) == (protocol.EXITED, "yes")
    assert together.ran() == Counter(range(JOBS))


def test_the_one_that_takes_too_long_is_blamed_alone(together: Together) -> None:
    together.send(lambda number: time.sleep(60) if number == UNLUCKY else None, timeout_s=2.0)
    together.gate.touch()
    outcomes = together.outcomes()
    assert [outcome for outcome in outcomes if "reason" in outcome] == [outcomes[1 + UNLUCKY]]
    assert (outcomes[1 + UNLUCKY]["reason"], outcomes[1 + UNLUCKY]["ran"]) == (protocol.TIMEOUT, "yes")
    assert together.ran() == Counter(range(JOBS))


def test_those_before_one_that_takes_long_do_not_wait_for_it(together: Together, tmp_path: Path) -> None:
    second = tmp_path / "second"

    def wait(number: int) -> None:
        while number == UNLUCKY and not second.exists():
            time.sleep(0.01)

    together.send(wait)
    together.gate.touch()
    before = [together.session.outcome() for _ in range(1 + UNLUCKY)]
    assert [outcome["kind"] for outcome in before] == ["value"] * (1 + UNLUCKY)
    assert together.ran() == Counter(range(UNLUCKY + 1))
    second.touch()
    after = [together.session.outcome() for _ in range(JOBS - UNLUCKY)]
    assert [outcome["kind"] for outcome in after] == ["value"] * (JOBS - UNLUCKY)
    assert together.ran() == Counter(range(JOBS))
