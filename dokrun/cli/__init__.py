"""The command `dokrun`: each command calls the public API and renders what it says.

Exit statuses, the same for all commands (`ends.Status`): 0 it is done; 1 DOK, a store, a registry or dokrun failed; 2
it was called wrongly, or a setting is wrong, and nothing was sent; 3 there is no such thing; 4 the call itself failed;
5 what was asked for is not there yet; 130 interrupted; 141 nobody reads the output any more.
"""

from __future__ import annotations

import sys

from dokrun.cli import ends
from dokrun.cli.app import app


def main() -> None:
    """Run the command line, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # not every terminal knows the sign of the yen
    try:
        app()
    finally:
        ends.let_go_of_output()
