"""The driver of joblib: `Parallel(n_jobs=2)`, all else as it comes: loky's processes, memory maps of large arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import joblib
from fresh import first, imports
from measure import COPIES, Job, array_of, main, touch
from pools import SETTLING, Pool, pooled
from work import first_of, settle

FIRST = """
from joblib import Parallel, delayed
def nothing(): pass
---
Parallel(n_jobs=2)([delayed(nothing)()])
"""


@contextmanager
def opened(_job: Job) -> Iterator[Pool]:
    """Have two processes, which stay from one `Parallel` to the next."""
    with joblib.Parallel(n_jobs=2) as parallel:
        yield Pool(
            # It takes the calls of a batch together.
            lambda function, *given: (function, given),
            lambda call: parallel([joblib.delayed(call[0])(*call[1])])[0],
            lambda function, items: list(parallel(joblib.delayed(function)(item) for item in items)),
        )


def shared(job: Job) -> None:
    """Make calls that share an array, as one `Parallel`: it is written to a file once, and mapped."""
    with joblib.Parallel(n_jobs=2) as parallel:
        parallel(joblib.delayed(settle)(number) for number in range(SETTLING))
        touch(job.size, COPIES)
        data = array_of(job.size)
        with job.measured():
            found = parallel(joblib.delayed(first_of)(number, data) for number in range(job.n))
            assert found == [float(data[0])] * job.n


if __name__ == "__main__":
    own = {"import": imports("import joblib"), "first": first(FIRST), "shared": shared}
    one_by_one = "Parallel gives all results of a batch at once"
    main("joblib", "joblib", {**pooled(opened), **own}, {"flight": one_by_one})
