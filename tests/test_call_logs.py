"""What the calls of a map print: each call's own lines, though several workers print at the same time."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

import dokrun as dok
from dokrun.engine.lines import of_call, users_own
from dokrun.shim import protocol

pytestmark = pytest.mark.usefixtures("account")


@dok.remote(plan="v100-32gb", timeout=60)
def speak(number: int, folder: Path) -> int:
    if number % 2:
        print(f"{number} says one")
        # Both workers are in the middle of a call that prints.
        (folder / f"met-{number}").touch()
        while len(list(folder.glob("met-*"))) < 2:
            pass
        sys.stderr.write(f"{number} says two\n")
        os.write(1, f"{number} says three, and no more".encode())
    if number == 5:
        os.abort()
    return number


def test_each_call_has_its_own_lines_whichever_workers_print_at_the_same_time(tmp_path: Path) -> None:
    futures = speak.starmap([(number, tmp_path) for number in (1, 3, 4)], workers=2).futures
    assert [future.result(timeout=60) for future in futures] == [1, 3, 4]
    logs = ["".join(future.logs()) for future in futures]
    assert logs == [*(f"{n} says one\n{n} says two\n{n} says three, and no more\n" for n in (1, 3)), ""]


def test_the_error_of_a_call_has_the_end_of_its_own_lines(tmp_path: Path) -> None:
    (tmp_path / "met-0").touch()
    silent, broken = speak.starmap([(0, tmp_path), (5, tmp_path)], return_exceptions=True).futures
    assert silent.result(timeout=60) == 0
    error = broken.exception(timeout=60)
    assert isinstance(error, dok.WorkerDied)
    assert error.log[:2] == ("5 says one", "5 says two")
    assert error.log[2].startswith("5 says three, and no more")


@dok.remote(plan="v100-32gb", timeout=60)
def mark(number: int) -> int:
    for text in (b"a\x1e\xff\nb\x1e", b"\x1e12x\n", b"\x1e" + b"9" * 40 + b"\n", b"c\n"):
        os.write(1, text)
    return number


def test_a_call_may_print_what_separates_one_call_from_another() -> None:
    futures = mark.map(range(3)).futures
    assert [future.result(timeout=60) for future in futures] == [0, 1, 2]
    logs = ["".join(future.logs()) for future in futures]
    assert logs == ["a\x1e\ufffd\nb\x1e\x1e12x\n\x1e" + "9" * 40 + "\nc\n"] * 3


@dok.remote(plan="v100-32gb", timeout=60)
def leave(number: int, gate: Path) -> int:
    if number == 1:
        print("before it left")
        sys.exit(3)
    while number == 2 and not gate.exists():
        time.sleep(0.01)
    return number


def test_an_error_that_goes_ahead_of_the_artifact_has_the_end_of_its_own_lines_too(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    futures = leave.starmap([(number, gate) for number in range(3)]).futures
    error = futures[1].exception(timeout=60)
    assert isinstance(error, dok.WorkerDied)
    assert (error.log, futures[2].done()) == (("before it left",), False)
    gate.touch()
    assert futures[2].result(timeout=60) == 2


def test_a_call_that_is_alone_prints_without_marks(tmp_path: Path) -> None:
    (tmp_path / "met-0").touch()
    assert "".join(speak(1, tmp_path).logs()) == "1 says one\n1 says two\n1 says three, and no more"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_log_is_taken_apart_alike_in_whatever_pieces_it_comes(size: int) -> None:
    one, two = protocol.CALL.format(1), protocol.CALL.format(12)
    text = f"before\n{one}\na\nb\n{two}\nc\n{protocol.RESULTS.format('c' * 16, 0, 'f' * 64, 5)}\nd\n{one}\n{one} not\ne"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert "".join(of_call(pieces, 1)) == "a\nb\n"
    assert "".join(of_call(pieces, 12)) == "c\nd\n"
    assert "".join(users_own(pieces)) == "before\na\nb\nc\nd\ne"
