"""Shows whoever waits how far it is: a line in a terminal that goes when the wait is over, a notebook's panel, lines.

In a terminal nothing of it is there but during the wait, and the thread that waits draws it: what the user prints
between two results, a question, a debugger, a traceback, all have the terminal to themselves. A notebook's panel has a
place of its own, and stays.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from dokrun.progress import Far, Pace

if TYPE_CHECKING:
    from typing_extensions import Self

    from dokrun.cards import Card
    from dokrun.panel import Panel
    from dokrun.screen import Screen
    from dokrun.tail import Following, Tail

# A wait that is shorter shows nothing.
FIRST_S = 1.0
_SCREEN_S = 0.25
_LINES_S = 1.0
# A panel is brought up to date by a thread of its own; but an event loop sees an interrupt only when it wakes.
_PANEL_S = 1.0
# How long the end of a wait gives the log's last lines, and how long a panel waits for them, and for the bill.
_LAST_LINES_S = 0.25
_BILL_S = 15.0
# Of how many calls' outcomes a line tells, as a part of all; or whatever there is, after so many seconds.
_STEP = 0.1
_STEP_S = 30.0

# A terminal has room for one.
_terminal = threading.Lock()


class Display:
    """Shows how far one thing is, in all waits for it together.

    Args:
        name: what it is.
        look: tells how far it is.
        wanted: whether anything shall be shown. `DOKRUN_PROGRESS=0` says no for all.
        lines_from_s: how long the waits must have taken before lines are written, where there is no terminal.
        now: tells seconds that only grow.
        span: tells for how many seconds it goes on, or went on; from now on, if nothing is said.
        logs: yields what it prints, as it grows, which a panel shows the end of.
        more: tells what else a panel says: how it can be stopped, or what it has failed with.
        again: tells whether it may go on after its end, as what is made anew when it is needed.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], Far],
        *,
        wanted: bool = True,
        lines_from_s: float = FIRST_S,
        now: Callable[[], float] = time.monotonic,
        span: Callable[[], float] | None = None,
        logs: Callable[[], Iterable[str]] | None = None,
        more: Callable[[], str] | None = None,
        again: Callable[[], bool] | None = None,
    ) -> None:
        self._name = name
        self._look = look
        self._wanted = wanted and is_wanted("DOKRUN_PROGRESS")
        self._lines_from_s = lines_from_s
        self._now = now
        self._span = span
        self._logs = logs
        self._more = more
        self._again = again
        self._began = now()
        self._over_at: float | None = None
        self._panel: Panel | None = None
        self._following: Following | None = None
        self._has_ended = False
        self._tail: Tail | None = None
        self._waited_since: float | None = None
        self._pace = Pace()
        self._written = ""
        self._written_at = 0.0
        self._written_told = 0

    def wait(self) -> Wait:
        """Begin a wait; leaving its block clears what it shows."""
        if self._waited_since is None:
            self._waited_since = self._now()
        return Wait(self, self._now)

    @property
    def wanted(self) -> bool:
        """Whether anything is to be shown."""
        return self._wanted

    @property
    def first_at(self) -> float:
        """When something may be shown first."""
        since = self._began if self._waited_since is None else self._waited_since
        return since + FIRST_S

    def give_up(self) -> None:
        """Show nothing more: it cannot be shown, which is no reason for anything to fail."""
        self._wanted = False

    def draw(self, screen: Screen) -> None:
        """Show it in a terminal."""
        far = self._seen()
        screen.draw(self._name, far, self._pace, self._seconds)

    @property
    def lasts(self) -> bool:
        """Whether it has a panel, which is there for longer than a wait."""
        return self._panel is not None

    def show(self, *, log: bool = True) -> bool:
        """Show it in the notebook's cell that runs, until it is over. Tells whether there is one where that goes."""
        if not in_notebook():
            return False
        if not log:
            self._logs = None
        if self._panel is None:
            from dokrun.panel import Panel

            self._panel = Panel(self._card)
        return self._panel.show()

    def write(self) -> None:
        """Write a line if there is something to say."""
        far = self._seen()
        now = self._now()
        if now < self.first_at - FIRST_S + self._lines_from_s:
            return
        changed = far.told - self._written_told
        step = max(1, int((far.total or 0) * _STEP)) if far.total is not None else sys.maxsize
        if far.state == self._written and not (changed >= step or (changed and now - self._written_at >= _STEP_S)):
            return
        counts = [far.count, far.failures, self._pace.left(far)] if far.told else []
        self._say(", ".join(filter(None, [far.state, *counts, far.note or far.cost])))
        self._written, self._written_at, self._written_told = far.state, now, far.told

    def end(self) -> None:
        """Show how it has ended: in its panel, or as a line, once, where lines were written."""
        if self._panel is not None:
            if self._following is not None and not self._has_ended:
                self._following.ended.wait(_LAST_LINES_S)
            self._has_ended = True
            self._refresh(now=True)
        if self._wanted and self._written:
            self._written = ""
            try:
                if not others_draw():
                    self._say(self._look().end(self._seconds))
            except Exception:  # noqa: BLE001 - what cannot be told is no reason to fail
                self.give_up()

    def leave(self) -> None:
        """Bring a panel up to date at the end of a wait."""
        if self._panel is not None:
            self._refresh(now=False)

    def _refresh(self, *, now: bool) -> None:
        try:
            if self._panel is not None:
                self._panel.refresh(now=now)
        except Exception:  # noqa: BLE001 - likewise
            self.give_up()

    def _card(self) -> tuple[Card, bool]:
        """Tell what a panel shows now, and whether that is all that it ever will."""
        from dokrun.cards import Told, of_far

        far = self._seen()
        if self._logs is not None and self._tail is None and far.status == "running" and not far.over:
            from dokrun.tail import Following, Tail

            self._tail = Tail()
            self._following = Following(self._name, self._logs, self._tail.add)
        lines = () if self._tail is None else self._tail.lines
        more = "" if self._more is None else self._more()
        seconds = self._seconds
        card = of_far(Told(self._name, far, self._pace, seconds, lines, more))
        is_all = far.over and self._is_all(far) and not (self._again is not None and self._again())
        if is_all:
            self._keep(far, seconds, more)
        return card, is_all

    def _keep(self, far: Far, seconds: float, more: str) -> None:
        """Know of the thing no more than what was shown last: its panel stays, and a value may be large."""
        self._look, self._span, self._more, self._again = lambda: far, lambda: seconds, lambda: more, None
        if self._following is not None:
            self._following.stop()
        self._logs = self._following = None

    def _is_all(self, far: Far) -> bool:
        """Tell whether the bill is there, and the log, or nobody waits for them any longer."""
        has_bill = far.billed or far.yen is None
        has_log = self._following is None or self._following.ended.is_set()
        return (has_bill and has_log) or (self._over_at is not None and self._now() - self._over_at > _BILL_S)

    @property
    def _seconds(self) -> float:
        """For how long it goes on, or went on."""
        if self._span is not None:
            return self._span()
        return (self._now() if self._over_at is None else self._over_at) - self._began

    def _seen(self) -> Far:
        far = self._look()
        if not far.over:
            self._over_at = None
        elif self._over_at is None:
            self._over_at = self._now()
        self._pace.note(self._now(), far.told)
        return far

    def _say(self, text: str) -> None:
        print(f"dokrun: {self._name}: {text}", file=sys.stderr, flush=True)


class Wait:
    """One wait, by one thread, which calls `look` whenever `pause_s` seconds have gone by."""

    def __init__(self, display: Display, now: Callable[[], float]) -> None:
        self._display = display
        self._now = now
        self._due = display.first_at
        self._screen: Screen | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        self._display.leave()

    @property
    def pause_s(self) -> float | None:
        """How long to wait before the next `look`; None is for ever."""
        return max(0.0, self._due - self._now()) if self._display.wanted else None

    def look(self) -> None:
        """Show how far it is, if it is time for that."""
        if not self._display.wanted or self._now() < self._due:
            return
        try:
            self._due = self._now() + self._show()
        except Exception:  # noqa: BLE001 - likewise: the terminal may be gone
            self._display.give_up()
            self._clear()

    def _show(self) -> float:
        """Show it where it can be shown. Tells after how many seconds to do so again."""
        if others_draw(besides=self._screen):
            self._clear()
            return _LINES_S
        if in_notebook():
            self._display.show()
            return _PANEL_S
        if self._screen is None and not is_terminal():
            self._display.write()
            return _LINES_S
        if self._screen is None and _terminal.acquire(blocking=False):
            try:
                from dokrun.screen import Screen

                self._screen = Screen()
            finally:
                if self._screen is None:
                    _terminal.release()
        if self._screen is not None:
            self._display.draw(self._screen)
        return _SCREEN_S

    def _clear(self) -> None:
        screen, self._screen = self._screen, None
        if screen is None:
            return
        try:
            screen.clear()
        except (OSError, ValueError):
            self._display.give_up()
        finally:
            _terminal.release()


def in_notebook() -> bool:
    """Tell whether this process runs the cells of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from dokrun.panel import notebook

    return notebook() is not None


def at_prompt() -> bool:
    """Tell whether somebody types what is run, so that this process is still there after an interrupt."""
    return in_notebook() or hasattr(sys, "ps1") or bool(sys.flags.inspect)


def running_cell() -> str:
    """Tell which run of which cell this is, in a notebook; nothing elsewhere."""
    if not in_notebook():
        return ""
    from dokrun.panel import cell_of, notebook

    return cell_of(notebook())


def is_terminal() -> bool:
    """Tell whether standard error is this process's own, and a terminal that can be drawn on."""
    stream = sys.stderr
    own = stream is sys.__stderr__ and stream is not None and stream.isatty()
    return own and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def others_draw(besides: object = None) -> bool:
    """Tell whether a progress bar of the user's own is on the screen, of tqdm or of rich."""
    tqdm = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    bars = list(getattr(tqdm, "_instances", ()))
    if any(not getattr(bar, "disable", False) for bar in bars):
        return True
    # The console that rich's own displays use, if there is one; ours has its own.
    console = getattr(sys.modules.get("rich"), "_console", None)
    if getattr(console, "_live_stack", None) or getattr(console, "_live", None):
        return True
    return besides is None and hasattr(sys.stderr, "rich_proxied_file")


def is_wanted(variable: str) -> bool:
    """Tell whether a variable of the environment leaves something on, and there is somewhere to show it."""
    return sys.stderr is not None and os.environ.get(variable, "1").lower() not in ("0", "no", "off", "false")
