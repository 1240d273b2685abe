"""What calls print, out of a worker's pipe: all of it is told before what the call comes to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dokrun.shim import output
from dokrun.shim.output import Passing


class Told:
    """What was heard, and the pipe that a worker writes into."""

    def __init__(self, path: Path) -> None:
        self.heard: list[tuple[bytes, bytes]] = []
        self.passing = Passing(str(path), lambda call, text: self.heard.append((call, text)))
        self.pipe = os.open(path, os.O_WRONLY)

    def end(self) -> None:
        """Let the worker end."""
        os.close(self.pipe)
        self.passing.end()


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "output")


def mark(number: int) -> bytes:
    return output.MARK + str(number).encode() + b"\n"


def test_whoever_catches_up_has_heard_all_that_was_printed_by_then(told: Told) -> None:
    for number in range(300):
        os.write(told.pipe, mark(number) + b"begun\n")
        os.write(told.pipe, b"and over\n")
        told.passing.catch_up(ended=True)
        mine = [text for call, text in told.heard if call == str(number).encode()]
        assert b"".join(mine) == b"begun\nand over\n"
    told.end()


def test_the_last_line_waits_for_its_end_while_the_call_goes_on(told: Told) -> None:
    os.write(told.pipe, mark(1) + b"one\ntw")
    told.passing.catch_up(ended=False)
    assert told.heard == [(b"1", b"one\n")]
    os.write(told.pipe, b"o")
    told.passing.catch_up(ended=True)
    assert told.heard == [(b"1", b"one\n"), (b"1", b"two")]
    told.passing.catch_up(ended=True)
    assert len(told.heard) == 2
    told.end()


def test_what_a_worker_has_written_last_is_passed_on_when_it_has_ended(told: Told) -> None:
    os.write(told.pipe, mark(7) + b"last words")
    told.end()
    assert told.heard == [(b"7", b"last words")]
    told.passing.catch_up(ended=True)
    assert len(told.heard) == 1
