"""Large bytes are moved in pieces, a few at a time: while one is on its way, either side sees to another one."""

from __future__ import annotations

import threading
from collections.abc import Callable

# So many pieces are on their way at the same time.
AT_ONCE = 3

# Moves what lies between two places. Tells up to where all has been moved.
Move = Callable[[int, int], int]


def in_pieces(start: int, end: int, piece: int, move: Move) -> int:
    """Move bytes, each piece once, and begin with the first ones. Returns up to where all have been moved.

    That is `end`, or less where `move` has told of less than it was to move; nothing more is begun then.

    Args:
        start: where the first one lies.
        end: where the last one ends.
        piece: how many are moved at a time.
        move: moves some. Is called in several threads. What it raises, this does, when the others have ended; a Ctrl-C
            at once.
    """
    moving = _Moving(start, end, piece, move)
    # Those that end with the process, whatever they wait for.
    others = [threading.Thread(target=moving.run, name="dokrun-piece", daemon=True) for _ in range(1, AT_ONCE)]
    for thread in others[: -(-(end - start) // piece) - 1]:
        thread.start()
    moving.run()
    if not isinstance(moving.error, (KeyboardInterrupt, SystemExit)):
        for thread in others:
            if thread.ident is not None:
                thread.join()
    if moving.error is not None:
        raise moving.error
    return moving.reached


class _Moving:
    """What the threads share.

    Attributes:
        reached: up to where all have been moved, once they have ended.
        error: what one of them raised first.
    """

    def __init__(self, start: int, end: int, piece: int, move: Move) -> None:
        self._next = start
        self._end = self.reached = end
        self._piece = piece
        self._move = move
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Move pieces until none is left, or one did not go well."""
        while (some := self._taken()) is not None:
            try:
                reached = self._move(*some)
            except BaseException as error:  # noqa: BLE001 - whoever waits for all of them raises it
                self._stop(self.reached, error)
                return
            if reached < some[1]:
                self._stop(reached, None)

    def _taken(self) -> tuple[int, int] | None:
        with self._lock:
            at = self._next
            self._next = min(self._end, at + self._piece)
            return None if at >= self._end else (at, self._next)

    def _stop(self, reached: int, error: BaseException | None) -> None:
        with self._lock:
            self._next = self._end
            self.reached = min(self.reached, reached)
            self.error = self.error or error
