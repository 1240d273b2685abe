"""The commands about registries: credentials that DOK keeps, so that tasks can pull private images.

What talks to DOK is loaded by the commands that need it: the others are to begin at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from dokrun import config, errors
from dokrun.config import Settings
from dokrun.secret import Secret

if TYPE_CHECKING:
    from dokrun.api import Client
    from dokrun.image.credentials import Credentials

registry = typer.Typer(help="Credentials for private images, which DOK keeps.", no_args_is_help=True)

Profile = Annotated[Optional[str], typer.Option(help="Whose account, in place of the one that is chosen.")]  # noqa: UP045 - typer reads it at run time


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
    from dokrun.engine import registries
    from dokrun.image.reference import host_of

    host = host_of(host)
    settings = config.load(profile)
    credentials = _credentials(settings, host, username, password_stdin=password_stdin)
    with _client(settings) as client:
        stored, was_known = registries.store(client, host, credentials)
    done = "has new credentials" if was_known else "keeps the credentials"
    print(f"DOK {done} of {stored.username} for {stored.hostname} (id {stored.id})")


def _client(settings: Settings) -> Client:
    from dokrun.api import Client

    settings = config.connect(settings)
    return Client(settings.access_token, settings.access_token_secret, base_url=settings.api_url)


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
    try:
        return str(typer.prompt(question, hide_input=hidden))
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        raise errors.OptionError(
            "there is no terminal to ask for a username and a password; pipe the password into: "
            f"dokrun registry add {host} --username NAME --password-stdin"
        ) from None


def _not_empty(password: str) -> Secret:
    if not password:
        raise errors.OptionError("no password came; write it, or give it on standard input with --password-stdin")
    return Secret(password)
