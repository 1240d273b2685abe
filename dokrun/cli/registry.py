"""The commands about registries: credentials that DOK keeps, so that tasks can pull private images.

What talks to DOK is loaded by the commands that need it: the others are to begin at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from dokrun import errors
from dokrun.cli import render
from dokrun.cli.groups import group
from dokrun.cli.opened import client_of, settings_of, whole_id
from dokrun.cli.parameters import Id, Json, Profile
from dokrun.config import Settings
from dokrun.secret import Secret

if TYPE_CHECKING:
    from dokrun.api import Client
    from dokrun.api.models import Registry
    from dokrun.image.credentials import Credentials

registry = group("Credentials for private images, which DOK keeps.")


@registry.command("list")
def list_registries(as_json: Json = False, profile: Profile = None) -> None:
    """List the registries that DOK has credentials for. It never tells a password."""
    with client_of(profile) as client:
        rows = [_row(one) for one in client.registries.iterate()]
    render.table(rows, ("host", "username", "id"), as_json=as_json)


@registry.command("show")
def show(identity: Id, as_json: Json = False, profile: Profile = None) -> None:
    """Tell one registry."""
    with client_of(profile) as client:
        render.facts(_row(client.registries.get(_whole(client, identity))), as_json=as_json)


@registry.command("update")
def update(
    identity: Id,
    host: Annotated[Optional[str], typer.Option(help="The registry's host, if it is another.")] = None,  # noqa: UP045 - typer reads it at run time
    username: Annotated[Optional[str], typer.Option(help="The username, if it is another.")] = None,  # noqa: UP045 - typer reads it at run time
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password there.")] = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Replace what DOK keeps of a registry; the password must be given anew, since DOK never tells it."""
    from dokrun.api.models import RegistryRequest
    from dokrun.image.reference import host_of

    with client_of(profile) as client:
        former = client.registries.get(_whole(client, identity))
        kept = host_of(host) if host else former.hostname
        if password_stdin:
            password = _not_empty(sys.stdin.readline().rstrip("\r\n"))
        elif sys.stdin.isatty():
            password = _not_empty(_typed("Password", kept, hidden=True))
        else:
            raise errors.OptionError("there is no terminal to ask for the password; pipe it in, with --password-stdin")
        request = RegistryRequest(kept, username or former.username, password.reveal())
        render.facts(_row(client.registries.update(former.id, request)), as_json=as_json)


@registry.command("delete")
def delete(identity: Id, as_json: Json = False, profile: Profile = None) -> None:
    """Have DOK forget a registry's credentials; tasks that wait for one of its images will fail."""
    with client_of(profile) as client:
        whole = _whole(client, identity)
        client.registries.delete(whole)
    render.done(f"registry {whole}: deleted", {"id": whole, "told": "deleted"}, as_json=as_json)


@registry.command()
def add(
    host: Annotated[str, typer.Argument(metavar="HOST", help="The registry's host, with its port if it has one.")],
    username: Annotated[Optional[str], typer.Option(help="In place of the one that is configured.")] = None,  # noqa: UP045 - typer reads it at run time
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password there.")] = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Have DOK keep the credentials for a registry: those of DOKRUN_REGISTRY, else Docker's, else what you type."""
    from dokrun.engine import registries
    from dokrun.image.reference import host_of

    host = host_of(host)
    settings = settings_of(profile)
    credentials = _credentials(settings, host, username, password_stdin=password_stdin)
    with client_of(profile) as client:
        stored, was_known = registries.store(client, host, credentials)
    done = "has new credentials" if was_known else "keeps the credentials"
    told = f"DOK {done} of {stored.username} for {stored.hostname} (id {stored.id})"
    render.done(told, _row(stored), as_json=as_json)


def _whole(client: Client, text: str) -> str:
    return whole_id("registry", text, client.registries.iterate())


def _row(one: Registry) -> render.Row:
    return {
        "id": one.id,
        "host": one.hostname,
        "username": one.username,
        "created": one.created_at,
        "updated": one.updated_at,
    }


def _credentials(settings: Settings, host: str, username: str | None, *, password_stdin: bool) -> Credentials:
    from dokrun.engine.registries import credentials_of
    from dokrun.image.credentials import Credentials

    known = None if username and password_stdin else credentials_of(settings, host)
    if password_stdin:
        name = username or (known.username if known else None)
        if name is None:
            raise errors.OptionError(
                f"--password-stdin needs a username; add --username to: dokrun registry add {host}"
            )
        return Credentials(name, _not_empty(sys.stdin.readline().rstrip("\r\n")))
    if known is not None and username in (None, known.username):
        return known
    name = username or _typed(f"Username for {host}", host)
    return Credentials(name, _not_empty(_typed("Password", host, hidden=True)))


def _typed(question: str, host: str, *, hidden: bool = False) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(question, hide_input=hidden, err=True))
    # Who pipes the answers in reads no questions.
    if not (answer := sys.stdin.readline().rstrip("\r\n")):
        raise errors.OptionError(
            "there is no terminal to ask for a username and a password; pipe the password into: "
            f"dokrun registry add {host} --username NAME --password-stdin"
        )
    return answer


def _not_empty(password: str) -> Secret:
    if not password:
        raise errors.OptionError("no password came; write it, or give it on standard input with --password-stdin")
    return Secret(password)
