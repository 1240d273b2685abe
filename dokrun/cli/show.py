"""`dokrun show`: everything that is known of one call, map or session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dokrun import keys
from dokrun.cli import render
from dokrun.cli.opened import engine_of
from dokrun.cli.parameters import Handle, Json, Profile
from dokrun.errors import ApiError, DiskError

if TYPE_CHECKING:
    from dokrun.engine.engine import Engine
    from dokrun.engine.listing import Listed

# What is larger is not fetched only to be looked at.
_LOOKED_INTO_BYTES = 64 << 20
_SHOWN = 10


def show(
    handle: Handle,
    look: Annotated[
        bool, typer.Option("--look/--no-look", help="Whether to look into what it has left, if that is not too large.")
    ] = True,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Tell everything that is known of a call, a map or a session.

    Its state, its place in the line, each of its attempts with its times and what it has cost, and what it has left.
    """
    engine = engine_of(profile)
    last = engine.desk.find(handle)
    tasks = sorted(engine.desk.attempts(last.job_id), key=lambda one: str(one.task.created_at))
    prices = engine.prices()
    attempts = [_attempt(one, prices) for one in tasks]
    told = _about(engine, last, tasks)
    told["yen"] = str(sum((Decimal(str(each["yen"])) for each in attempts if each["yen"] is not None), Decimal(0)))
    told |= _left(engine, last, look=look)
    if as_json:
        render.show_json({**told, "attempts": attempts})
        return
    told["yen"] = f"{Decimal(told['yen']):.2f}"
    told["files"] = _some([f"{file['name']} ({file['bytes']:,} bytes)" for file in told.get("files", ())])
    told["outcomes"] = _some([_outcome(each) for each in told.get("outcomes", ())])
    render.facts({**told, "attempt": [line for each in attempts for line in _lines(each)]}, as_json=False)


def _about(engine: Engine, last: Listed, tasks: Sequence[Listed]) -> dict[str, Any]:
    task, container = last.task, next(iter(last.task.containers), None)
    place = engine.desk.places().get(task.id) if task.status == "waiting" else None
    return {
        "handle": last.handle,
        "short_handle": last.short_handle,
        "name": last.name,
        "kind": "session" if last.calls == 0 else "call" if last.calls == 1 else "map",
        "calls": last.calls or None,
        "state": task.status,
        "before_it": None if place is None else place.before,
        "task": task.id,
        "plan": None if container is None else container.plan,
        "image": None if container is None else container.image,
        "http_uri": task.http_uri,
        "tags": [tag for tag in task.tags if not tag.startswith(keys.OURS)],
        "time_limit_s": task.execution_time_limit_sec,
        "error_message": task.error_message,
        "here": [
            f"{step.what} (attempt {step.attempt}) {step.detail}".strip() for step in engine.desk.steps(last.job_id)
        ],
        "tasks": len(tasks),
    }


def _attempt(one: Listed, prices: Mapping[str, Any]) -> dict[str, Any]:
    from dokrun.cost import utc_now
    from dokrun.engine.definition import attempt_of
    from dokrun.engine.spending import ended_at, seconds_of, yen_of

    seconds = seconds_of(one.task, utc_now())
    created, started = one.task.created_at, one.task.started_at
    container = next(iter(one.task.containers), None)
    return {
        "attempt": attempt_of(one.task),
        "task": one.task.id,
        "state": one.task.status,
        "created": created,
        "started": started,
        "ended": ended_at(one.task) if one.task.ended else None,
        "queued_s": None if created is None or started is None else round((started - created).total_seconds(), 1),
        "seconds": None if seconds is None else round(seconds, 1),
        "yen": None if seconds is None else f"{yen_of(one.task, prices, utc_now()):.4f}",
        "exit_code": None if container is None else container.exit_code,
    }


def _lines(attempt: Mapping[str, Any]) -> list[str]:
    """Tell an attempt in lines that a terminal has room for."""
    started, ended = attempt["started"], attempt["ended"]
    times = {"created": None if started else attempt["created"], "started": started, "ended": ended}
    numbers = {"queued_s": "{} s in line", "seconds": "{} s", "yen": "¥{:.2f}", "exit_code": "exit code {}"}
    yen = None if attempt["yen"] is None else Decimal(attempt["yen"])
    lines = [
        [attempt["state"], f"task {attempt['task']}"],
        [f"{what} {render.text(time)}" for what, time in times.items() if time is not None],
        [form.format(value) for key, form in numbers.items() if (value := {**attempt, "yen": yen}[key]) is not None],
    ]
    # The service may have made two tasks of one attempt.
    return [f"{attempt['attempt']}: {', '.join(line)}" for line in lines if line]


def _left(engine: Engine, last: Listed, *, look: bool) -> dict[str, Any]:
    """Tell what the last task has left: which files, and what became of each call."""
    if not last.task.ended:
        return {}
    from dokrun.engine.remains import fetched, kept_in
    from dokrun.engine.reports import NoOutcome

    found = kept_in(engine.client, last.task)
    if found is None:
        return {"left": "nothing, or its 72 hours are over"}
    told: dict[str, Any] = {"artifact": found.id, "artifact_bytes": found.size_bytes}
    if not look or found.size_bytes > _LOOKED_INTO_BYTES:
        return {**told, "left": f"an artifact of {found.size_bytes:,} bytes, which was not looked into"}
    try:
        with fetched(engine.client, found) as remains:
            told["files"] = [{"name": file.name, "bytes": file.size_bytes} for file in remains.files]
            calls = sorted(remains.calls(last.task, last.job_id, last.name), key=lambda each: each[0])
    except (NoOutcome, ApiError, DiskError) as error:
        return {**told, "left": f"no outcome of dokrun's: {error}"}
    told["outcomes"] = [
        {"call": number, "kind": kept.kind, "ran": kept.ran, "message": kept.message or None} for number, kept in calls
    ]
    return told


def _outcome(told: Mapping[str, Any]) -> str:
    message = f": {told['message']}" if told["message"] else ""
    ran = "" if told["kind"] != "failure" else f" (ran: {told['ran']})"
    return f"call {told['call']}: {told['kind']}{ran}{message}"


def _some(lines: Sequence[str]) -> list[str]:
    return [*lines[:_SHOWN], *([f"and {len(lines) - _SHOWN} more; --json has all"] if len(lines) > _SHOWN else [])]
