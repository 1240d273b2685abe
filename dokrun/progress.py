"""How far something is that somebody waits for, and the words for it. Values; what shows them is in `display`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from decimal import Decimal

# How long the rate looks back: long enough for results that come in bursts.
_WINDOW_S = 60.0
_WORDS = {
    "preparing": "being prepared",
    "looking": "being looked for",
    "image": "its image is looked up or built",
    "staging": "being sent",
    "retrying": "waiting for its next attempt",
    **dict.fromkeys(("done", "error", "aborted", "canceled"), "its results are fetched"),
}


@dataclass(frozen=True)
class Place:
    """Where a task stands in the project's line.

    Attributes:
        before: how many tasks are before it: those that wait for longer, and the one that runs.
        longest_s: for how many seconds their time limits let these run yet; None where one has no limit. What lies
            between them, as the pull of an image, comes on top.
    """

    before: int
    longest_s: float | None = None

    def __str__(self) -> str:
        """Tell it in a few words."""
        if not self.before:
            return "next in line"
        longest = f", up to {duration(self.longest_s)}" if self.longest_s else ""
        return f"{self.before} task{'s' if self.before > 1 else ''} before it{longest}"


@dataclass(frozen=True)
class Far:
    """How far a call is, or a map.

    Attributes:
        status: as `Future.status` tells it.
        total: how many calls there are; None where that is not known.
        done: how many have a value.
        failed: how many have come to an error.
        cancelled: how many were cancelled before they came to anything.
        attempt: which attempt is under way.
        place: where its task stands, while that waits.
        yen: what it costs so far; None where nobody pays, or the price is not known.
        billed: whether that is all that it costs.
        note: what else is said of it, in place of what it costs so far.
    """

    status: str
    total: int | None = 1
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    attempt: int = 1
    place: Place | None = None
    yen: Decimal | None = None
    billed: bool = False
    note: str = ""

    @property
    def told(self) -> int:
        """How many calls have come to something."""
        return self.done + self.failed

    @property
    def over(self) -> bool:
        """Whether every call has come to an end."""
        return self.total is not None and self.told + self.cancelled >= self.total

    @property
    def state(self) -> str:
        """Its status in words."""
        words = _WORDS.get(self.status, self.status)
        if self.status == "waiting":
            words = f"waiting, {self.place}" if self.place else "waiting in line"
        return words if self.attempt == 1 else f"{words}, attempt {self.attempt}"

    @property
    def count(self) -> str:
        """How many calls have come to something, of how many."""
        return f"{self.told} of {self.total}" if self.total is not None else f"{self.told} done"

    @property
    def failures(self) -> str:
        """How many have failed, if any."""
        return f"{self.failed} failed" if self.failed else ""

    @property
    def cost(self) -> str:
        """What it costs so far."""
        return "" if self.yen is None else f"¥{self.yen:,.2f}"

    def end(self, seconds: float) -> str:
        """Tell in a line how it has ended, after so many seconds."""
        took = duration(seconds)
        if self.total == 1:
            told = f"failed after {took}" if self.failed else f"done in {took}"
            words = [f"cancelled after {took}" if self.cancelled else told]
        else:
            ended = (
                f"cancelled after {took}: {self.count} calls"
                if self.cancelled
                else f"done in {took}: {self.told} calls"
            )
            words = [ended, self.failures]
        words.append(f"{self.cost}{'' if self.billed else ' so far'}" if self.cost else "")
        return ", ".join(filter(None, words))


def together(first: Far, second: Far) -> Far:
    """Tell how far two are together, of which the second has its turn when the first is over."""
    known = [far.yen for far in (first, second) if far.yen is not None]
    return replace(
        second if first.over else first,
        total=None if first.total is None or second.total is None else first.total + second.total,
        done=first.done + second.done,
        failed=first.failed + second.failed,
        cancelled=first.cancelled + second.cancelled,
        yen=sum(known, Decimal(0)) if known else None,
        billed=first.billed and second.billed,
    )


class Pace:
    """How fast calls come to something, as of late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, told: int) -> None:
        """Take down how many have come to something by now, in seconds of a clock that is never set."""
        if not told:
            return  # what comes before the first results says nothing of those that follow
        self._seen.append((now, told))
        # The last that is older than the window stays, so that there is always something to compare with.
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW_S:  # noqa: PLR2004 - both ends
            self._seen.popleft()

    @property
    def per_second(self) -> float:
        """How many calls come to something in a second; 0 where that cannot be told yet."""
        if not self._seen:
            return 0.0
        (first, before), (last, told) = self._seen[0], self._seen[-1]
        return (told - before) / (last - first) if last - first >= 1.0 and told > before else 0.0

    @property
    def rate(self) -> str:
        """The same in words."""
        per_second = self.per_second
        if not per_second:
            return ""
        return f"{per_second:.1f}/s" if per_second >= 1 else f"{per_second * 60:.1f}/min"

    def left(self, far: Far) -> str:
        """Tell how long the others will take if it goes on like this."""
        per_second = self.per_second
        if not per_second or far.total is None or far.told >= far.total:
            return ""
        return f"{duration((far.total - far.told) / per_second)} left"


def duration(seconds: float) -> str:
    """Tell a time as people do: 45 s, 12 min, 3 h 20 min, 5 days."""
    if seconds < 59.5:  # noqa: PLR2004 - what rounds to a minute is one
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:  # noqa: PLR2004
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(hours / 24)} days"
