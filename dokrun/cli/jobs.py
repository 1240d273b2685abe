"""The commands about what runs: `dokrun ls`, `dokrun logs`, `dokrun cancel`.

What talks to DOK is loaded by the commands that need it: the others are to begin at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from dokrun.engine import Engine

Profile = Annotated[Optional[str], typer.Option(help="Whose account, in place of the one that is chosen.")]  # noqa: UP045 - typer reads it at run time
Handle = Annotated[str, typer.Argument(help="What future.handle tells, its beginning, or a task's id.")]


def list_jobs(
    running: Annotated[bool, typer.Option("--running", help="Only what waits or runs.")] = False,  # noqa: FBT002 - it is named
    profile: Profile = None,
) -> None:
    """List the tasks that dokrun has made, on whatever machine, newest first; in a pipe with tabs between."""
    table = Table(*(Column(name, overflow="fold") for name in ("handle", "state", "plan", "since", "task")))
    console = Console()
    for one in _engine(profile).listed("waiting,running" if running else None):
        since = one.task.created_at.strftime("%Y-%m-%d %H:%M") if one.task.created_at else ""
        plan = next((container.plan for container in one.task.containers), "")
        row = (f"{one.name}-{one.job_id[:12]}", one.task.status, plan, since, one.task.id)
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


def cancel(handle: Handle, profile: Profile = None) -> None:
    """End a task, whether it waits or runs."""
    engine = _engine(profile)
    one = engine.find(handle)
    print(f"{one.name} (task {one.task.id}): {'cancelled' if engine.cancel(one) else 'it had ended before'}")


def _engine(profile: str | None) -> Engine:
    from dokrun import engine

    return engine.get(profile)
