"""`dokrun ssh-key`: public keys that open the ssh door of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from dokrun.cli import render
from dokrun.cli.groups import group
from dokrun.cli.opened import client_of, read_text, whole_id
from dokrun.cli.parameters import Id, Json, Profile
from dokrun.errors import OptionError

if TYPE_CHECKING:
    from dokrun.api import Client
    from dokrun.api.models import SshKey

app = group("Public keys that open the ssh door of tasks.")
_COLUMNS = ("name", "active", "key", "id")


@app.command("list")
def list_keys(as_json: Json = False, profile: Profile = None) -> None:
    """List the keys that are registered."""
    with client_of(profile) as client:
        rows = [_row(key) for key in client.ssh_keys.iterate()]
    render.table(rows, _COLUMNS, as_json=as_json)


@app.command("show")
def show(key: Id, as_json: Json = False, profile: Profile = None) -> None:
    """Tell one key."""
    with client_of(profile) as client:
        render.facts(_row(client.ssh_keys.get(_whole(client, key))), as_json=as_json)


@app.command("add")
def add(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The public key's file, as ~/.ssh/id_ed25519.pub; - is standard input."),
    ],
    name: Annotated[str | None, typer.Option(help="What it shall be called; its comment if nothing is said.")] = None,
    active: Annotated[bool, typer.Option("--active/--inactive", help="Whether it opens doors.")] = True,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Register a public key."""
    text = read_text(file).strip()
    if "PRIVATE KEY" in text:
        raise OptionError(f"{file} is a private key, which nobody else shall have; give the .pub file beside it")
    parts = text.split(maxsplit=2)
    if len(parts) < 2 or "\n" in text:  # noqa: PLR2004 - its kind, and the key
        raise OptionError(f"{file} is no public key in one line, as ssh-keygen writes it")
    from dokrun.api.models import SshKeyRequest

    called = name or (parts[2] if len(parts) > 2 else file.stem)  # noqa: PLR2004 - and a comment
    with client_of(profile) as client:
        render.facts(_row(client.ssh_keys.create(SshKeyRequest(called, text, active))), as_json=as_json)


@app.command("update")
def update(
    key: Id,
    name: Annotated[Optional[str], typer.Option(help="What it shall be called.")] = None,  # noqa: UP045 - typer reads it at run time
    active: Annotated[Optional[bool], typer.Option("--active/--inactive", help="Whether it opens doors.")] = None,  # noqa: UP045 - typer reads it at run time
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Change a key's name, or whether it opens doors."""
    if name is None and active is None:
        raise OptionError("say what shall change: --name, --active or --inactive")
    from dokrun.api.models import SshKeyUpdate

    with client_of(profile) as client:
        former = client.ssh_keys.get(_whole(client, key))
        wanted = SshKeyUpdate(name or former.name, former.is_active if active is None else active)
        render.facts(_row(client.ssh_keys.update(former.id, wanted)), as_json=as_json)


@app.command("delete")
def delete(key: Id, as_json: Json = False, profile: Profile = None) -> None:
    """Have DOK forget a key."""
    with client_of(profile) as client:
        identity = _whole(client, key)
        client.ssh_keys.delete(identity)
    render.done(f"ssh key {identity}: deleted", {"id": identity, "told": "deleted"}, as_json=as_json)


def _whole(client: Client, text: str) -> str:
    return whole_id("ssh key", text, client.ssh_keys.iterate())


def _row(key: SshKey) -> render.Row:
    return {"id": key.id, "name": key.name, "active": key.is_active, "key": key.pub_key}
