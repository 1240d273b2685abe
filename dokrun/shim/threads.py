"""Threads that do something at the same time, and how many are worth it.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import os
import threading
from typing import Callable, List


def begun(work: Callable[[], object], count: int) -> List[threading.Thread]:
    """Begin to do something in so many threads, or in as many as the system has to spare."""
    threads = []
    for _ in range(count):
        thread = threading.Thread(target=work, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            break
        threads.append(thread)
    return threads


def processors() -> int:
    """Tell how many processors there are for this process, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
