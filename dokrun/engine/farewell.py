"""What is said when a process ends: each call that was cancelled, that goes on, or that was never sent, by its name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dokrun import keys
from dokrun.config import Settings
from dokrun.engine.run import Run

# How many calls one line names.
_NAMED = 3


def tell(settings: Settings, stopped: Sequence[Run], going_on: Sequence[Run], unsent: Sequence[str] = ()) -> None:
    """Say in a line each what was stopped, what was lost, and what goes on. Each is told in the order of the calls.

    `unsent` are the names of what was still being gathered.
    """
    named = [f"{run.name} (task {run.task_id})" if run.task_id else run.name for run in stopped]
    named += unsent
    if named:
        why = ""
        if any(run.detached for run in stopped):
            why = f"; on the profile {settings.profile} no call goes on without its process, detached or not"
        _say(f"cancelled what had not finished: {_several(named)}{why}")
    for tried, what in ((False, "submitted"), (True, "tried again")):
        lost = [r.name for r in going_on if r.task_id is None and not r.calls.over and r.tried == tried]
        if lost:
            _say(f"the script ended before these were {what}: {_several(lost)}; call them again")
    # A call may have been attached to as well.
    handles = {run.handle: run.name for run in going_on if run.task_id is not None}
    if handles:
        goes = "goes" if len(handles) == 1 else "go"
        _say(f"{_several(list(handles.values()))} {goes} on{_costs(going_on)}; to stop {_how(handles)}")


def interrupted(settings: Settings, unfinished: Sequence[Run]) -> None:
    """Say what may be left where somebody did not wait until all was stopped."""
    if not settings.outlasts:
        return  # it ends with this process
    handles = {run.handle: run.name for run in unfinished if run.task_id is not None}
    if handles:
        named = _several(list(handles.values()))
        _say(f"interrupted; {named} may still run{_costs(unfinished)}; to stop {_how(handles)}")
    elif unfinished:
        _say("interrupted; dokrun ls --running shows what is left")


def _costs(runs: Sequence[Run]) -> str:
    """Say what they may cost. One task runs at a time, so the dearest counts."""
    told = {run.costs for run in runs if run.costs}
    # Of numbers with two decimals each, the longer one is the larger.
    return f" and may {max(told, key=lambda text: (len(text), text))}" if told else ""


def _how(handles: dict[str, str]) -> str:
    it = "it" if len(handles) == 1 else "them"
    command = " ".join(["dokrun cancel", *map(keys.shortened, list(handles)[:_NAMED])])
    more = "; dokrun ls --running shows the others" if len(handles) > _NAMED else ""
    return f"{it}: {command}{more}"


def _several(named: list[str]) -> str:
    more = [f"and {len(named) - _NAMED} more"] if len(named) > _NAMED else []
    return ", ".join([*named[:_NAMED], *more])


def _say(text: str) -> None:
    print(f"dokrun: {text}", file=sys.stderr)
