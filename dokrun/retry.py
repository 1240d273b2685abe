"""How often a call may run again. A value, and the decisions that follow from it; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dokrun.errors import CallFailed, CallTimeout, OptionError, RemoteError, TaskFailed, WorkerDied

LONGEST_PAUSE_S = 3600.0
# Two deaths alike show that the next attempt would die the same death.
_DEATHS_ALIKE = 2


@dataclass(frozen=True)
class Retry:
    """Lets a function that has started run again: `retries=dok.Retry(3, on=(OSError,), backoff=10)`.

    What provably failed before the function started is tried again without it.

    Args:
        times: how many more attempts there may be. Each is a task of its own, and costs as much.
        on: which exceptions of the function's are worth another attempt; none if nothing is said. A container that
            was lost, and a process that was killed, are always; after two such deaths alike there is no further one.
        backoff: seconds before the second attempt, twice as many before each further one, an hour at most.

    Examples:
        >>> @dok.remote(plan="v100-32gb", retries=dok.Retry(2, on=(ConnectionError,)))
        ... def fetch() -> int:
        ...     if dok.current().attempt == 1:
        ...         raise ConnectionError("try again")
        ...     return dok.current().attempt
        >>> fetch().result()
        2
    """

    times: int
    on: type[BaseException] | tuple[type[BaseException], ...] = ()
    backoff: float = 0.0

    def __post_init__(self) -> None:
        times, kinds, backoff = self._given()
        if not isinstance(times, int) or isinstance(times, bool) or times < 0:
            raise OptionError(f"times={times!r} must be a whole number, 0 or more")
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise OptionError("on= must be an exception class, or a tuple of them")
        if isinstance(backoff, bool) or not isinstance(backoff, (int, float)) or not backoff >= 0:
            raise OptionError(f"backoff={backoff!r} must be a number of seconds, 0 or more")

    def _given(self) -> tuple[object, tuple[object, ...], object]:
        """Tell what was given, which those who do not read types get wrong."""
        return self.times, self.on if isinstance(self.on, tuple) else (self.on,), self.backoff

    def allows(self, failures: Sequence[BaseException]) -> bool:
        """Tell whether there shall be another attempt, after these failures, in order, one for each attempt."""
        last = failures[-1]
        if len(failures) > self.times:
            return False
        if isinstance(last, TaskFailed) and last.status == "canceled":
            return False  # somebody wanted it to end
        if isinstance(last, (TaskFailed, WorkerDied)) and not _alike(failures):
            return True  # the machine's failure rather than the function's
        # Of dokrun's own errors, those that the function may do without the next time.
        own = isinstance(last, CallFailed) and not isinstance(last, (CallTimeout, RemoteError, TaskFailed, WorkerDied))
        return isinstance(last, self.on) and not own

    def gives_up(self, failures: Sequence[BaseException]) -> bool:
        """Tell whether there would be another attempt, had not the last two died alike."""
        return len(failures) <= self.times and _alike(failures)

    def pause_s(self, attempt: int) -> float:
        """Tell how long to wait after the attempt of this number, counted from 1."""
        return float(min(self.backoff * 2.0 ** (attempt - 1), LONGEST_PAUSE_S))


def _alike(failures: Sequence[BaseException]) -> bool:
    last = failures[-_DEATHS_ALIKE:]
    deaths = {(type(death), death.signal, death.exit_code) for death in last if isinstance(death, WorkerDied)}
    return len(last) == _DEATHS_ALIKE and all(isinstance(death, WorkerDied) for death in last) and len(deaths) == 1
