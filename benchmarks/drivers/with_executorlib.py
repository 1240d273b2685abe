"""The driver of executorlib: two workers that stay, all else as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from fresh import first, imports
from measure import Job, main
from pools import Pool, pooled

FIRST = """
from executorlib import SingleNodeExecutor
def nothing(): pass
---
with SingleNodeExecutor(max_workers=2, block_allocation=True) as pool:
    pool.submit(nothing).result()
"""


@contextmanager
def opened(_job: Job) -> Iterator[Pool]:
    """Start two processes."""
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=2, block_allocation=True) as pool:
        yield Pool(pool.submit, Future.result, lambda function, items: list(pool.map(function, items)))


if __name__ == "__main__":
    own = {"import": imports("from executorlib import SingleNodeExecutor"), "first": first(FIRST)}
    main("executorlib", "executorlib", {**pooled(opened), **own}, {})
