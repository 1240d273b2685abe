"""Commands, alone and of commands, such as `dokrun tasks list`, and how their usage is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

Function = TypeVar("Function", bound=Callable[..., Any])


class _Command(TyperCommand):
    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Write what it takes: NAME what must be there, [NAME] what may, NAME... what may be several."""
        pieces = [self.options_metavar] if self.options_metavar else []
        return pieces + [_piece(one) for one in self.get_params(ctx) if one.param_type_name == "argument"]


def _piece(argument: Any) -> str:
    name = f"{argument.metavar}{'' if argument.nargs == 1 else '...'}"
    return name if argument.required else f"[{name}]"


class Commands(typer.Typer):
    """Makes commands that all write their usage alike."""

    def command(self, *given: Any, **settings: Any) -> Callable[[Function], Function]:
        """Make one, as typer does."""
        return super().command(*given, **{"cls": _Command, **settings})


def group(about: str) -> Commands:
    """Make an app of several commands, of whose help nothing is markup."""
    made = Commands(
        help=about, no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False
    )

    @made.callback()
    def _() -> None:
        """Keep its commands commands, however few there are."""

    made.info.help = about
    return made
