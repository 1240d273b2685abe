"""Where the parts meet: prepare, stage, submit, watch, collect, settle."""

from dokrun.engine.engine import Engine, get, reset, use
from dokrun.engine.prepare import Call
from dokrun.engine.rehearse import rehearse

__all__ = ["Call", "Engine", "get", "rehearse", "reset", "use"]
