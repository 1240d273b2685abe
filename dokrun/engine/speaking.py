"""A session's container is asked as often as it takes, as long as it may be there; nothing is done twice for that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from dokrun import errors
from dokrun.api.container import Body, Container, Unvouched
from dokrun.api.transport import Backoff

T = TypeVar("T")

_log = logging.getLogger("dokrun.engine")
_BACKOFF = Backoff(first_s=0.02, longest_s=1.0)
# From then on all pauses are as long.
_DOUBLED = 10
# For so long nothing may come but what a stranger might say, as a proxy's page does, before that is believed.
STRANGE_S = 60.0
_TOO_LARGE, _UNAUTHORIZED = 413, 401
_LOOKS_FINE = range(200, 300)


class Gone(Exception):
    """The container is no more, or will not be asked any more; `asked` tells whether it may have heard this."""

    def __init__(self, *, asked: bool) -> None:
        super().__init__()
        self.asked = asked


class TooLarge(Exception):
    """Something on the way takes no request of this size."""


class Speaking:
    """Asks one container. For any thread.

    Args:
        container: speaks to it.
        there: tells whether it may still be there.
        sleep: waits so many seconds.
    """

    def __init__(self, container: Container, there: Callable[[], bool], sleep: Callable[[float], object]) -> None:
        self._container = container
        self._there = there
        self._sleep = sleep

    def hello(self) -> None:
        """Show who asks, as soon as the container listens.

        Raises:
            Gone: it ended before.
            Unauthorized: it does not know this client, as is said for a minute and nobody vouches for.
            Tampered: what answers is not the container.
        """
        self._repeat(self._container.hello, None)

    def ask(
        self,
        path: str,
        body: Body = b"",
        *,
        wait_s: float = 0.0,
        tries: int | None = None,
        digest: Callable[[], str] | None = None,
    ) -> bytearray:
        """Ask something that may take `wait_s` seconds, `tries` times at most.

        `digest` tells, each time, what is vouched for in place of the body's own digest, where it is something else.

        Raises:
            Gone: it is no more.
            Refused: it does not do that.
            TooLarge: the body does not pass.
            NoAnswer: `tries` are over.
            Tampered: what answers is not the container.
        """
        return self._repeat(
            lambda: self._container.ask(path, body, wait_s=wait_s, digest=None if digest is None else digest()), tries
        )

    def fill(self, path: str, into: memoryview, *, tries: int | None = None) -> int:
        """Ask for some bytes, and have them from the beginning of `into` on. Tells how many. Raises as `ask` does."""
        return self._repeat(lambda: self._container.fill(path, into), tries)

    def _repeat(self, once: Callable[[], T], tries: int | None) -> T:
        tried, strange_s = 0, 0.0
        while self._there():
            try:
                return once()
            except (errors.NoAnswer, errors.Unauthorized) as error:
                _log.debug("the session is asked again: %s", error)
                tried += 1
                status = error.status if isinstance(error, (Unvouched, errors.Unauthorized)) else 0
                if status == _TOO_LARGE:
                    raise TooLarge from error
                if status not in _LOOKS_FINE and status != _UNAUTHORIZED:
                    strange_s = 0.0
                elif strange_s > STRANGE_S:
                    raise _stranger(error) from error
                if tried == tries:
                    raise
            pause_s = _BACKOFF.pause_s(min(tried, _DOUBLED))
            strange_s += pause_s
            self._sleep(pause_s)
        raise Gone(asked=tried > 0)


def _stranger(error: errors.ApiError) -> errors.DokrunError:
    if isinstance(error, errors.Unauthorized):
        return error
    message = "what answers at the session's address is not its container; nothing of it is used"
    return errors.Tampered(message, ran="maybe", still_runs=True)
