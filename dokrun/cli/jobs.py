"""The commands about what runs: `dokrun ls`, `dokrun logs`, `dokrun cancel`.

What talks to DOK is loaded by the commands that need it: the others are to begin at once.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from dokrun import keys
from dokrun.cli import render
from dokrun.cli.ends import NotYet, say
from dokrun.cli.opened import engine_of
from dokrun.cli.parameters import Handle, Handles, Json, Profile
from dokrun.errors import ApiError, OptionError

if TYPE_CHECKING:
    from dokrun.engine.engine import Engine
    from dokrun.engine.listing import Listed
    from dokrun.progress import Place

# A log that nobody follows is over when so long nothing more of it has come: DOK does not tell how much there is.
_QUIET_S, _FIRST_S = 1.0, 10.0


def list_jobs(
    running: Annotated[bool, typer.Option("--running", help="Only what waits or runs.")] = False,
    limit: Annotated[Optional[int], typer.Option("--limit", "-n", min=1, help="So many at most.")] = None,  # noqa: UP045 - typer reads it at run time
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """List the tasks that dokrun has made, on whatever machine, newest first.

    In a pipe there are tabs between. The state is the task's: it is done also where the function has raised, of which
    dokrun show tells. Of those that wait, the last column tells how many of the project's tasks are before them.
    """
    engine = engine_of(profile)
    found: list[Listed] = []
    for one in engine.desk.listed("waiting,running" if running else None):
        found.append(one)
        if limit is not None and len(found) >= limit:
            break
    places = engine.desk.places() if any(one.task.status == "waiting" for one in found) else {}
    columns = ("handle", "state", "plan", "since", "task", "before_it")
    rows = [_row(one, places) for one in found]
    render.table(rows, columns, as_json=as_json, numbers=("before_it",))


def _row(one: Listed, places: dict[str, Place]) -> render.Row:
    container = next(iter(one.task.containers), None)
    place = places.get(one.task.id)
    return {
        "handle": one.short_handle,
        "state": one.task.status,
        "plan": "" if container is None else container.plan,
        "since": one.task.created_at,
        "task": one.task.id,
        "before_it": None if place is None else place.before,
        "name": one.name,
        "whole_handle": one.handle,
        "started_at": one.task.started_at,
        "seconds": None if container is None else container.execution_seconds,
    }


def logs(
    handle: Handle,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task has ended.")] = False,
    call: Annotated[Optional[int], typer.Option(min=0, help="Of a map: only what this call prints, from 0 on.")] = None,  # noqa: UP045 - typer reads it at run time
    profile: Profile = None,
) -> None:
    """Show what a task has written; with -f as it grows, until it has ended.

    Of one that runs it is what there is until now.
    """
    engine = engine_of(profile)
    one = engine.desk.find(handle)
    if call is not None:
        _check_call(one, call)
    if one.task.status == "waiting" and not follow:
        raise NotYet(f"{one.name} (task {one.task.id}) waits, and has written nothing yet; with -f this waits for it")
    pieces = engine.desk.logs(one) if call is None else engine.desk.call_logs(one, call)
    for piece in pieces if follow or one.task.ended else _until_now(pieces, one):
        print(piece, end="", flush=True)


def _check_call(one: Listed, call: int) -> None:
    # A session, which has no calls of its own, takes as many as come.
    if one.calls == 1:
        raise OptionError(f"{one.short_handle} is a single call; leave --call away to see what it has written")
    if call >= one.calls > 1:
        raise OptionError(f"{one.short_handle} has no call {call}; its {one.calls} calls are 0 to {one.calls - 1}")


def _until_now(pieces: Iterator[str], one: Listed) -> Iterator[str]:
    came: queue.SimpleQueue[str | ApiError | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for piece in pieces:
                came.put(piece)
            came.put(None)
        except ApiError as error:
            came.put(error)

    threading.Thread(target=read, name="dokrun-log", daemon=True).start()
    patience_s = _FIRST_S
    try:
        while (piece := came.get(timeout=patience_s)) is not None:
            if isinstance(piece, ApiError):
                raise piece
            yield piece
            patience_s = _QUIET_S
    except queue.Empty:
        say(f"{one.name} (task {one.task.id}) still runs; dokrun logs -f {one.short_handle} follows it")


def cancel(handles: Handles, as_json: Json = False, profile: Profile = None) -> None:
    """End tasks, whether they wait or run.

    What future.handle tells of a session's call ends that call, and all of a map's; what session.handle tells ends the
    session, with all its calls.
    """
    engine = engine_of(profile)
    if not handles:
        raise OptionError("name what shall end; dokrun ls --running tells what runs")
    # All are found before any is ended: a slip in one of them ends none.
    found = [(engine.desk.find(text), keys.read_handle(text)) for text in handles]
    with render.each_done(as_json=as_json) as done:
        for one, handle in found:
            if handle is not None and handle.call and not one.task.ended:
                ended = _end_calls(engine, one, handle)
                done(f"{handle.name}: {ended['told']}, and dokrun cancel {one.short_handle} ends that", ended)
            else:
                told = "cancelled" if engine.desk.cancel(one) else "it had ended before"
                row = {"handle": one.short_handle, "task": one.task.id, "told": told}
                done(f"{one.name} (task {one.task.id}): {told}", row)


def _end_calls(engine: Engine, session: Listed, handle: keys.Handle) -> dict[str, str]:
    from dokrun.engine.live import Live

    live = engine.attach(session.handle)
    if not isinstance(live, Live):
        raise OptionError(
            f"{str(handle)!r} is no call of a session; dokrun cancel {session.short_handle} ends its task"
        )
    live.end_calls(handle)
    told = f"cancelled, if it had not ended before; its session (task {session.task.id}) goes on"
    return {"handle": str(handle), "task": session.task.id, "told": told}
