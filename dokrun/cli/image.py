"""`dokrun image`: what has to do with the images that tasks run in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dokrun.errors import ConfigError
from dokrun.payload import shim

app = typer.Typer(help="The images that tasks run in.", no_args_is_help=True)


@app.callback()
def options() -> None:
    """Keep `shim` a command of its own, however few there are."""


@app.command("shim")
def write_shim(
    path: Annotated[Path, typer.Argument(help="Where to write it; an image has it as /opt/dokrun/shim.pyz.")],
) -> None:
    """Write shim.pyz, for an image that shall have it baked in."""
    ready = shim.build()
    try:
        path.write_bytes(ready.data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    print(f"{path}: {len(ready.data):,} bytes, sha256 {ready.sha256}; copy it to {shim.BAKED_PATH}")
