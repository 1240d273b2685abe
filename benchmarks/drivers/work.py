"""What calls do, for all systems alike: next to nothing, so that what is measured is the system."""

from __future__ import annotations

import time
from typing import Any


def nothing(number: int) -> int:
    """Return what it is given."""
    return number


def same(array: Any) -> Any:
    """Return what it is given."""
    return array


def first_of(_number: int, array: Any) -> float:
    """Look at an array."""
    return float(array[0])


def settle(_number: int) -> None:
    """Take long enough for every worker to get one."""
    time.sleep(0.5)
