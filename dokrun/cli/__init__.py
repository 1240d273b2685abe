"""The command `dokrun`: each command calls the public API and renders what it says."""

from __future__ import annotations

import sys

from dokrun.cli.app import app
from dokrun.errors import DokrunError


def main() -> None:
    """Run the command line. A failure is one line on standard error and exit status 1."""
    try:
        app()
    except DokrunError as error:
        print(f"dokrun: {error}", *error.__notes__, sep="\n  ", file=sys.stderr)
        sys.exit(1)
