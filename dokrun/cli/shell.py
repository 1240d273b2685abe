"""`dokrun shell`: a shell in a task's container, by ssh.

What talks to DOK is loaded when it is needed: the other commands are to begin at once.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from dokrun.cli.opened import engine_of
from dokrun.cli.parameters import Profile
from dokrun.errors import ApiError, ConfigError, OptionError
from dokrun.options import seconds

if TYPE_CHECKING:
    from dokrun.engine.shell import Door, ShellTask


def shell(
    handle: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time
        typer.Argument(
            metavar="HANDLE", help="A task that runs and has an ssh door: its handle, the beginning of that, or its id."
        ),
    ] = None,
    plan: Annotated[Optional[str], typer.Option(help="Make a new task on this plan.")] = None,  # noqa: UP045 - typer reads it at run time
    image: Annotated[Optional[str], typer.Option(help="What the new task runs.")] = None,  # noqa: UP045 - typer reads it at run time
    timeout: Annotated[str, typer.Option(help="When the new task ends by itself.")] = "1h",
    program: Annotated[str, typer.Option("--shell", help="Which shell it has.")] = "/bin/bash",
    profile: Profile = None,
) -> None:
    """Open a shell in a container: of a task that runs, or of a new one.

    A new one ends when the shell does.
    """
    ssh = shutil.which("ssh")
    if ssh is None:
        raise ConfigError("there is no ssh on this machine; install OpenSSH's client")
    if (handle is None) is (plan is None):
        raise OptionError("name a task that runs, or the plan of a new one; as in dokrun shell --plan v100-32gb")
    engine = engine_of(profile)
    if handle is not None:
        from dokrun.engine.shell import door_of

        task = engine.desk.find(handle).task
        door = door_of(task)
        if door is None:
            raise OptionError(f"task {task.id} is {task.status}, and has no ssh door; dokrun shell --plan makes one")
        raise typer.Exit(_open(ssh, door))
    one = engine.desk.shell(str(plan), image, seconds("--timeout", timeout), program)
    price = engine.prices().get(str(plan))
    costs = "" if price is None else f" costs ¥{price.yen_per_second * 60:.2f} a minute while it runs, and"
    # A terminal that is closed, or whoever ends this process, means the task as well.
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        one.begin()
        _say(f"{one.name} (task {one.task_id}){costs} ends with this command, or after {timeout}")
        status = _open(ssh, one.door())
    finally:
        _end(one)
    raise typer.Exit(status)


def _open(ssh: str, door: Door) -> int:
    # No public source names the user; a container seldom has another.
    return subprocess.run([ssh, "-p", str(door.port), f"root@{door.host}"], check=False).returncode  # noqa: S603 - the user's own ssh


def _end(one: ShellTask) -> None:
    try:
        receipt = one.end()
    except (ApiError, KeyboardInterrupt) as error:
        why = f": {error}" if str(error) else ""
        _say(f"{one.name} may still run and cost money{why}; to stop it: dokrun cancel {one.task_id or one.name}")
        return
    if one.task_id is not None:
        _say(f"{one.name} was told to end" if receipt is None else f"{one.name} has ended: {receipt}")


def _say(line: str) -> None:
    print(f"dokrun: {line}", file=sys.stderr, flush=True)
