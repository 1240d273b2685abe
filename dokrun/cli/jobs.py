"""The commands about what runs: `dokrun ls`, `dokrun logs`, `dokrun cancel`.

What talks to DOK is loaded by the commands that need it: the others are to begin at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from dokrun import config, keys
from dokrun.cli.tables import show
from dokrun.errors import ConfigError

if TYPE_CHECKING:
    from dokrun.engine import Engine
    from dokrun.engine.listing import Listed

Profile = Annotated[Optional[str], typer.Option(help="Whose account, in place of the one that is chosen.")]  # noqa: UP045 - typer reads it at run time
_A_HANDLE = "What future.handle tells, its beginning, or a task's id."
Handle = Annotated[str, typer.Argument(help=_A_HANDLE)]
Handles = Annotated[list[str], typer.Argument(metavar="HANDLE", help=_A_HANDLE)]


def list_jobs(
    running: Annotated[bool, typer.Option("--running", help="Only what waits or runs.")] = False,  # noqa: FBT002 - it is named
    profile: Profile = None,
) -> None:
    """List the tasks that dokrun has made, on whatever machine, newest first; in a pipe with tabs between.

    Of those that wait, the last column tells how many of the project's tasks are before them.
    """
    engine = engine_of(profile)
    listed = list(engine.listed("waiting,running" if running else None))
    places = engine.places() if any(one.task.status == "waiting" for one in listed) else {}

    def row(one: Listed) -> tuple[str, ...]:
        since = one.task.created_at.astimezone().strftime("%Y-%m-%d %H:%M") if one.task.created_at else ""
        plan = next((container.plan for container in one.task.containers), "")
        before = str(places[one.task.id].before) if one.task.id in places else ""
        return one.short_handle, one.task.status, plan, since, one.task.id, before

    show(("handle", "state", "plan", "since", "task", "before it"), map(row, listed))


def logs(handle: Handle, profile: Profile = None) -> None:
    """Show what a task writes, as it grows, until it has ended."""
    engine = engine_of(profile)
    for piece in engine.logs(engine.find(handle)):
        print(piece, end="", flush=True)


def cancel(handles: Handles, profile: Profile = None) -> None:
    """End tasks, whether they wait or run.

    What future.handle tells of a session's call ends that call, and all of a map's; what session.handle tells ends the
    session, with all its calls.
    """
    engine = engine_of(profile)
    # All are found before any is ended: a slip in one of them ends none.
    for one, handle in [(engine.find(text), keys.read_handle(text)) for text in handles]:
        if handle is not None and handle.call and not one.task.ended:
            _end_calls(engine, one, handle)
        else:
            print(f"{one.name} (task {one.task.id}): {'cancelled' if engine.cancel(one) else 'it had ended before'}")


def _end_calls(engine: Engine, session: Listed, handle: keys.Handle) -> None:
    from dokrun.engine.live import Live

    live = engine.attach(session.handle)
    if isinstance(live, Live):
        live.end_calls(handle)
        told = f"cancelled, if it had not ended before; its session (task {session.task.id}) goes on"
        print(f"{handle.name}: {told}, and dokrun cancel {session.short_handle} ends that")


def engine_of(profile: str | None) -> Engine:
    """Tell the engine of a profile whose tasks outlast the process that makes them."""
    settings = config.load(profile)
    if not settings.outlasts:
        raise ConfigError(
            f"on the profile {settings.profile} a script's tasks live in its own process, and end with it; to see them "
            "from here, run dokrun emulator and let both use that, or name another profile"
        )
    from dokrun import engine

    return engine.get(profile)
