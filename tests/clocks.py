"""A clock that stands still until a test lets time pass."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime, timedelta, timezone

PATIENCE_S = 10.0


class ManualClock:
    """The emulator's clock, set by hand: `pass_time` wakes whoever has slept long enough by then."""

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 2, 9, 0, tzinfo=timezone(timedelta(hours=9)))
        self._sleepers: dict[asyncio.Future[None], datetime] = {}
        self._changed = threading.Condition()

    def now(self) -> datetime:
        with self._changed:
            return self._now

    async def sleep(self, seconds: float) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        with self._changed:
            self._sleepers[sleeper] = self._now + timedelta(seconds=seconds)
            self._changed.notify_all()
        try:
            await sleeper
        finally:
            with self._changed:
                del self._sleepers[sleeper]

    def pass_time(self, seconds: float) -> None:
        with self._changed:
            self._now += timedelta(seconds=seconds)
            for sleeper, due in self._sleepers.items():
                if due <= self._now:
                    sleeper.get_loop().call_soon_threadsafe(_wake, sleeper)

    def wait_for_sleeper(self, seconds: float) -> None:
        """Wait until somebody has begun to sleep for this long."""
        with self._changed:
            wanted = self._now + timedelta(seconds=seconds)
            assert self._changed.wait_for(lambda: wanted in self._sleepers.values(), PATIENCE_S), "nobody sleeps"


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
