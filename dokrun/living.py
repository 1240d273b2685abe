"""What stays in a worker from call to call: actors' objects, and functions with caches.

Standard library only: this file is in the container.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

# By the actors' ids.
OBJECTS: dict[str, Any] = {}
# Functions of the client's `__main__`, by their names there: what they were made of, and what was made.
_CACHED: dict[str, tuple[tuple[bytes, dict[str, Any]], Callable[..., Any]]] = {}


def make(actor: str, cls: Any, /, *args: Any, **kwargs: Any) -> None:
    """Let an object live here."""
    OBJECTS[actor] = cls(*args, **kwargs)


def call(actor: str, method: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method of an object that lives here."""
    return getattr(OBJECTS[actor], method)(*args, **kwargs)


def end(actor: str) -> None:
    """Let an object live no longer."""
    OBJECTS.pop(actor, None)


def kept(name: str, pickled: bytes, parameters: dict[str, Any]) -> Callable[..., Any]:
    """Tell the function with a cache that was made of this pickle, or make it, in place of another one of its name."""
    made_of = pickled, parameters
    if name not in _CACHED or _CACHED[name][0] != made_of:
        _CACHED.pop(name, None)  # what it has cached may be large
        _CACHED[name] = made_of, functools.lru_cache(**parameters)(pickle.loads(pickled))  # noqa: S301 - it is of a payload that was verified
    return _CACHED[name][1]
