"""The result of a call that runs elsewhere: a real `concurrent.futures.Future`, for everything that takes one.

In the container this file is there too, for modules that speak of futures; what shows how far one is, is not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import fnmatch
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dokrun.artifact import Artifact, ArtifactFile, download
from dokrun.errors import CallFailed, OptionError, suggest

if TYPE_CHECKING:
    from dokrun.cost import Receipt
    from dokrun.display import Display
    from dokrun.jobstate import Progress
    from dokrun.progress import Far

T = TypeVar("T")

# In a log, a call says how far it is when it takes longer than this; of many, most would have nothing else to say.
_LINES_FROM_S = 10.0
# How much of an exception's own message a panel shows, in characters.
_LONGEST_WHY = 300


class Future(concurrent.futures.Future[T]):
    """The outcome of one call, which is there at once, or later.

    `result(timeout=None)` waits (in seconds), returns the value or raises what the function raised, with the remote
    traceback as its cause; `await future` does the same in asyncio. `concurrent.futures.wait` and `as_completed` work.
    A callback of `add_done_callback` runs in one of dokrun's own threads and must not wait for another call.

    Attributes:
        call_id: 32 hexadecimal digits, the same in every attempt; inside the function, `dok.current().call_id`.
        name: the function's name.

    Examples:
        >>> @dok.remote(plan="v100-32gb")
        ... def double(number: int) -> int:
        ...     return 2 * number
        >>> future = double(21)
        >>> future.result(timeout=60)
        42
        >>> future.name, future.done(), future.files()
        ('double', True, [])
        >>> future.receipt
        Receipt(each_seconds=(...,), price=Price(plan='v100-32gb', ...), phases=Phases(...))
    """

    def __init__(
        self,
        call_id: str,
        name: str,
        progress: Progress | None = None,
        number: int = 0,
        together: Callable[[], Display | None] | None = None,
    ) -> None:
        super().__init__()
        self._number = number
        # What shows in a notebook how far it is with those that it shares a task with; None where it is alone.
        self._together = together
        self.call_id = call_id
        self.name = name
        if progress is None:
            from dokrun.jobstate import Progress

            progress = Progress()
        self._progress = progress
        # From when to when it goes on, as this process sees it.
        self._since = time.monotonic()
        self._until: float | None = None
        self._shown: Display | None = None
        # What to type to reach it, in what is said of it.
        self._variable = "future"

    @property
    def task_id(self) -> str | None:
        """DOK's id of the task, the last one if there were several; None until DOK has taken it."""
        return self._progress.task_id

    @property
    def attempt(self) -> int:
        """Which attempt is under way or was the last, counted from 1."""
        return self._progress.attempt

    @property
    def costs(self) -> str:
        """What the call does while its task runs, as in "cost ¥16.80 a minute"; empty where nobody pays."""
        return self._progress.costs

    @property
    def status(self) -> str:
        """How far it is.

        "preparing", "image" while one is looked up or built, "staging", then DOK's own words: waiting, running, error,
        done, aborted, canceled; "retrying" between two attempts; "looking" until one is found that was attached to.
        """
        return self._progress.status

    @property
    def position(self) -> int | None:
        """How many of the project's tasks are before this one's in the line, the running one among them.

        0 is next. None where it does not wait in line: it was not sent yet, it runs, or it has ended. The service is
        asked, once in ten seconds at most.

        Raises:
            ApiError: the service refused or did not answer.
        """
        place = None if self.done() else self._progress.place(ask=True)
        return None if place is None else place.before

    @property
    def receipt(self) -> Receipt | None:
        """What the call cost, all its attempts so far together; None until a task has ended."""
        return self._progress.receipt

    @property
    def handle(self) -> str:
        """A short text for `dok.attach(handle)`, in any other process or on another machine. No secret.

        It is there once the task's definition is made, which waits for the image.

        Raises:
            CallFailed: the call failed before that.
            CancelledError: it was cancelled before that.
        """
        handle: str | None = self._progress.wait_for("handle", self.done)
        if handle is None:
            raise self.exception() or RuntimeError(f"{self.name} has no handle")
        return handle

    @property
    def http_uri(self) -> str:
        """The public address of the server that the function has started, as soon as one answers there.

        Waits for that: the task may stand in line, and the server take its time to load. It is a function's with
        `http=`; another attempt has another address. Whoever knows it can reach it. The wait is by requests without
        credentials, at growing intervals of five seconds at most, and any answer will do but the 502, 503 and 504 of a
        proxy that reaches nobody.

        Raises:
            OptionError: the function has no `http=`.
            Exception: what the call failed with, where it failed before.
            CallFailed: it has ended, and its server with it.
            CancelledError: it was cancelled.
        """
        if self._progress.wait_for("serves", self.done) is False:
            raise OptionError(f"{self.name} has no http port; write @remote(http=…) with the port of its server")
        if self._progress.knock is not None:
            self._progress.knock()
        uri: str | None = self._progress.wait_for("http_uri", self.done)
        if uri is None or self.done():
            ended = CallFailed(f"{self.name} has ended, and its http port with it", ran="yes", call_id=self.call_id)
            raise self.exception() or ended
        return uri

    def logs(self) -> Iterator[str]:
        """Yield what the task writes, as it grows, piece by piece, until it has ended. Waits for it to begin."""
        task_id: str | None = self._progress.wait_for("task_id", self.done)
        if self._progress.logs is not None and task_id is not None:
            yield from self._progress.logs(task_id, self._number)

    def all_logs(self) -> Iterator[str]:
        """Yield what the tasks of all its attempts write, one after another, until there is an outcome. For `%%dok`."""
        progress, seen = self._progress, None
        progress.hurry()
        while True:
            known = None, seen
            progress.wait_until(lambda: progress.task_id not in known or self.done())  # noqa: B023 - it is over here
            if progress.task_id in known or progress.logs is None:
                return
            seen = progress.task_id
            yield from progress.logs(seen, self._number)
            if progress.session is not None:
                return  # which tells of all attempts by itself

    def cancel(self) -> bool:
        """Cancel the call, whether it waits or runs: its task is told to end.

        Returns at once. Returns False, and does nothing, where the outcome is there already.
        """
        # Never set to running, a stdlib future can be cancelled until it has its outcome.
        if not super().cancel():
            return False
        self._until = time.monotonic()
        with self._condition:
            if self._state != concurrent.futures._base.CANCELLED:  # noqa: SLF001 - the stdlib has no public word for it
                return True
            # Nobody else will: without this, `wait` and `as_completed` would not hear of it.
            self.set_running_or_notify_cancel()
        self._progress.update()
        if self._progress.cancel is not None:
            self._progress.cancel()
        return True

    def result(self, timeout: float | None = None) -> T:
        """Wait for the value, at most `timeout` seconds, and return it.

        What takes long shows how far it is, on standard error, or in a notebook's cell; `DOKRUN_PROGRESS=0` keeps it
        from that.

        Raises:
            Exception: what the function raised, as itself.
            CallFailed: there is no value for another reason; its `ran` says whether the function ran.
            TimeoutError: it is not there yet; the call goes on (`concurrent.futures.TimeoutError` before Python 3.11).
            CancelledError: it was cancelled.
        """
        try:
            return super().result(timeout if self.done() else self._show(timeout))
        except KeyboardInterrupt:
            self.interrupted()
            raise
        finally:
            self.show_end()

    def interrupted(self) -> None:
        """Say, to whoever waits no longer, what goes on and how it is stopped. For `%%dok`.

        What becomes of it where a script ends, is said at the end of that.
        """
        from dokrun.display import at_prompt

        if not at_prompt():
            return
        progress = self._progress
        costs = f" and may {progress.costs_on}" if progress.costs_on else ""
        stop = f"{self._variable}.cancel() stops it" + (", session.close() what it runs in" if progress.session else "")
        print(f"dokrun: {self.name} goes on ({self.status}){costs}; {stop}", file=sys.stderr)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as `result` does, and return what it would raise: None where there is a value.

        Raises:
            TimeoutError: as `result`.
            CancelledError: as `result`.
        """
        self._progress.hurry()
        return super().exception(timeout)

    def _show(self, timeout: float | None) -> float | None:
        """Show how far the call is while it is waited for. Tells what is left of the time for that."""
        self._progress.hurry()
        until, display = None if timeout is None else time.monotonic() + timeout, self._for_all or self._display
        with display.wait() as wait:
            while True:
                left_s = None if until is None else max(0.0, until - time.monotonic())
                pause_s = min((s for s in (wait.pause_s, left_s) if s is not None), default=None)
                concurrent.futures.wait([self], pause_s)
                if self.done() or left_s == 0.0:
                    break
                wait.look()
        return left_s

    def show_end(self) -> None:
        """Let what has shown how far it is show what it has come to, if that is there. For `%%dok`."""
        if self.done() and self._shown is not None:
            self._shown.end()
            if not self._shown.lasts:
                self._shown = None  # each knows the other, and a value may be large

    @property
    def _for_all(self) -> Display | None:
        return None if self._together is None else self._together()

    @property
    def _display(self) -> Display:
        """What shows how far the call is, in all waits for it and all cells."""
        if self._shown is None:
            from dokrun.display import Display

            self._shown = Display(
                self.name,
                self._far,
                lines_from_s=_LINES_FROM_S,
                span=lambda: (self._until or time.monotonic()) - self._since,
                # To read the log of a task once for each of its calls would be a stream and a thread for each.
                logs=self.all_logs if self._for_all is None else None,
                more=self._told,
            )
        return self._shown

    def _told(self) -> str:
        """Tell how the call is stopped, or what it has failed with."""
        if not self.done():
            handle = self._progress.handle if self._progress.costs else None
            if handle is None:
                return f"{self._variable}.cancel() stops it"
            from dokrun.keys import shortened

            return f"{self._variable}.cancel() stops it, or in a terminal: dokrun cancel {shortened(handle)}"
        error = None if self.cancelled() else self.exception()
        if error is None:
            return ""
        first = next(iter(str(error).splitlines()), "")[:_LONGEST_WHY]
        return f"{type(error).__name__}: {first}" if first else type(error).__name__

    def _far(self) -> Far:
        cancelled = self.cancelled()
        failed = self.done() and not cancelled and self.exception() is not None
        done = self.done() and not (cancelled or failed)
        return replace(self._progress.far, done=int(done), failed=int(failed), cancelled=int(cancelled))

    def files(self) -> list[ArtifactFile]:
        """Wait for the call's end, and tell what it left in `dok.artifact_dir()`; also when it has failed.

        Raises:
            CancelledError: it was cancelled.
        """
        self.exception()
        # The outcome may have come before the task's end.
        artifact: Artifact | None = self._progress.wait_for("artifact", lambda: self._progress.over)
        return [] if artifact is None else list(artifact.files)

    def download(self, folder: str | PathLike[str], *names: str) -> list[Path]:
        """Wait for the call's end, and bring the files that it left in `dok.artifact_dir()` here, all or some.

        They come from DOK, which keeps them for 72 hours after the task's end
        (https://manual.sakura.ad.jp/koukaryoku-dok-api/spec.html). A file keeps its permissions, as far as your umask
        allows, and a link to another file comes as that file. Links to folders come with everything, as relative ones;
        links that lead out of `dok.artifact_dir()` do not come, nor do devices: a warning in the log names them.

        Args:
            folder: where they shall lie; made here, whole or not at all. One that is there must be empty. Beside it,
                there must be room for the whole artifact for a while.
            names: which, as `files` tells them, or patterns as `*.pt` and `plots/*`; all if none is given.

        Returns:
            Where each file lies now.

        Raises:
            OptionError: there is no such file, or the folder is not empty.
            DiskError: the folder cannot be made, or its disk is full; call again with another, or when there is room.
            ApiError: DOK refused, or did not answer; call again.
            CancelledError: the call was cancelled.
        """
        known = [file.name for file in self.files()]
        wanted = set() if names else set(known)
        for name in names:
            found = [name] if name in known else fnmatch.filter(known, name)
            if not found:
                raise OptionError(f"{self.name} left no file {name!r}{suggest(name, known)}")
            wanted.update(found)
        return (
            [] if self._progress.artifact is None else download(self._progress.artifact, sorted(wanted), Path(folder))
        )

    def running(self) -> bool:
        """Tell whether the task runs now, as far as was last heard."""
        return self.status == "running" and not self.done()

    def settle(self, value: T) -> None:
        """Give the value, unless there is an outcome already. For the engine."""
        self._settle(lambda: self.set_result(value))

    def fail(self, error: BaseException) -> None:
        """Give the exception, unless there is an outcome already. For the engine."""
        self._settle(lambda: self.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        self._until = self._until or time.monotonic()
        try:
            settle()
        except concurrent.futures.InvalidStateError:
            pass  # the first one stands

    def __await__(self) -> Generator[Any, None, T]:
        """Wait without blocking the event loop."""
        self._progress.hurry()
        return asyncio.wrap_future(self).__await__()

    def __reduce__(self) -> Any:
        raise TypeError("a future cannot be sent or stored; pass future.result()")

    def show(self, *, log: bool = True, variable: str = "future") -> bool:
        """Show in the notebook's cell that runs how far it is, until it has ended. Tells whether there is one.

        Args:
            log: whether what it prints is shown there, too: the last lines.
            variable: what the notebook knows it by.
        """
        self._variable = variable
        return self._display.show(log=log)

    def _ipython_display_(self) -> None:
        if not self.show():
            print(repr(self))

    def __repr__(self) -> str:
        """Tell what `dok.attach` takes here, or the function's name and the call's id without that; and its state."""
        from dokrun.keys import read_handle

        state = self.status
        if self.done():
            # Among many calls one is done while its task still runs.
            state = "cancelled" if self.cancelled() else "failed" if self.exception() else "done"
        handle = read_handle(self._progress.handle or "")
        if handle is None or handle.call:  # the beginning of what a session has taken means the session
            return f"<dokrun.Future {self.name} {self.call_id[:8]} {state}>"
        which = "" if handle.calls == 1 else f" call {self._number}"
        return f"<dokrun.Future {handle.short}{which} {state}>"
