"""`dokrun explain`: the page of an error, or the files that would go along with a function."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Optional

import typer

from dokrun.cli import pages
from dokrun.cli.parameters import Json, Profile


class Language(str, Enum):
    """What the pages are written in."""

    EN = "en"
    JA = "ja"


def explain(
    target: Annotated[
        str,
        typer.Argument(
            metavar="ERROR|FILE:FUNCTION", help="As in TaskFailed; or as in script.py:train, or package.module:train."
        ),
    ],
    lang: Annotated[
        Optional[Language],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="The language of an error's page; that of the terminal if nothing is said."),
    ] = None,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Tell what an error means and what to do; or list the files that would go along with a function, and why.

    The files come largest first. To find them, the script is imported; nothing is sent.
    """
    if all(part.isidentifier() for part in target.split(".")) and not target.endswith(".py"):
        pages.show(target, lang.value if lang else pages.language(), as_json=as_json)
        return
    # It loads what makes payloads, which no page needs.
    from dokrun.cli import along

    along.show(target, profile, as_json=as_json)
