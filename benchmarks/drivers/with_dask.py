"""The driver of dask.distributed: two worker processes of a thread each, no dashboard, all else as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fresh import first, imports
from measure import Job, main
from pools import Pool, pooled

FIRST = """
from distributed import Client, LocalCluster
def nothing(): pass
---
with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
    client.submit(nothing).result()
"""


@contextmanager
def opened(_job: Job) -> Iterator[Pool]:
    """Start a cluster of this machine alone."""
    from distributed import Client, LocalCluster

    def result(future: Any) -> Any:
        return future.result()

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        yield Pool(
            # `pure`: else it would answer from what it remembers of the same call.
            lambda function, *given: client.submit(function, *given, pure=False),
            result,
            lambda function, items: list(client.gather(client.map(function, items, pure=False))),
            client.scatter,
        )


if __name__ == "__main__":
    main("dask", "distributed", {**pooled(opened), "import": imports("import distributed"), "first": first(FIRST)}, {})
