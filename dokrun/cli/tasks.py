"""`dokrun tasks`: tasks of DOK's, whoever has made them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from dokrun import redact
from dokrun.cli import definition, render
from dokrun.cli.ends import Status, say
from dokrun.cli.groups import group
from dokrun.cli.opened import client_of, whole_id
from dokrun.cli.parameters import Id, Json, Plan, Profile
from dokrun.errors import Forbidden, OptionError

if TYPE_CHECKING:
    from dokrun.api import Client
    from dokrun.api.models import Container, Task

app = group("Tasks: one container each, whoever has made them.")
_COLUMNS = ("id", "name", "status", "plan", "created", "image")
# What the service allows where nobody says anything, which costs ¥483,840 on an H100.
_DEFAULT_LIMIT = "1h"
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Their ids, or the beginnings of them.")]
Many = Optional[list[str]]  # noqa: UP045 - typer reads it at run time


class State(str, Enum):
    """The states of tasks."""

    WAITING = "waiting"
    RUNNING = "running"
    ERROR = "error"
    DONE = "done"
    ABORTED = "aborted"
    CANCELED = "canceled"


@app.command("list")
def list_tasks(
    status: Annotated[
        list[State] | None, typer.Option(help="Only those in this state; may come several times.")
    ] = None,
    tag: Annotated[Optional[str], typer.Option(help="Only those that bear this tag.")] = None,  # noqa: UP045 - typer reads it at run time
    limit: Annotated[Optional[int], typer.Option("--limit", "-n", min=1, help="So many at most.")] = None,  # noqa: UP045 - typer reads it at run time
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """List all tasks of the project, newest first."""
    rows = []
    with client_of(profile) as client:
        for task in client.tasks.iterate(status=[state.value for state in status] if status else None, tag=tag):
            rows.append(_row(task))
            if limit is not None and len(rows) >= limit:
                break
    render.table(rows, _COLUMNS, as_json=as_json)


@app.command("show")
def show(task: Id, as_json: Json = False, profile: Profile = None) -> None:
    """Tell all that DOK tells of a task. Addresses are shown without what makes them good."""
    with client_of(profile) as client:
        render.facts(_row(client.tasks.get(_whole(client, task))), as_json=as_json)


@app.command("create")
def create(
    command: Annotated[Many, typer.Argument(metavar="COMMAND", help="What replaces the image's CMD.")] = None,
    file: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="A JSON file with the whole definition, as the API takes it; - is standard input."),
    ] = None,
    name: Annotated[Optional[str], typer.Option(help="The task's name.")] = None,  # noqa: UP045 - typer reads it at run time
    image: Annotated[Optional[str], typer.Option(help="The image.")] = None,  # noqa: UP045 - typer reads it at run time
    plan: Plan = None,
    entrypoint: Annotated[Many, typer.Option(help="What replaces the image's ENTRYPOINT, a word each time.")] = None,
    env: Annotated[
        Many, typer.Option("--env", "-e", help="A variable, as NAME=VALUE; NAME alone is taken from here.")
    ] = None,
    tag: Annotated[Many, typer.Option(help="A tag; may come several times.")] = None,
    registry: Annotated[Optional[str], typer.Option(help="The id of the registry's credentials.")] = None,  # noqa: UP045 - typer reads it at run time
    http: Annotated[int | None, typer.Option(min=1, max=65535, help="The port that the whole world can reach.")] = None,
    http_path: Annotated[Optional[str], typer.Option(help="And its path there; / if nothing is said.")] = None,  # noqa: UP045 - typer reads it at run time
    ssh: Annotated[Optional[str], typer.Option(help="Open an ssh door, with this shell, as /bin/bash.")] = None,  # noqa: UP045 - typer reads it at run time
    time_limit: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time
        typer.Option(help=f"After which DOK ends it, as 2h; 10m at least; none lets it run on. Else {_DEFAULT_LIMIT}."),
    ] = None,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Create a task, of a file with its definition, or of what is said here.

    It is sent once: if no answer comes, look whether it is there before you call again. Beside --file only --name,
    --time-limit and --tag may stand: the former two in place of the file's, and tags are added to its.
    """
    if http_path is not None and http is None:
        raise OptionError("--http-path is a path of --http, and no port is said; add --http PORT")
    if file is None:
        said = definition.said(name, image, plan, command, entrypoint)
        container: dict[str, Any] = {**said, "registry": registry, "environment": definition.environment(env or [])}
        container |= {"http": None if http is None else {"port": http, "path": http_path or "/"}}
        container |= {"ssh": None if ssh is None else {"shell": definition.shell(ssh)}}
        body: dict[str, Any] = {"name": name, "containers": [container], "tags": tag or []}
        body |= {"execution_time_limit_sec": definition.limit_s(time_limit or _DEFAULT_LIMIT)}
    else:
        if any((image, plan, command, entrypoint, env, registry, http, ssh)):
            raise OptionError("the file says what the container is; leave away what says it again")
        body = definition.read(file)
        body = {"tags": [], "execution_time_limit_sec": definition.limit_s(_DEFAULT_LIMIT), **body}
        body |= {"name": name} if name else {}
        body |= {"execution_time_limit_sec": definition.limit_s(time_limit)} if time_limit else {}
        body |= {"tags": [*body["tags"], *tag]} if tag and isinstance(body["tags"], list) else {}
    request = definition.request(body)
    with client_of(profile) as client:
        task = client.tasks.create(request)
    render.done(task.id, _row(task), as_json=as_json)


@app.command("cancel")
def cancel(
    tasks: Ids,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Cancel tasks that wait or run; dokrun cancel, for calls, also sees to it that none starts later."""
    with client_of(profile) as client:
        identities = _all_whole(client, tasks)
        with render.each_done(as_json=as_json) as done:
            for identity in identities:
                try:
                    client.tasks.cancel(identity)
                    told = "cancelled"
                except Forbidden:
                    told = "it had ended before"
                done(f"task {identity}: {told}", {"id": identity, "told": told})


@app.command("delete")
def delete(
    tasks: Ids,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Delete the records of tasks that have ended, and with them their results; this does not stop what runs."""
    failed = False
    with client_of(profile) as client:
        identities = _all_whole(client, tasks)
        with render.each_done(as_json=as_json) as done:
            for identity in identities:
                try:
                    client.tasks.delete(identity)
                except Forbidden as error:
                    say(f"task {identity} was not deleted: {error}; one that runs is ended by dokrun tasks cancel")
                    done(None, {"id": identity, "told": "not deleted", "why": str(error)})
                    failed = True
                else:
                    done(f"task {identity}: deleted", {"id": identity, "told": "deleted", "why": None})
    if failed:
        raise typer.Exit(Status.FAILED)


@app.command("logs")
def logs(
    task: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended, if it has not.")] = False,
    profile: Profile = None,
) -> None:
    """Show what a task that has ended has written, all of it; with -f what one writes, as it grows."""
    with client_of(profile) as client:
        identity = _whole(client, task)
        if follow:
            for piece in client.tasks.logs(identity):
                print(piece, end="", flush=True)
        else:
            for line in client.tasks.output_lines(identity):
                print(line)


@app.command("logs-url")
def logs_url(
    task: Id,
    filename: Annotated[Optional[str], typer.Option(help="What a browser shall call it.")] = None,  # noqa: UP045 - typer reads it at run time
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Print an address of an ended task's output that works for a limited time, for whoever has it."""
    with client_of(profile) as client:
        identity = _whole(client, task)
        url = client.tasks.output_url(identity, filename=filename)
    render.done(url, {"id": identity, "url": url}, as_json=as_json)


@app.command("logs-stream")
def logs_stream(
    task: Id,
    container: Annotated[int, typer.Option(min=0, help="Which of its containers.")] = 0,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Tell where a running task's log can be heard: a websocket's address, and the token that opens it."""
    with client_of(profile) as client:
        identity = _whole(client, task)
        stream = client.tasks.stream(identity, container)
    render.facts({"id": identity, "url": stream.url, "token": stream.token}, as_json=as_json)


@app.command("notify")
def notify(
    task: Id,
    endpoint: Annotated[Optional[list[int]], typer.Option(help="Who is told; may come several times.")] = None,  # noqa: UP045 - typer reads it at run time
    enabled: Annotated[Optional[bool], typer.Option("--on/--off", help="Whether anybody is told.")] = None,  # noqa: UP045 - typer reads it at run time
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Say who is told when this task ends; what is not said follows the account's settings again."""
    from dokrun.api.models import NotificationPreference

    with client_of(profile) as client:
        identity = _whole(client, task)
        client.tasks.set_notification_preference(identity, NotificationPreference(enabled, endpoint))
    told = {"id": identity, "enabled": enabled, "endpoints": endpoint, "told": "set"}
    render.done(f"task {identity}: set", told, as_json=as_json)


def _whole(client: Client, text: str) -> str:
    return whole_id("task", text, client.tasks.iterate())


def _all_whole(client: Client, texts: list[str]) -> list[str]:
    known = list(client.tasks.iterate())
    return [whole_id("task", text, known) for text in texts]


def _row(task: Task) -> dict[str, Any]:
    container = next(iter(task.containers), None)
    told: dict[str, Any] = {
        "id": task.id,
        "name": task.name,
        "status": task.status,
        "created": task.created_at,
        "updated": task.updated_at,
        "canceled": task.canceled_at,
        "tags": task.tags,
        "time_limit_s": task.execution_time_limit_sec,
        "error_message": task.error_message,
        "http_uri": task.http_uri,
        "artifact": None if task.artifact is None else task.artifact.id,
    }
    return told | ({} if container is None else _of_container(container))


def _of_container(container: Container) -> dict[str, Any]:
    shown = {name: redact.text(f"{name}={value}").partition("=")[2] for name, value in container.environment.items()}
    return {
        "plan": container.plan,
        "image": container.image,
        "registry": container.registry,
        "entrypoint": [redact.text(word) for word in container.entrypoint],
        "command": [redact.text(word) for word in container.command],
        "environment": [f"{name}={value}" for name, value in shown.items()],
        "http": None if container.http is None else f"{container.http.port}{container.http.path}",
        "ssh": None if container.ssh is None else f"{container.ssh.shell} {container.ssh.host_name or ''}".strip(),
        "exit_code": container.exit_code,
        "seconds": container.execution_seconds,
        "started": container.start_at,
        "ended": container.end_at or container.stop_at,
    }
