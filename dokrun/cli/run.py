"""`dokrun run script.py:train --epochs 3`, and `dokrun quote`: a function is called as it stands in its file."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from dokrun import config
from dokrun.cli import arguments, render
from dokrun.cli.ends import say
from dokrun.cli.follow import fail, outcome, present, show
from dokrun.cli.groups import Commands
from dokrun.cli.parameters import Json, Plan, Profile
from dokrun.cli.target import Target, find
from dokrun.cli.watching import Watched, far_of
from dokrun.errors import DokrunError, OptionError
from dokrun.keys import shortened

if TYPE_CHECKING:
    from dokrun.cli.arguments import Arguments
    from dokrun.function import RemoteFunction
    from dokrun.future import Future

# What stands behind the function is its own.
_SETTINGS = {"allow_interspersed_args": False}

TargetName = Annotated[
    str, typer.Argument(metavar="FILE:FUNCTION", help="As in script.py:train, or package.module:train.")
]
Words = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it at run time
    typer.Argument(metavar="ARGUMENT", help="The function's: --name value, or values in order; --help lists them."),
]
Image = Annotated[Optional[str], typer.Option(help="The image that it runs in.")]  # noqa: UP045 - typer reads it at run time
Timeout = Annotated[Optional[str], typer.Option(help="How long it may take, as 2h, 90s or 1h30m.")]  # noqa: UP045 - typer reads it at run time
MaxYen = Annotated[Optional[float], typer.Option(help="The most that it may cost.")]  # noqa: UP045 - typer reads it at run time

run = Commands(rich_markup_mode=None, add_completion=False)
quote = Commands(rich_markup_mode=None, add_completion=False)


@run.command("run", context_settings=_SETTINGS)
def run_function(
    target: TargetName,
    words: Words = None,
    plan: Plan = None,
    image: Image = None,
    timeout: Timeout = None,
    max_yen: MaxYen = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Only send it, and print its handle.")] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Run it here, through all that a real call goes through, for nothing.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the result there, as a pickle.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, if it can be; with -d the handle.")
    ] = False,
    profile: Profile = None,
) -> None:
    """Call a function of a script, and print its result.

    The result goes to standard output; the log, and how far it is, to standard error. Options of dokrun's stand before
    the function, its own arguments behind it: dokrun run --plan v100-32gb script.py:train --epochs 3
    """
    if detach:
        _check_leaving(output, rehearse=rehearse)
    found = find(target)
    given = _given(found, words or [])
    if given is None:
        return
    if output is not None and not output.parent.is_dir():
        raise OptionError(f"--output names a folder that is not there, {output.parent}; make it first")
    options = {"plan": plan, "image": image, "timeout": timeout, "max_yen": max_yen, "profile": profile}
    function = _with(found.function, **options, detach=detach or None)
    if rehearse:
        show(_rehearsed(function, given), output, as_json=as_json)
        return
    _, own = function.__dokrun_call__(given.args, given.kwargs)
    if detach and not config.load(own.profile).outlasts:
        raise OptionError("--detach needs an account: on the local emulator a call ends with the process that makes it")
    future = function(*given.args, **given.kwargs)
    if detach:
        _leave(future, as_json=as_json)
        return
    watched = Watched(future.name, [future], far_of(future), future.logs)
    watched.wait(sys.stderr)
    if outcome(future)[1] is None and future.receipt is not None:
        say(f"{future.name} has ended: {future.receipt}")
    present(watched, output, as_json=as_json)


@quote.command("quote", context_settings=_SETTINGS)
def quote_function(
    target: TargetName,
    words: Words = None,
    plan: Plan = None,
    timeout: Timeout = None,
    max_yen: MaxYen = None,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Tell what a call of a function will cost, before it is made.

    It is written as dokrun run; nothing is sent but the question what the plans cost.
    """
    found = find(target)
    given = _given(found, words or [])
    if given is None:
        return
    options = {"plan": plan, "timeout": timeout, "max_yen": max_yen, "profile": profile}
    told = _with(found.function, **options).quote(*given.args, **given.kwargs)
    render.done(str(told), asdict(told), as_json=as_json)


def _given(found: Target, words: list[str]) -> Arguments | None:
    """Read the arguments; None where only their list is wanted, which is printed."""
    plain = found.function.__dokrun_function__
    if "--help" in words and "help" not in arguments.names(plain):
        print(arguments.told(plain, found.name))
        return None
    return arguments.read(plain, found.name, words)


def _with(function: RemoteFunction[..., Any], **options: Any) -> RemoteFunction[..., Any]:
    changed: Any = {name: value for name, value in options.items() if value is not None}
    return function.options(**changed) if changed else function


def _rehearsed(function: RemoteFunction[..., Any], given: Arguments) -> Any:
    try:
        # As of a real call, what it prints is the log, and the output is the result's.
        with contextlib.redirect_stdout(sys.stderr):
            return function.rehearse(*given.args, **given.kwargs)
    except DokrunError:
        raise
    except Exception as error:  # noqa: BLE001 - it is the function's own
        fail(function.__name__, error)


def _check_leaving(output: Path | None, *, rehearse: bool) -> None:
    """Refuse what only who stays can do."""
    if rehearse:
        raise OptionError("--detach only sends the call, and --rehearse runs it here; leave one of them away")
    if output is not None:
        raise OptionError(
            "--detach only sends the call; leave --output away, and later dokrun result HANDLE --output FILE keeps its "
            "result"
        )


def _leave(future: Future[Any], *, as_json: bool) -> None:
    """Print the handle of a call once DOK has taken it."""
    handle = future.handle
    future._progress.wait_for("task_id", future.done)  # noqa: SLF001 - who leaves it alone wants to know that it is there
    told = {"handle": handle, "short_handle": shortened(handle), "task": future.task_id}
    render.done(handle, told, as_json=as_json)
    _, error = outcome(future) if future.done() else (None, None)
    if error is not None:
        fail(future.name, error)
    say(f"dokrun attach {shortened(handle)} follows it")
