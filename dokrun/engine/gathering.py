"""Calls that will be one task, while they are gathered: each has its future already, and nothing is sent yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dokrun.engine.keeping import Keeping
from dokrun.engine.portions import is_full
from dokrun.engine.prepare import Job, Preparing
from dokrun.engine.submit import not_submitted
from dokrun.engine.target import Target
from dokrun.errors import StorageError
from dokrun.future import Future
from dokrun.jobstate import Progress
from dokrun.outcomes import Outcomes, Result


class Gathering:
    """Gathers calls of functions that share a task. For one thread at a time.

    Args:
        name: what the task is called.
        preparing: makes a job of them.
        keeping: brings what is large to safety.
        most_bytes: how large the arguments may be, all together.
        send: has them submitted.

    Attributes:
        calls: what has become of each.
        broken: why none of them can be sent, if something that they may share was lost on its way.
    """

    def __init__(
        self,
        name: str,
        preparing: Preparing,
        keeping: Keeping,
        most_bytes: int,
        send: Callable[[Gathering], object],
    ) -> None:
        self.name = name
        self.calls = Outcomes(preparing.id, 0, name, Progress())
        self.broken: StorageError | None = None
        self._preparing = preparing
        self._keeping = keeping
        self._most_bytes = most_bytes
        self._send = send

    def add(
        self, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout_s: float | None
    ) -> Future[Any]:
        """Add a call, which may take so many seconds. Tells its future.

        Raises:
            NotSerializable: an argument or the function cannot be pickled.
        """
        self._fill_in()
        try:
            self._preparing.turn_to(target, timeout_s)
            self._preparing.add(args, kwargs)
        except StorageError as error:
            self.broken = error
        return self.calls.another(target.name)

    @property
    def full(self) -> bool:
        """Whether there are as many as a task holds."""
        return is_full(self._preparing, most_bytes=self._most_bytes)

    def send(self) -> None:
        """Have them submitted; what cannot be is told by its future. What was given up meanwhile is let be."""
        self._send(self)

    def job(self) -> Job:
        """Make the job. Raises what `Preparing.job` does, and StorageError."""
        self._fill_in()
        job = self._preparing.job()
        self._keeping.finish()
        return job

    def fail(self, error: BaseException) -> None:
        """Tell every call that is left why it was not sent."""
        self.calls.settle([(number, Result(error=self._failed(number, error))) for number in self.calls.left])

    def _fill_in(self) -> None:
        """Let a call that an interrupt has kept from its future be one that nobody waits for."""
        while len(self.calls) < self._preparing.calls:
            self.calls.another(self.name).cancel()

    def _failed(self, number: int, error: BaseException) -> BaseException:
        future = self.calls.future(number)
        failed = not_submitted(future.name, error)
        failed.call_id, failed.__cause__ = future.call_id, error
        return failed
