"""The workloads of all systems that keep workers, made from the few things that each of them does in its own way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import work
from measure import COPIES, Job, Workload, array_of, touch

IN_FLIGHT = 32
# Calls by which all workers are there.
SETTLING = 4


@dataclass(frozen=True)
class Pool:
    """What a system does, once it is there.

    Attributes:
        submit: sends a call of a function.
        result: waits for what `submit` gave.
        map: calls a function with each of some items, as the system does it best, and tells the results.
        share: brings an array to where calls can have it, once for all of them.
    """

    submit: Callable[..., Any]
    result: Callable[[Any], Any]
    map: Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]
    share: Callable[[Any], Any] = lambda array: array


def pooled(opened: Callable[[Job], AbstractContextManager[Pool]]) -> dict[str, Workload]:
    """Make the workloads of a system that makes pools. All its workers have run a call before anything is measured."""

    def calls(job: Job, pool: Pool) -> None:
        with job.measured():
            for number in range(job.n):
                with job.step():
                    pool.result(pool.submit(work.nothing, number))

    def many(job: Job, pool: Pool) -> None:
        with job.measured():
            assert sum(pool.map(work.nothing, range(job.n))) == sum(range(job.n))

    def array(job: Job, pool: Pool) -> None:
        touch(job.size, COPIES)
        data = array_of(job.size)
        with job.measured():
            assert pool.result(pool.submit(work.same, data))[0] == data[0]

    def shared(job: Job, pool: Pool) -> None:
        touch(job.size, COPIES)
        data = array_of(job.size)
        with job.measured():
            there = pool.share(data)
            sent = [pool.submit(work.first_of, number, there) for number in range(job.n)]
            assert [pool.result(one) for one in sent] == [float(data[0])] * job.n

    def flight(job: Job, pool: Pool) -> None:
        with job.measured():
            in_flight(lambda number: pool.submit(work.nothing, number), pool.result, job.n)

    def with_pool(workload: Callable[[Job, Pool], None]) -> Workload:
        def run(job: Job) -> None:
            with opened(job) as pool:
                pool.map(work.settle, range(SETTLING))
                workload(job, pool)

        return run

    named = {"calls": calls, "map": many, "array": array, "shared": shared, "flight": flight, "session": calls}
    return {name: with_pool(workload) for name, workload in named.items()}


def in_flight(submit: Callable[[int], Any], result: Callable[[Any], Any], count: int) -> None:
    """Make calls, so many of them at the same time."""
    flying: deque[Any] = deque()
    for number in range(count):
        if len(flying) == IN_FLIGHT:
            result(flying.popleft())
        flying.append(submit(number))
    while flying:
        result(flying.popleft())
