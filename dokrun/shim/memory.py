"""Whether the kernel has killed for want of memory: its own counter says so, and nothing else does.

A signal 9 alone may come from anywhere. Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

from typing import List

_ROOT = "/sys/fs/cgroup"


def kills() -> int:
    """Tell how many processes of this container the kernel has killed for want of memory; 0 where nobody counts."""
    for path in _counters():
        try:
            with open(path, encoding="ascii") as file:
                counts = dict(line.split() for line in file)
            return int(counts["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return 0


def _counters() -> List[str]:
    """List where the counter may stand: with version 2 of cgroups or version 1, the container's own or by its path."""
    paths = [f"{_ROOT}/memory.events", f"{_ROOT}/memory/memory.oom_control"]
    try:
        with open("/proc/self/cgroup", encoding="ascii") as file:
            for line in file:
                _, controllers, path = line.strip().split(":", 2)
                if not controllers:
                    paths.insert(0, f"{_ROOT}{path}/memory.events")
                elif "memory" in controllers.split(","):
                    paths.insert(0, f"{_ROOT}/memory{path}/memory.oom_control")
    except (OSError, ValueError):
        pass
    return paths
