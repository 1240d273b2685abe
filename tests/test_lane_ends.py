"""Many calls in one container, at its end: told to end, with something in its way, or with its folder gone."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from attempts import Attempt
from attempts import Container as Supervised
from sites import site
from storefaults import FaultyStore, StoreFault
from test_lanes import MANY, SENT, Book, book, calls, container, faulty, gate, many, others
from test_shim import Container, payload_of

from dokrun.shim import protocol

__all__ = ["book", "container", "faulty", "gate", "site"]

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def stop(container: Supervised, gate: Path) -> None:
    """Tell a container to end when one of its calls has said that it is under way."""
    assert gate.read_bytes() == b"1"
    container.process.send_signal(signal.SIGTERM)
    assert container.end() == 0


# When the container is told to end.


def test_a_container_that_is_stopped_tells_of_each_call_what_became_of_it(
    tmp_path: Path, faulty: FaultyStore, gate: Path, book: Book
) -> None:
    def work(number: int) -> int:
        book.enter(number)
        if number == UNDER_WAY:
            gate.write_bytes(b"1")
            threading.Event().wait()
        return number

    attempt = many(tmp_path, faulty, work, MANY)
    container = attempt.container()
    stop(container, gate)
    assert container.values() == others(set(), UNDER_WAY)
    told = {number: (it["reason"], it["ran"]) for number, it in container.failures().items()}
    assert told == {
        UNDER_WAY: (protocol.STOPPED, "yes"),
        **dict.fromkeys(range(UNDER_WAY + 1, MANY), (protocol.STOPPED, "no")),
    }
    assert book.times == Counter(range(UNDER_WAY + 1))


UNDER_WAY = 500


def test_a_call_that_is_being_unpickled_when_the_container_is_stopped_has_not_run(
    tmp_path: Path, faulty: FaultyStore, gate: Path, book: Book
) -> None:
    class Slow:
        def __reduce__(self) -> Any:
            return wait, ()

    def wait() -> None:
        gate.write_bytes(b"1")
        threading.Event().wait()

    def work(number: int, _slow: Any) -> int:
        return book.enter(number)

    attempt = Attempt(
        tmp_path,
        faulty,
        data=lambda told: payload_of(
            *((work, (number, Slow() if number == UNDER_WAY else 0)) for number in range(MANY)), **told
        ),
    )
    container = attempt.container()
    stop(container, gate)
    assert container.values() == others(set(), UNDER_WAY)
    told = {number: (it["reason"], it["ran"]) for number, it in container.failures().items()}
    assert told == dict.fromkeys(range(UNDER_WAY, MANY), (protocol.STOPPED, "no"))
    assert book.times == Counter(range(UNDER_WAY))


def test_outcomes_are_written_though_results_that_go_ahead_do_not_arrive(
    tmp_path: Path, faulty: FaultyStore, gate: Path
) -> None:
    def work(number: int) -> int:
        if number == 1:
            gate.write_bytes(b"1")
            threading.Event().wait()
        return number

    faulty.add(StoreFault("hold", "PUT", SENT))
    attempt = many(tmp_path, faulty, work, 3)
    attempt.take_results(3)
    container = attempt.container()
    faulty.wait_for("hold")
    stop(container, gate)
    assert container.values() == {0: 0}
    assert {number: it["ran"] for number, it in container.failures().items()} == {1: "yes", 2: "no"}


# When a function removes what the container needs.


@pytest.mark.parametrize("dies", [False, True])
def test_a_function_that_removes_temporary_files_keeps_no_call_from_its_outcome(
    container: Container, *, dies: bool
) -> None:
    def work(number: int) -> int:
        if number == 3:
            for path in Path(os.environ["TMPDIR"]).glob("dokrun-*"):
                shutil.rmtree(path)
            if dies:
                os._exit(9)
        return number

    container.give(calls(work, 9))
    container.run()
    failed = range(3, 9) if dies else ()
    assert container.values() == others(set(failed), 9)
    assert container.failures().keys() == set(failed)
