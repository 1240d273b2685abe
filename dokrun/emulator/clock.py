"""The emulator's time, so that a test can say what it is."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Protocol

# The service answers in Japan's time.
JST = timezone(timedelta(hours=9))


class Clock(Protocol):
    """What tells the time and lets it pass."""

    def now(self) -> datetime:
        """Tell the time, aware."""

    async def sleep(self, seconds: float) -> None:
        """Let this many seconds pass."""


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        """Tell the time, in Japan's offset."""
        return datetime.now(JST)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
