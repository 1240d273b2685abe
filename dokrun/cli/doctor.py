"""`dokrun doctor`: everything that is needed is tried."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from dokrun.cli import render
from dokrun.cli.ends import Status
from dokrun.cli.parameters import Json, Profile

if TYPE_CHECKING:
    from dokrun.engine.doctor import Check


def doctor(as_json: Json = False, profile: Profile = None) -> None:
    """Try all that dokrun needs, and tell what is wrong and what to do.

    Nothing of it stays, in the bucket or elsewhere. The exit status is 1 if something is wrong that is needed.
    """
    from dokrun.engine.doctor import examine

    checks = list(tell(examine(profile), quietly=as_json))
    if as_json:
        render.show_json([asdict(check) for check in checks])
    if any(check.state == "wrong" for check in checks):
        raise typer.Exit(Status.FAILED)


def tell(checks: Iterable[Check], *, quietly: bool = False) -> Iterable[Check]:
    """Print each check as it comes, and yield it."""
    for check in checks:
        if not quietly:
            state = check.state.ljust(12) if render.is_terminal() else f"{check.state}\t"
            name = check.name.ljust(18) if render.is_terminal() else f"{check.name}\t"
            advice = f"; {check.advice}" if check.advice and check.state != "ok" else ""
            print(f"{state}{name}{render.text(check.told)}{render.text(advice)}", flush=True)
        yield check
