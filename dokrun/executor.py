"""A `concurrent.futures.Executor` whose calls run on DOK, for everything that takes one."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from dokrun.errors import OptionError
from dokrun.function import SESSION, RemoteFunction
from dokrun.options import GivenOptions, Options
from dokrun.shim import protocol

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from dokrun.engine.target import Target
    from dokrun.future import Future
    from dokrun.progress import Far
    from dokrun.sessions import Session

P = ParamSpec("P")
T = TypeVar("T")


class Road(Protocol):
    """How an executor's calls get to a container."""

    def take(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Future[Any]:
        """Take a call, which is sent now or later. Raises RuntimeError after `close`, and what a call raises."""

    def close(self) -> None:
        """Send what was not sent yet, and take no more; waits for nothing."""


class Executor(concurrent.futures.Executor):
    """Runs functions on DOK for everything that takes a `concurrent.futures.Executor`.

    It takes plain functions and `@remote` ones. **Calls that are submitted together are one task**, since DOK runs one
    task of a project at a time, and bills some plans a minute at least for each:

    - The first calls are sent when none has followed for a fifth of a second, or at once if somebody waits for one, by
      `result()`, `exception()` or `await`.
    - What is submitted while they run is gathered, and goes together as soon as all of them have their results: it
      would not run sooner in a task of its own.
    - As many as fill a task (100,000, or 64 MiB of arguments) are sent at once, and `shutdown`, or the end of a `with`
      block, sends what there is.
    - A call that is cancelled before it was sent costs nothing.

    With `session=`, or in a session's block without a plan, each call goes to that warm container at once, and
    `shutdown` leaves it as it is.

    In a task, `max_workers` calls run at the same time. Each has its own timeout, its own exception, and its own
    `dok.Future`. When the process ends without `shutdown`, what has no result is cancelled, as all calls are; with
    `detach=True` what was sent goes on.

    Args:
        max_workers: how many calls run at the same time in a task; "cpus", one for each processor that the container
            has; one for each GPU if nothing is said. If there are more, they share the GPUs.
        **options: those of `remote`; all of them are named. A `@remote` function's own timeout and the like hold before
            them, and calls whose options differ in more than the timeout do not share a task.

    Raises:
        ValueError: `max_workers` is a number less than 1.
        OptionError: an option is not known or wrong.

    Examples:
        >>> with dok.Executor(plan="v100-32gb") as executor:
        ...     futures = [executor.submit(pow, 2, number) for number in range(4)]
        ...     print([future.result() for future in futures])
        ...     print(list(executor.map(abs, [-1, -2])))
        [1, 2, 4, 8]
        [1, 2]
    """

    def __init__(self, max_workers: int | Literal["cpus"] | None = None, **options: Unpack[GivenOptions]) -> None:
        self._workers = protocol.EACH_PROCESSOR if max_workers == "cpus" else max_workers
        if max_workers != "cpus" and max_workers is not None:
            if not isinstance(max_workers, int):
                raise OptionError(f'max_workers={max_workers!r} must be a whole number, "cpus" or None')
            if max_workers <= 0:
                raise ValueError("max_workers must be greater than 0")
        self._options = Options().updated(options)
        # One that is made in a session's block, and says no plan, belongs to it.
        self._session: Session | None = self._options.session or (None if self._options.plan else SESSION.get())
        if self._session is not None and max_workers is not None:
            raise OptionError(
                "max_workers= is for the executor's own tasks; a session is given workers= when it is made"
            )
        self._lock = threading.Lock()
        self._road: Road | None = None
        self._closed = False
        # In the order of the calls. Not this object is what those that are under way know, but this alone.
        self._unfinished: dict[Future[Any], None] = {}
        self._pid = os.getpid()

    @overload
    def submit(self, fn: RemoteFunction[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a function called on DOK, and return the call's future at once.

        Raises:
            RuntimeError: after `shutdown`.
            OptionError: the arguments do not fit the function's signature, there is no plan, or a `@remote` function
                has another plan, image or profile than the executor.
            NotSerializable: the function or an argument cannot be pickled; names which, and where inside it.
            ConfigError: the profile is not complete.
        """
        target, own = _remote(fn).__dokrun_call__(args, kwargs)
        self._check(target.name, own)
        future = self._open_road().take(target, args, kwargs, own.over(self._options))
        self._unfinished[future] = None
        future.add_done_callback(functools.partial(_forget, self._unfinished))
        return future

    @overload
    def map(
        self,
        fn: RemoteFunction[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]: ...
    @overload
    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]: ...
    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,  # noqa: ARG002 - see the docstring
    ) -> Iterator[Any]:
        """Submit a call for each of the items, at once, and yield the results in their order.

        When the iterator is closed, or a result is an exception, the calls that are left are cancelled.

        Args:
            fn: the function, plain or `@remote`.
            *iterables: the items; of several iterables, one of each at a time.
            timeout: how many seconds after this call the last result may come.
            chunksize: makes no difference: calls share tasks anyway, and workers take several short ones at a time.

        Raises:
            TimeoutError: a result was not there in time (`concurrent.futures.TimeoutError` before Python 3.11).
            Exception: what `submit` raises, in which case nothing is sent; or what a call raised, in its turn.
        """
        until = None if timeout is None else time.monotonic() + timeout
        remote = _remote(fn)
        futures: deque[Future[Any]] = deque()
        try:
            for args in zip(*iterables, strict=False):
                futures.append(self.submit(remote, *args))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return _results(futures, until)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the stdlib's
        """Send what was gathered, and take no more calls.

        Args:
            wait: whether to wait until every call has its outcome. What takes long shows how far it is.
            cancel_futures: whether to cancel the calls whose task does not run yet, as far as was last heard.
        """
        with self._lock:
            self._leave_to_the_parent()
            self._closed = True
            road = self._road
        if cancel_futures:
            # The last first, so that none of them gets to run.
            for future in reversed(list(self._unfinished)):
                if not future.running():
                    future.cancel()
        if road is not None:
            road.close()
        if wait:
            self._wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the calls as the stdlib's do; but a Ctrl-C waits for nothing, and cancels what does not run yet."""
        interrupted = kind is not None and not issubclass(kind, Exception)
        self.shutdown(wait=not interrupted, cancel_futures=interrupted)
        if interrupted:
            self._say_what_goes_on()

    def __repr__(self) -> str:
        """Tell the plan, and how many calls have no outcome yet."""
        return f"<dokrun.Executor plan={self._options.plan} unfinished={len(self._unfinished)}>"

    def _open_road(self) -> Road:
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._leave_to_the_parent()
            if self._road is None and self._session is not None:
                self._road = _Warm(self._session)
            if self._road is None:
                from dokrun import engine
                from dokrun.engine.gatherer import Gatherer

                profile = self._options.profile
                self._road = road = Gatherer(lambda: engine.get(profile), self._workers)
                # At the end of the process, what was not sent is cancelled with all the rest.
                weakref.finalize(self, road.close).atexit = False
            return self._road

    def _leave_to_the_parent(self) -> None:
        """After a fork, let be what the parent has called; its thread is not here either."""
        if self._pid != os.getpid():
            self._pid, self._road, self._unfinished = os.getpid(), None, {}

    def _check(self, name: str, own: Options) -> None:
        """Refuse a function that says of itself that it runs somewhere else."""
        for option in ("plan", "image", "profile"):
            mine, its = getattr(self._options, option), getattr(own, option)
            # Whose account it is, is never left to the function.
            if its is not None and mine != its and (mine is not None or option == "profile"):
                has = "has none" if mine is None else f"has {mine!r}"
                raise OptionError(
                    f"{name} has {option}={its!r}, and the executor {has}; submit {name}.options({option}=None), "
                    f"or use an executor with the same {option}="
                )

    def _wait(self) -> None:
        from dokrun.display import Display

        left = list(self._unfinished)
        display = Display("executor", lambda: _far(left))
        try:
            with display.wait() as wait:
                while concurrent.futures.wait(left, wait.pause_s).not_done:
                    wait.look()
        except KeyboardInterrupt:
            self._say_what_goes_on()
            raise
        display.end()

    def _say_what_goes_on(self) -> None:
        from dokrun.display import at_prompt

        left = list(self._unfinished)
        costs = next((f" and may {future.costs}" for future in left if future.costs), "")
        if left and at_prompt():  # the end of a script says what becomes of them
            one = len(left) == 1
            going_on = "1 call of an executor goes on" if one else f"{len(left)} calls of an executor go on"
            stop = "its cancel() stops it" if one else "their cancel() stops them"
            print(f"dokrun: {going_on}{costs}; {stop}", file=sys.stderr)


class _Warm:
    """The way to a session's container, which does not end with the executor."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Future[Any]:
        """Send a call. Raises what a call raises."""
        return self._session._live.call(target, args, kwargs, options)  # noqa: SLF001

    def close(self) -> None:
        """Do nothing: all that there was is sent."""


def _remote(function: Callable[..., Any]) -> RemoteFunction[..., Any]:
    return function if isinstance(function, RemoteFunction) else RemoteFunction(function, Options())


def _forget(unfinished: dict[Future[Any], None], done: concurrent.futures.Future[Any]) -> None:
    unfinished.pop(cast("Future[Any]", done), None)


def _far(futures: Sequence[Future[Any]]) -> Far:
    """Tell how far some calls are together; the first that is not done says what is waited for."""
    from dokrun.progress import Far

    status = next((future.status for future in futures if not future.done()), "done")
    cancelled = sum(future.cancelled() for future in futures)
    done = [future for future in futures if future.done() and not future.cancelled()]
    failed = sum(future.exception() is not None for future in done)
    return Far(status, total=len(futures), done=len(done) - failed, failed=failed, cancelled=cancelled)


def _results(futures: deque[Future[T]], until: float | None) -> Iterator[T]:
    try:
        while futures:
            yield _result(futures.popleft(), until)
    finally:
        for future in futures:
            future.cancel()


def _result(future: Future[T], until: float | None) -> T:
    try:
        return future.result(None if until is None else until - time.monotonic())
    finally:
        future.cancel()  # where it was not there in time
