"""What is called. On its own: a call says what it is of while the engine is still being loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """What is called: a user's function."""

    function: Callable[..., Any]
    signature: inspect.Signature
    name: str
