"""The driver of parsl: its HighThroughputExecutor with two workers on loopback, all else as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from fresh import first, imports
from measure import Job, main
from pools import Pool, pooled

FIRST = """
import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
def nothing(): pass
---
executor = HighThroughputExecutor(address="127.0.0.1", max_workers_per_node=2)
with parsl.load(Config(executors=[executor])):
    parsl.python_app(nothing)().result()
    print("there", flush=True)
"""


@contextmanager
def opened(_job: Job) -> Iterator[Pool]:
    """Start its interchange and workers."""
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor

    @cache
    def app(function: Callable[..., Any]) -> Any:
        return parsl.python_app(function)

    def result(future: Any) -> Any:
        return future.result()

    def many(function: Callable[[Any], Any], items: Any) -> list[Any]:
        return [future.result() for future in [app(function)(item) for item in items]]

    executor = HighThroughputExecutor(address="127.0.0.1", max_workers_per_node=2)
    with parsl.load(Config(executors=[executor])):
        yield Pool(lambda function, *given: app(function)(*given), result, many)


if __name__ == "__main__":
    main("parsl", "parsl", {**pooled(opened), "import": imports("import parsl"), "first": first(FIRST)}, {})
