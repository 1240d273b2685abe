"""Where the parts meet: prepare, stage, submit, watch, collect, settle."""

from dokrun.engine.default import get, reset, use
from dokrun.engine.engine import Engine
from dokrun.engine.gatherer import Gatherer
from dokrun.engine.prepare import Target
from dokrun.engine.rehearse import rehearse

__all__ = ["Engine", "Gatherer", "Target", "get", "rehearse", "reset", "use"]
