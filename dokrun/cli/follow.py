"""The commands that wait for calls: `dokrun attach`, `dokrun result`; and how values and failures are shown."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from dokrun import keys
from dokrun.cli import render
from dokrun.cli.ends import NotYet, Status, say
from dokrun.cli.opened import engine_of
from dokrun.cli.parameters import Handle, Profile
from dokrun.cli.watching import Watched, watch
from dokrun.errors import DiskError, DokrunError, NotSerializable, OptionError

if TYPE_CHECKING:
    from dokrun.engine.engine import Engine
    from dokrun.future import Future

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


class NotShown(DokrunError):
    """A value is there, and cannot be shown or kept as was asked for."""


def present(watched: Watched, output: Path | None, *, as_json: bool) -> None:
    """Print the values of calls that have ended, or write them to a file; then fail as the first has that did."""
    outcomes = [outcome(future) for future in watched.futures]
    failed = [(number, error) for number, (_, error) in enumerate(outcomes) if error is not None]
    values = [value for value, error in outcomes if error is None]
    if not failed or (watched.many and output is None and not as_json):
        try:
            show(values if watched.many else values[0], output, as_json=as_json, many=watched.many)
        except (NotShown, DiskError):
            future = watched.futures[0]
            if future.costs:
                say(f"{future.name} need not run again: dokrun result {keys.shortened(future.handle)} has its value")
            raise
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
        task = engine.desk.find(handle).task
        if not task.ended:
            raise NotYet(f"{watched.name} has not ended yet: its task {task.id} is {task.status}")
        return
    import concurrent.futures

    if concurrent.futures.wait(watched.futures, _BRIEFLY_S).not_done:
        raise NotYet(f"{watched.name} has not ended yet")


def show(value: Any, output: Path | None = None, *, as_json: bool = False, many: bool = False) -> None:
    """Keep a value in a file, print it as JSON, or both; else as Python writes it, of many one in each line."""
    if output is not None:
        _keep(value, output)
    if as_json:
        try:
            told = json.dumps(value, indent=2, ensure_ascii=not render.is_unicode(), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise NotShown(
                f"the value, of type {type(value).__name__}, cannot be written as JSON ({error}); leave --json away to "
                "see it as Python writes it, or keep it with --output FILE"
            ) from error
        print(told)
    elif output is None:
        for each in value if many else [value]:
            print(_shown(each))


def _keep(value: Any, output: Path) -> None:
    from dokrun.payload.serialize import plain_pickle

    try:
        data = plain_pickle(value)
    except NotSerializable as error:
        raise NotShown(str(error)) from error
    write_file(output, data)
    say(f"the value is in {output}")


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
