"""Commands of commands, such as `dokrun tasks list`."""

from __future__ import annotations

import typer


def group(about: str) -> typer.Typer:
    """Make an app of several commands, of whose help nothing is markup."""
    made = typer.Typer(
        help=about, no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False
    )

    @made.callback()
    def _() -> None:
        """Keep its commands commands, however few there are."""

    made.info.help = about
    return made
