"""The driver of `concurrent.futures.ProcessPoolExecutor`: two processes, all else as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager

from fresh import first, imports
from measure import Job, main
from pools import Pool, pooled

FIRST = """
from concurrent.futures import ProcessPoolExecutor
def nothing(): pass
---
with ProcessPoolExecutor(2) as pool:
    pool.submit(nothing).result()
"""


@contextmanager
def opened(_job: Job) -> Iterator[Pool]:
    """Start two processes."""
    with ProcessPoolExecutor(2) as pool:
        yield Pool(pool.submit, Future.result, lambda function, items: list(pool.map(function, items)))


if __name__ == "__main__":
    own = {"import": imports("from concurrent.futures import ProcessPoolExecutor"), "first": first(FIRST)}
    main("pool", None, {**pooled(opened), **own}, {})
