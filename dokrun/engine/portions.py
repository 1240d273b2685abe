"""From the items of a map to jobs: one holds as many calls as a task shall, and the next is made when asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from dokrun.engine.prepare import Job, Preparing
from dokrun.engine.submit import not_submitted
from dokrun.errors import StorageError
from dokrun.outcomes import Outcomes

# What one task is given at most. A generator is looked at so far ahead of its results.
MOST_CALLS = 100_000
MOST_BYTES = 64 << 20
# Objects of their own, each with an address in the table that the container reads.
MOST_KEPT = 20_000


def counts(size: int, tasks: int) -> list[int]:
    """Tell how many calls each job will have, of so many in all."""
    most = _most(size, tasks)
    return [min(most, size - first) for first in range(0, size, most)]


def _most(size: int | None, tasks: int, most: int = MOST_CALLS) -> int:
    return min(most, -(-size // tasks)) if tasks > 1 and size else most


def is_full(preparing: Preparing, most: int = MOST_CALLS, most_bytes: int = MOST_BYTES) -> bool:
    """Tell whether a job has as many calls as a task holds."""
    return preparing.calls >= most or preparing.size_bytes >= most_bytes or preparing.kept >= MOST_KEPT


class Portions:
    """Makes jobs of calls, which are looked at no sooner than that.

    Attributes:
        size: how many calls there are, if that is known.

    Args:
        calls: the positional arguments of each.
        size: how many there are, if that is known.
        tasks: how many tasks shall share them.
        prepare: makes a job to put calls into.
        begin: begins a job.
        name: what its errors call the whole.
        most: how many calls a job may have.
    """

    def __init__(
        self,
        calls: Iterator[tuple[Any, ...]],
        size: int | None,
        tasks: int,
        prepare: Callable[[], Preparing],
        begin: Callable[[Job], Outcomes],
        *,
        name: str,
        most: int = MOST_CALLS,
    ) -> None:
        if tasks > 1 and size is None:
            known = list(calls)
            calls, size = iter(known), len(known)
        self.size = size
        self._calls = calls
        self._most = _most(size, tasks, most)
        self._prepare = prepare
        self._begin = begin
        self._name = name
        self._begun = False

    def begin(self) -> Outcomes | None:
        """Begin the next job; None where there are no more calls.

        Raises:
            NotSerializable: an argument or the function cannot be pickled.
            SubmitFailed: the bucket refused what the calls need.
        """
        first = next(self._calls, None)
        if first is None:
            return None
        try:
            preparing = self._prepare()
            for args in itertools.chain([first], self._calls):
                preparing.add(args, {})
                if is_full(preparing, self._most):
                    break
            outcomes = self._begin(preparing.job())
        except StorageError as error:
            failed = not_submitted(f"the rest of {self._name}" if self._begun else self._name, error)
            failed.still_runs = self._begun
            raise failed from error
        self._begun = True
        return outcomes
