"""The driver of lithops with its calls' data on an S3 server, the one that dokrun's figures are taken on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fresh import first
from measure import Job, stores
from with_lithops import FIRST, SETTINGS, driver


def config(told: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Tell lithops where the server is."""
    os.environ["AWS_DEFAULT_REGION"] = told["region"]
    key = {"access_key_id": told["key"], "secret_access_key": told["secret_key"]}
    return {
        "lithops": {**SETTINGS, "storage": "minio"},
        "minio": {"endpoint": told["s3"], "storage_bucket": told["bucket"], **key},
    }


@contextmanager
def opened(job: Job) -> Iterator[Any]:
    """Make an executor."""
    import lithops

    with (
        stores("--store", job.store) as told,
        lithops.FunctionExecutor(config=config(told), log_level="ERROR") as executor,
    ):
        yield executor


def first_result(job: Job) -> None:
    """Take the time from a process's start until it has a call's result; the server is there before."""
    with stores("--store", job.store) as told:
        first(FIRST.replace("CONFIG", repr(config(told))))(job)


if __name__ == "__main__":
    driver("lithops-s3", opened, first_result)
