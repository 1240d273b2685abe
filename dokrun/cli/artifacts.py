"""`dokrun artifacts`: what tasks leave behind, as DOK keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from dokrun.cli import render
from dokrun.cli.groups import group
from dokrun.cli.opened import client_of, whole_id
from dokrun.cli.parameters import Id, Json, Profile
from dokrun.errors import DiskError, OptionError

if TYPE_CHECKING:
    from dokrun.api import Client
    from dokrun.api.models import Artifact

app = group("What tasks leave behind, for 72 hours.")
_COLUMNS = ("id", "task", "created", "bytes", "deleted")


@app.command("list")
def list_artifacts(
    task: Annotated[Optional[str], typer.Option(help="Only this task's: its id, or the beginning of it.")] = None,  # noqa: UP045 - typer reads it at run time
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """List the artifacts, newest first; those whose time is over as well, as long as DOK tells of them."""
    with client_of(profile) as client:
        of = None if task is None else whole_id("task", task, client.tasks.iterate())
        rows = [_row(one) for one in client.artifacts.iterate(task=of)]
    render.table(rows, _COLUMNS, as_json=as_json, numbers=("bytes",))


@app.command("show")
def show(artifact: Id, as_json: Json = False, profile: Profile = None) -> None:
    """Tell one artifact."""
    with client_of(profile) as client:
        render.facts(_row(client.artifacts.get(_whole(client, artifact))), as_json=as_json)


@app.command("download")
def download(
    artifact: Id,
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="The file; ID.tar.gz if not said.")] = None,  # noqa: UP045 - typer reads it at run time
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Download an artifact's tar.gz as it is, whole or not at all; dokrun download takes a handle and unpacks it."""
    with client_of(profile) as client:
        identity = _whole(client, artifact)
        path = output or Path(f"{identity}.tar.gz")
        if path.exists() and not force:
            raise OptionError(f"{path} is there already; name another with --output, or say --force")
        try:
            client.artifacts.download(identity, path)
        except OSError as error:
            raise DiskError(f"{path} cannot be written: {error.strerror}", folder=str(path.parent)) from error
    told = {"id": identity, "path": str(path), "bytes": path.stat().st_size}
    render.done(str(path), told, as_json=as_json)


@app.command("download-url")
def download_url(artifact: Id, as_json: Json = False, profile: Profile = None) -> None:
    """Print an address of an artifact that works for a limited time, for whoever has it."""
    with client_of(profile) as client:
        identity = _whole(client, artifact)
        url = client.artifacts.download_url(identity)
    render.done(url, {"id": identity, "url": url}, as_json=as_json)


def _whole(client: Client, text: str) -> str:
    return whole_id("artifact", text, client.artifacts.iterate())


def _row(one: Artifact) -> render.Row:
    return {
        "id": one.id,
        "task": one.task,
        "created": one.created_at,
        "bytes": one.size_bytes,
        "deleted": one.deleted_at,
        "filename": one.filename,
    }
