"""Where the parts meet: prepare, stage, submit, watch, collect, settle."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dokrun.engine.default import get, reset, use

if TYPE_CHECKING:
    from dokrun.engine.engine import Engine
    from dokrun.engine.gatherer import Gatherer
    from dokrun.engine.target import Target

# Loaded when first used: a local emulator may start meanwhile.
_HOME_OF = {
    "Engine": "dokrun.engine.engine",
    "Gatherer": "dokrun.engine.gatherer",
    "Target": "dokrun.engine.target",
}

__all__ = ["Engine", "Gatherer", "Target", "get", "reset", "use"]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value
