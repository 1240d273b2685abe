"""`dokrun account`: whose API key it is, and the terms of service."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer

from dokrun.cli import render
from dokrun.cli.groups import group
from dokrun.cli.opened import client_of
from dokrun.cli.parameters import Json, Profile
from dokrun.errors import OptionError

app = group("The account behind the API key, and its agreement to the terms of service.")


@app.command("show")
def show(as_json: Json = False, profile: Profile = None) -> None:
    """Tell the account, and when somebody agreed to the terms of service."""
    with client_of(profile) as client:
        info = client.auth.get()
    account, member = info.account, info.member
    told = {
        "account": None if account is None else account.account_id,
        "code": None if account is None else account.account_code,
        "name": None if account is None else account.account_name,
        "member": None if member is None else member.member_id,
        "agreed_at": None if account is None else account.tos_agreed_at,
        "created_at": None if account is None else account.created_at,
    }
    render.facts(told, as_json=as_json)


@app.command("agree")
def agree(
    version: Annotated[Optional[str], typer.Option(help="Of the terms, as DOK calls it.")] = None,  # noqa: UP045 - typer reads it at run time
    yes: Annotated[bool, typer.Option("--yes", help="Agree without being asked.")] = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Agree to DOK's terms of service, without which nothing else works."""
    if not yes and not sys.stdin.isatty():
        raise OptionError("there is no terminal to ask on; if you agree, say --yes")
    with client_of(profile) as client:
        if not yes:
            typer.confirm("Have you read DOK's terms of service, and do you agree to them?", abort=True, err=True)
        client.auth.agree(version)
    render.done("agreed", {"version": version, "told": "agreed"}, as_json=as_json)
