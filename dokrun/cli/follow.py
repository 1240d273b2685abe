"""The commands that wait for calls: `dokrun attach`, `dokrun result`; and the waiting itself, with log and progress."""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from dokrun import keys
from dokrun.cli.ends import NotYet, Status, say
from dokrun.cli.opened import attached, engine_of
from dokrun.cli.parameters import Handle, Profile
from dokrun.errors import ApiError, CallFailed, DiskError, DokrunError, OptionError

if TYPE_CHECKING:
    from dokrun.engine import Engine
    from dokrun.future import Future
    from dokrun.map import Map
    from dokrun.progress import Far

# How long the rest of a log may take when every call has its outcome.
_REST_S = 30.0
# How long the outcome of a session's call may take to be found, where it is there.
_BRIEFLY_S = 10.0


def attach(handle: Handle, profile: Profile = None) -> None:
    """Follow a call's log and progress until its end, and exit as it has ended.

    What it prints goes to standard output, how far it is to standard error. Ctrl-C leaves it running. Of a map all
    calls are followed, of a session its container.
    """
    engine = engine_of(profile)
    watched = watch(engine, handle)
    watched.wait(sys.stdout)
    failed = [error for future in watched.futures if (error := outcome(future)[1]) is not None]
    receipt = watched.futures[0].receipt
    if not failed:
        say(f"{watched.name} has ended{'' if receipt is None else f': {receipt}'}")
        return
    if len(watched.futures) > 1:
        say(f"{len(failed)} of the {len(watched.futures)} calls of {watched.name} have failed; the first one:")
    fail(watched.name, failed[0])


def result(
    handle: Handle,
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="Keep it in this file, as a pickle.")] = None,  # noqa: UP045 - typer reads it at run time
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Whether to wait until it is there.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, if it can be.")] = False,
    profile: Profile = None,
) -> None:
    """Wait for the value of a call, or of a map's calls, and print it.

    It is printed as Python writes it, of a map one value in each line.
    """
    engine = engine_of(profile)
    watched = watch(engine, handle, log=False)
    if watched.of_session:
        raise OptionError(f"{handle!r} is a session, which has no value; its calls have handles of their own")
    if not wait:
        _check_there(engine, handle, watched)
    watched.wait(sys.stdout)
    present(watched, output, as_json=as_json)


def present(watched: Watched, output: Path | None, *, as_json: bool) -> None:
    """Print the values of calls that have ended, or write them to a file; then fail as the first has that did."""
    outcomes = [outcome(future) for future in watched.futures]
    failed = [(number, error) for number, (_, error) in enumerate(outcomes) if error is not None]
    values = [value for value, error in outcomes if error is None]
    if not failed or (watched.many and output is None and not as_json):
        show(values if watched.many else values[0], output, as_json=as_json, many=watched.many)
    if failed:
        number, error = failed[0]
        if watched.many:
            say(
                f"{len(failed)} of the {len(outcomes)} calls of {watched.name} have failed, the first is call {number}:"
            )
        fail(watched.name, error)


def _check_there(engine: Engine, handle: str, watched: Watched) -> None:
    read = keys.read_handle(handle)
    if read is None or not read.call:
        task = engine.find(handle).task
        if not task.ended:
            raise NotYet(f"{watched.name} has not ended yet: its task {task.id} is {task.status}")
        return
    import concurrent.futures

    if concurrent.futures.wait(watched.futures, _BRIEFLY_S).not_done:
        raise NotYet(f"{watched.name} has not ended yet")


def show(value: Any, output: Path | None = None, *, as_json: bool = False, many: bool = False) -> None:
    """Print a value, as Python writes it or as JSON, or keep it in a file; of many, one in each line."""
    if output is not None:
        from dokrun.payload.serialize import plain_pickle

        write_file(output, plain_pickle(value))
        say(f"the value is in {output}")
    elif as_json:
        try:
            told = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise OptionError(
                f"the value, of type {type(value).__name__}, cannot be written as JSON ({error}); leave --json away to "
                "see it as Python writes it, or keep it with --output FILE"
            ) from error
        print(told)
    else:
        for each in value if many else [value]:
            print(_shown(each))


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - it is the user's own, and may do anything
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"


def write_file(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all. Raises DiskError."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        raise DiskError(f"{path} cannot be written: {error.strerror}", folder=str(path.parent)) from error
    finally:
        try:
            aside.unlink(missing_ok=True)
        except OSError:
            pass  # where it could not be made it is not there


def outcome(future: Future[Any]) -> tuple[Any, BaseException | None]:
    """Tell what a call that has ended has come to: its value, or its error."""
    import concurrent.futures

    try:
        error = future.exception()
    except concurrent.futures.CancelledError as cancelled:
        return None, cancelled
    return (future.result(), None) if error is None else (None, error)


def fail(name: str, error: BaseException) -> NoReturn:
    """Tell what a call has failed with, its remote traceback first, and exit."""
    cause = error.__cause__
    if type(cause).__name__ == "RemoteTraceback" and cause is not None:
        print(str(cause.args[0]).rstrip(), file=sys.stderr)
    if isinstance(error, DokrunError):
        raise error
    import concurrent.futures

    if isinstance(error, concurrent.futures.CancelledError):
        say(f"{name} was cancelled")
    else:
        from dokrun.engine.reports import described

        say(f"{name} raised {described(error)}")
    raise typer.Exit(Status.CALL_FAILED)


@dataclass(frozen=True)
class Watched:
    """Calls that are waited for: their futures, how far they are, and what yields their log, if it is wanted.

    `many` tells whether they are a map's, and `of_session` whether it is a session that is waited for.
    """

    name: str
    futures: Sequence[Future[Any]]
    far: Callable[[], Far]
    log: Callable[[], Iterator[str]] | None
    many: bool = False
    of_session: bool = False

    def wait(self, out: IO[str]) -> None:
        """Wait until all have ended; write their log as it grows, and between its lines how far they are."""
        from dokrun.display import Display

        display = Display(self.name, self.far)
        last = "\n"

        def wait() -> Any:
            # Nothing is drawn behind half a line.
            return display.wait() if last.endswith("\n") else None

        for last in _Events(self).each(wait):
            out.write(last)
            out.flush()
        if not last.endswith("\n"):
            print(file=out, flush=True)
        display.end()


class _Events:
    """What comes while calls are waited for: pieces of their log, and their ends."""

    def __init__(self, watched: Watched) -> None:
        # A piece of the log; or None, when a call or the log has come to its end.
        self._came: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._left = len(watched.futures)
        self._logging = watched.log is not None
        # When what is left of the log is not waited for any longer; it is set when all calls have ended.
        self._until: float | None = None
        for future in watched.futures:
            future.add_done_callback(self._ended)
        if watched.log is not None:
            threading.Thread(target=partial(self._read, watched.log), name="dokrun-log", daemon=True).start()

    def each(self, wait: Callable[[], Any]) -> Iterator[str]:
        """Yield the log, and show how far it is meanwhile: in what `wait` opens, if it is not None."""
        while True:
            waiting = wait()
            with contextlib.nullcontext() if waiting is None else waiting:
                came = self._next(waiting)
            if came is not None:
                yield came
            elif self._over():
                return

    def _next(self, waiting: Any) -> str | None:
        """Wait for what comes next; None is an end, or too long a silence after the last one."""
        while True:
            pauses = [None if waiting is None else waiting.pause_s, self._left_s()]
            try:
                return self._came.get(timeout=min((s for s in pauses if s is not None), default=None))
            except queue.Empty:
                if self._left_s() == 0.0:
                    return None
                if waiting is not None:
                    waiting.look()

    def _over(self) -> bool:
        with self._lock:
            if self._left:
                return False
            over = self._came.empty() and not self._logging
            self._until = self._until or time.monotonic() + _REST_S
        return over or self._left_s() == 0.0

    def _left_s(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def _ended(self, _: object) -> None:
        with self._lock:
            self._left -= 1
        self._came.put(None)

    def _read(self, log: Callable[[], Iterator[str]]) -> None:
        try:
            for piece in log():
                self._came.put(piece)
        except (ApiError, CallFailed) as error:
            say(f"the log cannot be seen: {str(error).splitlines()[0]}")
        except Exception:  # noqa: BLE001 - the futures tell what is wrong
            pass
        finally:
            self._logging = False
            self._came.put(None)


def watch(engine: Engine, text: str, *, log: bool = True) -> Watched:
    """Find the calls that a handle means."""
    from dokrun.engine.live import Live

    found = attached(engine, text)
    if isinstance(found, Live):
        future = found.run.calls.future(0)
        return Watched(future.name, [future], far_of(future), future.logs if log else None, of_session=True)
    return watched_of(found, (lambda: engine.logs(engine.find(text))) if log else None)


def watched_of(found: Future[Any] | Map[Any], log_of_map: Callable[[], Iterator[str]] | None) -> Watched:
    """Make what is waited for of a call's future, or of a map, whose log is told apart."""
    from dokrun.map import Map

    if isinstance(found, Map):
        return Watched(found.name, found.futures, far_of(found), log_of_map, many=True)
    return Watched(found.name, [found], far_of(found), None if log_of_map is None else found.logs)


def far_of(waited: Any) -> Callable[[], Far]:
    """Tell what says how far a future or a map is."""
    return waited._far  # type: ignore[no-any-return]  # noqa: SLF001 - what shows itself has no public word for it
