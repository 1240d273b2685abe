"""How much memory was used, and whether the kernel has killed for want of it: its own counters say so.

A signal 9 alone may come from anywhere. Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import os
import resource
import sys
from typing import List, Optional

_ROOT = "/sys/fs/cgroup"


def kills() -> int:
    """Tell how many processes of this container the kernel has killed for want of memory; 0 where nobody counts."""
    for path in _counters("memory.events", "memory.oom_control"):
        try:
            with open(path, encoding="ascii") as file:
                counts = dict(line.split() for line in file)
            return int(counts["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return 0


def peak() -> Optional[int]:
    """Tell the most memory that this container has used, in bytes; else the most of one of its ended processes."""
    for path in _counters("memory.peak", "memory.max_usage_in_bytes") if os.getpid() == 1 else ():
        try:
            with open(path, encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    # The first process of no container: the counters would be of the whole machine.
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return largest * (1 if sys.platform == "darwin" else 1024) or None


def _counters(name: str, former: str) -> List[str]:
    """List where a counter may stand: with version 2 of cgroups or version 1, the container's own or by its path."""
    paths = [f"{_ROOT}/{name}", f"{_ROOT}/memory/{former}"]
    try:
        with open("/proc/self/cgroup", encoding="ascii") as file:
            for line in file:
                _, controllers, path = line.strip().split(":", 2)
                if not controllers:
                    paths.insert(0, f"{_ROOT}{path}/{name}")
                elif "memory" in controllers.split(","):
                    paths.insert(0, f"{_ROOT}/memory{path}/{former}")
    except (OSError, ValueError):
        pass
    return paths
