"""The driver of submitit: its local executor, where each call is a process of its own, all else as it comes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fresh import first, imports
from measure import Job, Unsupported, main
from pools import Pool, pooled

FIRST = """
import submitit
def nothing(): pass
---
executor = submitit.AutoExecutor(folder="jobs", cluster="local")
executor.update_parameters(timeout_min=60)
executor.submit(nothing).result()
"""
# So many interpreters at the same time are what a machine of two processors and some gigabytes bears.
MOST_AT_ONCE = 100
NOT_WARM = "each call is a process of its own; nothing stays warm"


@contextmanager
def opened(_job: Job) -> Iterator[Pool]:
    """Make an executor, which starts nothing yet."""
    import submitit

    def result(job: Any) -> Any:
        return job.result()

    with tempfile.TemporaryDirectory() as folder:
        executor = submitit.AutoExecutor(folder=folder, cluster="local")
        executor.update_parameters(timeout_min=60)

        def many(function: Callable[[Any], Any], items: Any) -> list[Any]:
            if len(items) > MOST_AT_ONCE:
                raise Unsupported(f"it would start {len(items):,} processes at once")
            return [job.result() for job in executor.map_array(function, items)]

        yield Pool(executor.submit, result, many)


if __name__ == "__main__":
    own = {"import": imports("import submitit"), "first": first(FIRST)}
    main("submitit", "submitit", {**pooled(opened), **own}, {"session": NOT_WARM, "flight": NOT_WARM})
