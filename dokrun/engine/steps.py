"""On which thread a step of a job is taken, and what becomes of one that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dokrun.engine.parts import Parts
from dokrun.engine.workers import Workers

Step = Callable[[], object]


class Steps:
    """Takes the steps of one job.

    Args:
        parts: the engine's threads.
        failed: told what a step raised.
    """

    def __init__(self, parts: Parts, failed: Callable[[BaseException], object]) -> None:
        self._parts = parts
        self._failed = failed

    def on(self, workers: Workers, step: Step) -> bool:
        """Have some of the engine's threads take a step, in their turn. Tells whether they will."""
        return workers.submit(lambda: self._take(step))

    def later(self, step: Step) -> None:
        """Have it taken by the threads for what all jobs do."""
        self.on(self._parts.others, step)

    def aside(self, step: Step) -> None:
        """Have it taken by a thread of its own: those that all jobs share are for what does not wait."""
        threading.Thread(target=lambda: self._take(step), name="dokrun-wait", daemon=True).start()

    def after(self, pause_s: float, step: Step) -> None:
        """Take it after a pause, in seconds; at once, and here, where there is none."""

        def wait() -> None:
            self._parts.sleep(pause_s)
            step()

        if pause_s:
            self.aside(wait)
        else:
            step()

    def _take(self, step: Step) -> None:
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            self._failed(error)
