"""The driver of lithops: its localhost backend, with files of this machine as its storage; all else as it comes.

Among that is `monitoring_interval`, two seconds at this version: how often its client looks for results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import work
from fresh import first, imports
from measure import COPIES, Counter, Job, array_of, main, touch
from pools import SETTLING, Pool, pooled

# Without `data_limit` it refuses arguments of more than 4 MiB.
SETTINGS = {"backend": "localhost", "data_limit": False}
LOCAL = {"lithops": {**SETTINGS, "storage": "localhost"}}
FIRST = """
import lithops
def nothing(number): pass
---
executor = lithops.FunctionExecutor(config=CONFIG)
executor.get_result(executor.call_async(nothing, 0))
"""
_NO_SESSION = "a call is a job of its own, whose function and data go through the storage each time"

Opened = Callable[[Job], AbstractContextManager[Any]]


@contextmanager
def opened(_job: Job) -> Iterator[Any]:
    """Make an executor."""
    import lithops

    with lithops.FunctionExecutor(config=LOCAL, log_level="ERROR") as executor:
        yield executor


def driver(system: str, opened: Opened, first_result: Callable[[Job], None]) -> None:
    """Be the driver of lithops, with executors that are made so."""

    @contextmanager
    def pool(job: Job) -> Iterator[Pool]:
        counter = Counter("urllib3.connectionpool")
        with opened(job) as executor:
            yield Pool(
                executor.call_async,
                executor.get_result,
                lambda function, items: list(executor.get_result(executor.map(function, list(items)))),
            )
        job.requests = counter.count or None

    def shared(job: Job) -> None:
        with opened(job) as executor:
            executor.get_result(executor.map(work.settle, list(range(SETTLING))))
            touch(job.size, COPIES)
            data = array_of(job.size)
            with job.measured():
                calls = executor.map(work.first_of, list(range(job.n)), extra_args=(data,))
                assert executor.get_result(calls) == [float(data[0])] * job.n

    own = {"import": imports("import lithops"), "first": first_result, "shared": shared}
    main(system, "lithops", {**pooled(pool), **own}, {"session": _NO_SESSION, "flight": _NO_SESSION})


if __name__ == "__main__":
    driver("lithops", opened, first(FIRST.replace("CONFIG", repr(LOCAL))))
