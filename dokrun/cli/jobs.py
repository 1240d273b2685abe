"""The commands about what runs: `dokrun ls`, `dokrun logs`, `dokrun cancel`.

What talks to DOK is loaded by the commands that need it: the others are to begin at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.table import Column, Table

from dokrun import config
from dokrun.errors import ConfigError

if TYPE_CHECKING:
    from dokrun.engine import Engine

Profile = Annotated[Optional[str], typer.Option(help="Whose account, in place of the one that is chosen.")]  # noqa: UP045 - typer reads it at run time
_A_HANDLE = "What future.handle tells, its beginning, or a task's id."
Handle = Annotated[str, typer.Argument(help=_A_HANDLE)]
Handles = Annotated[list[str], typer.Argument(metavar="HANDLE", help=_A_HANDLE)]


def list_jobs(
    running: Annotated[bool, typer.Option("--running", help="Only what waits or runs.")] = False,  # noqa: FBT002 - it is named
    profile: Profile = None,
) -> None:
    """List the tasks that dokrun has made, on whatever machine, newest first; in a pipe with tabs between."""
    table = Table(*(Column(name, overflow="fold") for name in ("handle", "state", "plan", "since", "task")))
    console = Console()
    for one in _engine(profile).listed("waiting,running" if running else None):
        since = one.task.created_at.astimezone().strftime("%Y-%m-%d %H:%M") if one.task.created_at else ""
        plan = next((container.plan for container in one.task.containers), "")
        row = (one.short_handle, one.task.status, plan, since, one.task.id)
        if console.is_terminal:
            table.add_row(*row)
        else:
            print(*row, sep="\t")  # whole, however narrow what reads it may be
    if console.is_terminal:
        console.print(table)


def logs(handle: Handle, profile: Profile = None) -> None:
    """Show what a task writes, as it grows, until it has ended."""
    engine = _engine(profile)
    for piece in engine.logs(engine.find(handle)):
        print(piece, end="", flush=True)


def cancel(handles: Handles, profile: Profile = None) -> None:
    """End tasks, whether they wait or run."""
    engine = _engine(profile)
    # All are found before any is ended: a slip in one of them ends none.
    for one in [engine.find(handle) for handle in handles]:
        print(f"{one.name} (task {one.task.id}): {'cancelled' if engine.cancel(one) else 'it had ended before'}")


def _engine(profile: str | None) -> Engine:
    settings = config.load(profile)
    if not settings.outlasts:
        raise ConfigError(
            f"on the profile {settings.profile} a script's tasks live in its own process, and end with it; to see them "
            "from here, run dokrun emulator and let both use that, or name another profile"
        )
    from dokrun import engine

    return engine.get(profile)
