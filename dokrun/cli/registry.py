"""The commands about registries: credentials that DOK keeps, so that tasks can pull private images."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from dokrun import config, errors
from dokrun.api import Client
from dokrun.api.models import Registry, RegistryRequest
from dokrun.config import Secret, Settings
from dokrun.engine.images import credentials_of, known_registry
from dokrun.image.credentials import Credentials
from dokrun.image.reference import host_of

registry = typer.Typer(help="Credentials for private images, which DOK keeps.", no_args_is_help=True)

Profile = Annotated[Optional[str], typer.Option(help="Whose account, in place of the one that is chosen.")]  # noqa: UP045 - typer reads it at run time

# After these answers nothing was stored; after every other failure of the request, nobody knows.
_NOT_STORED = (errors.NotSent, errors.BadRequest, errors.Unauthorized, errors.Forbidden, errors.NotFound)


@registry.command("list")
def list_registries(profile: Profile = None) -> None:
    """List the registries that DOK has credentials for. It never tells a password."""
    table = Table("host", "username", "id")
    with _client(config.load(profile)) as client:
        for one in client.registries.iterate():
            table.add_row(one.hostname, one.username, one.id)
    Console().print(table)


@registry.command()
def add(
    host: Annotated[str, typer.Argument(help="The registry's host, with its port if it has one.")],
    username: Annotated[Optional[str], typer.Option(help="In place of the one that is configured.")] = None,  # noqa: UP045 - typer reads it at run time
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password there.")] = False,  # noqa: FBT002 - it is named
    profile: Profile = None,
) -> None:
    """Have DOK keep the credentials for a registry: those of DOKRUN_REGISTRY, else Docker's, else what you type."""
    host = host_of(host)
    settings = config.load(profile)
    credentials = _credentials(settings, host, username, password_stdin=password_stdin)
    with _client(settings) as client:
        stored, was_known = _store(client, host, credentials)
    done = "has new credentials" if was_known else "keeps the credentials"
    print(f"DOK {done} of {stored.username} for {stored.hostname} (id {stored.id})")


def _client(settings: Settings) -> Client:
    settings = config.connect(settings)
    return Client(settings.access_token, settings.access_token_secret, base_url=settings.api_url)


def _credentials(settings: Settings, host: str, username: str | None, *, password_stdin: bool) -> Credentials:
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
    name = username or str(typer.prompt(f"Username for {host}"))
    return Credentials(name, _not_empty(str(typer.prompt("Password", hide_input=True))))


def _not_empty(password: str) -> Secret:
    if not password:
        raise errors.OptionError("no password came; write it, or give it on standard input with --password-stdin")
    return Secret(password)


def _store(client: Client, host: str, credentials: Credentials) -> tuple[Registry, bool]:
    """Create it, or replace what is there: two entries of one name would make it a matter of chance which is used."""
    request = RegistryRequest(host, credentials.username, credentials.password.reveal())
    there = known_registry(client, host, credentials.username)
    if there is not None:
        return client.registries.update(there.id, request), True
    try:
        return client.registries.create(request), False
    except _NOT_STORED:
        raise
    except errors.ApiError as error:
        # No answer, or one that says nothing about what was done: creating is not repeated, so look.
        there = known_registry(client, host, credentials.username)
        if there is None:
            raise errors.ImageError(
                f"DOK does not list {host} after it was told to keep its credentials ({error}); "
                f"look again with: dokrun registry list, then run: dokrun registry add {host}"
            ) from error
        return there, False
