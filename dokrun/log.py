"""How what the logger `dokrun` hears is shown: all of it as `DOKRUN_LOG` says, else its warnings, on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

from dokrun.errors import suggest

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


def show(level: str) -> None:
    """Show the logger `dokrun` on standard error, from this level on: debug, info or warning.

    Another word is told there in one line and changes nothing: a program does not stop for its log.
    """
    number = _LEVELS.get(level.strip().lower())
    if number is None:
        print(f"dokrun: DOKRUN_LOG is not a level{suggest(level, _LEVELS)}", file=sys.stderr)
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("dokrun")
    logger.addHandler(handler)
    logger.setLevel(number)


def show_warnings() -> None:
    """Show warnings on standard error, in the form of all that dokrun says there, where nobody else takes them."""
    logging.getLogger("dokrun").addHandler(_Plain(logging.WARNING))


class _Plain(logging.Handler):
    """Does what Python does by itself where no handler is, and says whose warning it is."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show it, unless somebody has said what becomes of it."""
        if sys.stderr is None or any(handler is not self for handler in _handlers(record.name)):
            return
        try:
            print(f"dokrun: {self.format(record)}", file=sys.stderr, flush=True)
        except Exception:  # noqa: BLE001 - a program does not stop for its log
            self.handleError(record)


def _handlers(name: str) -> Iterator[logging.Handler]:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None
