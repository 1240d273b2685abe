"""A place in a notebook's cells that shows one thing, and is brought up to date there until that is over.

Of what is below the magic, IPython is used here alone, and only where a notebook has brought it. One thread brings all
panels up to date: they go on when their cell has ended, and end with the kernel.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from dokrun.cards import Card

# How often a panel may change, and how often it is looked whether it does.
_LEAST_S = 0.25
_LOOK_S = 0.5


def notebook() -> Any:
    """Tell the shell whose cells are run by a kernel, as a notebook's are; None where there is none."""
    find = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if find is None else find()
    kernel = getattr(shell, "kernel", None)
    # A process that the kernel has forked has no voice there.
    return shell if kernel is not None and getattr(kernel.session, "pid", os.getpid()) == os.getpid() else None


def cell_of(shell: Any) -> str:
    """Tell which run of which cell this is."""
    return str(getattr(shell.display_pub, "parent_header", {}).get("msg_id", ""))


class Panel:
    """Shows one thing, in each cell that asks for it, and the same in all of them. For any thread.

    Args:
        look: tells what is to be shown now, and whether that is all that ever will be.
    """

    def __init__(self, look: Callable[[], tuple[Card, bool]]) -> None:
        self._look = look
        self._id = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._cells: set[str] = set()
        self._shown: Card | None = None
        self._shown_at = 0.0

    def show(self) -> bool:
        """Show it in the cell that runs, where it is not shown there already. Tells whether it can be shown."""
        shell = notebook()
        if shell is None or _is_captured(shell):
            return False
        from IPython.display import display

        cell = cell_of(shell)
        with self._lock:
            known, over = cell in self._cells, False
            if not known:
                card, over = self._look()
                self._cells.add(cell)
                self._shown, self._shown_at = card, time.monotonic()
                display(card.bundle, raw=True, display_id=self._id)  # type: ignore[no-untyped-call]
        if not (known or over):
            _updates.add(self)
        return True

    def refresh(self, *, now: bool = False) -> bool:
        """Show what has changed, unless it was shown just before. Tells whether more may change."""
        with self._lock:
            shell = notebook()
            if self._shown is None or shell is None:
                return False
            if not now and time.monotonic() - self._shown_at < _LEAST_S:
                return True
            card, over = self._look()
            if card != self._shown and not _is_captured(shell):
                from IPython.display import update_display

                self._shown, self._shown_at = card, time.monotonic()
                update_display(card.bundle, raw=True, display_id=self._id)  # type: ignore[no-untyped-call]
            # What was over while a cell kept its display to itself is to be shown after that cell.
            return not over or card != self._shown


class _Updates:
    """The thread that brings panels up to date, as long as there are some."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._panels: dict[Panel, None] = {}
        self._runs = False

    def add(self, panel: Panel) -> None:
        with self._lock:
            self._panels[panel] = None
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._go_on, name="dokrun-panels", daemon=True).start()

    def _go_on(self) -> None:
        count = 1
        while True:
            # However many there are, they change so seldom that whoever shows them keeps up.
            time.sleep(max(_LOOK_S, count * _LEAST_S))
            with self._lock:
                panels = list(self._panels)
            count = len(panels)
            over = [panel for panel in panels if not _goes_on(panel)]
            with self._lock:
                for panel in over:
                    self._panels.pop(panel, None)
                if not self._panels:
                    self._runs = False
                    return


def _goes_on(panel: Panel) -> bool:
    try:
        return panel.refresh()
    except Exception:  # noqa: BLE001 - what cannot be shown, as when the kernel ends, is no reason to fail
        return False


def _is_captured(shell: Any) -> bool:
    """Tell whether the cell keeps what is shown for itself, as with `%%capture`, which would keep every change."""
    return hasattr(shell.display_pub, "outputs")


_updates = _Updates()
