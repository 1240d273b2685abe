"""Where the parts meet: prepare, stage, submit, watch, collect, settle.

Of these only what is light is loaded here: a local emulator starts while `get` loads the engine.
"""

from dokrun.engine.default import get, reset, use

__all__ = ["get", "reset", "use"]
