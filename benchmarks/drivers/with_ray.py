"""The driver of ray: one node on this machine with two processors, without its dashboard, all else as it comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from fresh import first, imports
from measure import Job, main
from pools import Pool, pooled

FIRST = """
import ray
def nothing(): pass
---
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
ray.get(ray.remote(nothing).remote())
"""
# It would tell its makers that it is used, were there a way out.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@contextmanager
def opened(_job: Job) -> Iterator[Pool]:
    """Start a node."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")

    @cache
    def remote(function: Callable[..., Any]) -> Any:
        return ray.remote(function)

    def many(function: Callable[[Any], Any], items: Any) -> list[Any]:
        return list(ray.get([remote(function).remote(item) for item in items]))

    yield Pool(lambda function, *given: remote(function).remote(*given), ray.get, many, ray.put)
    ray.shutdown()


if __name__ == "__main__":
    main("ray", "ray", {**pooled(opened), "import": imports("import ray"), "first": first(FIRST)}, {})
