"""What `DOKRUN_LOG` does: it shows what the logger `dokrun` hears on standard error."""

from __future__ import annotations

import logging
import sys

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
