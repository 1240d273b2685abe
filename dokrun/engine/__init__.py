"""Where the parts meet: prepare, stage, submit, watch, collect, settle."""

from dokrun.engine.engine import Engine, get, reset

__all__ = ["Engine", "get", "reset"]
