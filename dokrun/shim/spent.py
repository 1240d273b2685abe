"""How long a container has taken for what, and how much memory: the manifest tells it, for the receipt.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import time
from typing import Any, Dict, Optional

from . import memory
from .stopping import age_s

DOWNLOADING, RUNNING, UPLOADING = "downloading", "running", "uploading"


class Spent:
    """Seconds by phase, of which one follows the other; the first one has begun with the container.

    Attributes:
        calls: how many calls are to be run.
        lanes: how many of them at the same time.
        gpu_memory: the most that a worker has heard its GPU to hold for it, in bytes; None where none could tell.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.lanes = 0
        self.gpu_memory: Optional[int] = None
        self._phase = DOWNLOADING
        self._since = time.monotonic() - age_s()
        self._seconds: Dict[str, float] = {}

    def begin(self, phase: str) -> None:
        """Go over to another phase."""
        now = time.monotonic()
        self._seconds[self._phase] = now - self._since
        self._phase, self._since = phase, now

    def told(self) -> Dict[str, Any]:
        """Tell what the manifest says of it, as of now."""
        seconds = {**self._seconds, self._phase: time.monotonic() - self._since}
        rounded = {phase: round(passed, 3) for phase, passed in seconds.items()}
        counted = {"calls": self.calls, "lanes": self.lanes}
        return {**rounded, **counted, "memory": memory.peak(), "gpu_memory": self.gpu_memory}
