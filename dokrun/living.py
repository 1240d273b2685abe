"""Objects that stay in a worker of a session, for `dok.Actor`. Standard library only: this file is in the container."""

from __future__ import annotations

from typing import Any

# By the actors' ids.
OBJECTS: dict[str, Any] = {}


def make(actor: str, cls: Any, /, *args: Any, **kwargs: Any) -> None:
    """Let an object live here."""
    OBJECTS[actor] = cls(*args, **kwargs)


def call(actor: str, method: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method of an object that lives here."""
    return getattr(OBJECTS[actor], method)(*args, **kwargs)


def end(actor: str) -> None:
    """Let an object live no longer."""
    OBJECTS.pop(actor, None)
