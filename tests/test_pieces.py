"""Large bytes are moved a few pieces at a time: each once, in order of their beginning, until one does not go well."""

from __future__ import annotations

import threading

import pytest
from waiting import PATIENCE_S

from dokrun.engine.pieces import AT_ONCE, in_pieces


class Moved:
    """Notes which pieces were moved, and from how many threads at once."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def __call__(self, at: int, end: int) -> int:
        with self._lock:
            self.pieces.append((at, end))
        return end


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 95])
def test_each_is_moved_once_and_the_last_one_may_be_shorter(size: int) -> None:
    moved = Moved()
    assert in_pieces(0, size, 10, moved) == size
    assert sorted(moved.pieces) == [(at, min(size, at + 10)) for at in range(0, size, 10)]


def test_one_may_begin_in_the_middle() -> None:
    moved = Moved()
    assert in_pieces(15, 40, 10, moved) == 40
    assert sorted(moved.pieces) == [(15, 25), (25, 35), (35, 40)]


def test_some_are_on_their_way_at_the_same_time() -> None:
    together = threading.Barrier(AT_ONCE)

    def move(_at: int, end: int) -> int:
        together.wait(PATIENCE_S)
        return end

    assert in_pieces(0, 6 * AT_ONCE, 1, move) == 6 * AT_ONCE


def test_where_less_was_moved_nothing_more_is_begun_and_it_is_told_how_much() -> None:
    moved = Moved()

    def move(at: int, end: int) -> int:
        moved(at, end)
        return 25 if at == 20 else end

    assert in_pieces(0, 1000, 10, move) == 25
    assert len(moved.pieces) <= 3 + 2 * AT_ONCE


def test_what_one_raises_is_raised_and_nothing_more_is_begun() -> None:
    moved = Moved()

    def move(at: int, end: int) -> int:
        if at == 20:
            raise OSError("cut")
        return moved(at, end)

    with pytest.raises(OSError, match="cut"):
        in_pieces(0, 10_000, 10, move)
    assert len(moved.pieces) < 100


def test_an_interrupt_waits_for_no_other_piece() -> None:
    main, begun, over = threading.current_thread(), threading.Semaphore(0), threading.Event()
    ended: list[int] = []

    def move(_at: int, end: int) -> int:
        if threading.current_thread() is main:
            for _ in range(AT_ONCE - 1):
                begun.acquire()
            raise KeyboardInterrupt
        begun.release()
        over.wait(PATIENCE_S)
        ended.append(end)
        return end

    with pytest.raises(KeyboardInterrupt):
        in_pieces(0, 100, 10, move)
    assert not ended, "they are still at it"
    over.set()
