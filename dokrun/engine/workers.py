"""A few threads that do the engine's work in the background, in order.

Not the stdlib's executor: the interpreter waits for its queue before any exit hook runs, so that a script which ends
would first submit every task that is still queued, only to cancel it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

_log = logging.getLogger("dokrun.engine")

Work = Callable[[], object]


class Workers:
    """`count` daemon threads, all started now: while the interpreter ends, none can be. What work raises is logged."""

    def __init__(self, count: int, name: str) -> None:
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> bool:
        """Have something done. Tells whether it will be; after `close`, nothing is."""
        with self._lock:
            if not self._closed:
                self._queue.put(work)
            return not self._closed

    def close(self, timeout_s: float) -> bool:
        """Finish what is queued and end the threads. Tells whether they ended within `timeout_s` seconds."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            if work is None:
                return
            try:
                work()
            except BaseException:  # noqa: BLE001 - see below
                # Somebody's callback may raise whatever it likes, SystemExit too; the next job needs this thread.
                _log.exception("a callback, or dokrun itself, has failed")
