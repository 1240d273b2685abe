"""The result of a call that runs elsewhere: a real `concurrent.futures.Future`, for everything that takes one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from dokrun.cost import Receipt

T = TypeVar("T")


class Future(concurrent.futures.Future[T]):
    """The outcome of one call, which is there at once, or later.

    `result(timeout=None)` waits (in seconds), returns the value or raises what the function raised, with the remote
    traceback as its cause; `await future` does the same in asyncio. `concurrent.futures.wait` and `as_completed` work.
    A callback of `add_done_callback` runs in one of dokrun's own threads and must not wait for another call.

    Attributes:
        call_id: 32 hexadecimal digits, the same in every attempt; inside the function, `dok.current().call_id`.
        name: the function's name.
        task_id: DOK's id of the task, None until DOK has taken it.
        status: "preparing", "staging", then DOK's own words: waiting, running, error, done, aborted, canceled.
        receipt: what it cost; None until the task has ended.
    """

    def __init__(self, call_id: str, name: str) -> None:
        super().__init__()
        self.call_id = call_id
        self.name = name
        self.task_id: str | None = None
        self.status = "preparing"
        self.receipt: Receipt | None = None
        self.on_cancel: Callable[[], None] | None = None

    def cancel(self) -> bool:
        """Cancel the call, whether it waits or runs: its task is told to end.

        Returns at once. Returns False, and does nothing, where the outcome is there already.
        """
        # Never set to running, a stdlib future can be cancelled until it has its outcome.
        if not super().cancel():
            return False
        with self._condition:
            if self._state != concurrent.futures._base.CANCELLED:  # noqa: SLF001 - the stdlib has no public word for it
                return True
            # Nobody else will: without this, `wait` and `as_completed` would not hear of it.
            self.set_running_or_notify_cancel()
        if self.on_cancel is not None:
            self.on_cancel()
        return True

    def result(self, timeout: float | None = None) -> T:
        """Wait for the value, at most `timeout` seconds, and return it.

        Raises:
            Exception: what the function raised, as itself.
            CallFailed: there is no value for another reason; its `ran` says whether the function ran.
            TimeoutError: it is not there yet; the call goes on (`concurrent.futures.TimeoutError` before Python 3.11).
            CancelledError: it was cancelled.
        """
        try:
            return super().result(timeout)
        except KeyboardInterrupt:
            print(f"dokrun: {self.name} goes on ({self.status}); future.cancel() stops it", file=sys.stderr)
            raise

    def running(self) -> bool:
        """Tell whether the task runs now, as far as was last heard."""
        return self.status == "running" and not self.done()

    def settle(self, value: T) -> None:
        """Give the value, unless the call was cancelled meanwhile. For the engine."""
        self._settle(lambda: self.set_result(value))

    def fail(self, error: BaseException) -> None:
        """Give the exception, unless the call was cancelled meanwhile. For the engine."""
        self._settle(lambda: self.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        try:
            settle()
        except concurrent.futures.InvalidStateError:
            if not self.cancelled():
                raise

    def __await__(self) -> Generator[Any, None, T]:
        """Wait without blocking the event loop."""
        return asyncio.wrap_future(self).__await__()

    def __reduce__(self) -> Any:
        raise TypeError("a future cannot be sent or stored; pass future.result()")

    def __repr__(self) -> str:
        """Tell the function's name, the call's id and how far it is."""
        state = "cancelled" if self.cancelled() else self.status
        return f"<dokrun.Future {self.name} {self.call_id[:8]} {state}>"
