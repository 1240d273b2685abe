"""Waiting until something is true: as short as can be, and for far longer than any machine needs."""

from __future__ import annotations

import threading
from collections.abc import Callable

PATIENCE_S = 60.0


def wait_for(what: Callable[[], object]) -> None:
    """Wait until something is true."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.02)):
        if what():
            return
        pause.wait(0.02)
    raise AssertionError("it does not come true")
