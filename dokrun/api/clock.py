"""Time on two machines: this one's clocks, and how far its time of day is from the service's."""

from __future__ import annotations

import email.utils
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from dokrun.errors import ConfigError

_log = logging.getLogger("dokrun.api")

WARNED_FROM_S = 60.0
REFUSED_FROM_S = 600.0
# A `Date` tells whole seconds.
_HALF_A_SECOND = 0.5


@dataclass(frozen=True)
class Clock:
    """This machine's clocks: `now` tells the seconds since 1970, `steady` those since some moment and is never set."""

    now: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic


class Skew:
    """How far this machine's clock is from the service's, by the latest answer that tells. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ahead_s: float | None = None
        self._warned = False

    @property
    def ahead_s(self) -> float | None:
        """By how many seconds this machine's clock is surely ahead of the service's; None while nobody knows."""
        return self._ahead_s

    @property
    def known(self) -> bool:
        """Whether an answer has told the service's time."""
        return self._ahead_s is not None

    def measure(self, date: str | None, sent: float, came: float) -> None:
        """Take down an answer's `Date`, between these seconds since 1970; warn where it is a minute off, once.

        What the way there and back may account for, to either side, is no difference.
        """
        told = _seconds(date)
        if told is None:
            return
        difference = (sent + came) / 2 - (told + _HALF_A_SECOND)
        allowed = abs(came - sent) / 2 + _HALF_A_SECOND
        sure = max(0.0, abs(difference) - allowed)
        with self._lock:
            self._ahead_s = sure if difference > 0 else -sure
            warn, self._warned = sure >= WARNED_FROM_S and not self._warned, self._warned or sure >= WARNED_FROM_S
        if warn:
            _log.warning(
                "%s: set it (on Linux: sudo timedatectl set-ntp true); from %d minutes on dokrun creates no tasks, "
                "and from 15 on object stores refuse what it signs",
                self._words(),
                REFUSED_FROM_S / 60,
            )

    def check(self) -> None:
        """Raise ConfigError where the difference is ten minutes or more."""
        if self._ahead_s is not None and abs(self._ahead_s) >= REFUSED_FROM_S:
            raise ConfigError(
                f"{self._words()}, so object stores may refuse what it signs; set it (on Linux: sudo timedatectl "
                "set-ntp true), then call again. No task was created"
            )

    def _words(self) -> str:
        ahead_s = self._ahead_s or 0.0
        off_s = abs(ahead_s)
        off = f"{off_s / 60:.0f} minutes" if off_s >= 2 * WARNED_FROM_S else f"{off_s:.0f} seconds"
        return f"this machine's clock is {off} {'ahead of' if ahead_s > 0 else 'behind'} DOK's"


class DatedTransport(httpx.BaseTransport):
    """Lets every answer tell the service's time, on top of another transport."""

    def __init__(self, inner: httpx.BaseTransport, skew: Skew, now: Callable[[], float]) -> None:
        self._inner = inner
        self._skew = skew
        self._now = now

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        sent = self._now()
        response = self._inner.handle_request(request)
        self._skew.measure(response.headers.get("Date"), sent, self._now())
        return response

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


def _seconds(date: str | None) -> float | None:
    try:
        return None if date is None else email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
