"""`dokrun image`: what has to do with the images that tasks run in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dokrun.cli import render
from dokrun.cli.groups import group
from dokrun.cli.opened import settings_of
from dokrun.cli.parameters import Json, Profile
from dokrun.errors import ConfigError

app = group("The images that tasks run in.")


@app.command("build")
def build(
    target: Annotated[str, typer.Argument(metavar="FILE:FUNCTION", help="As in script.py:train.")],
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Make the image of a function ready: look it up, or build and push it; and print its name.

    Where it has been built before nothing is built. The builder's own words go to standard error.
    """
    from dokrun.cli.target import find

    found = find(target)
    own = found.function._options  # noqa: SLF001 - they are told to whoever sends a call, and this sends none
    settings = settings_of(profile or own.profile)
    from dokrun.engine.images import ready_image

    ready = ready_image(settings, own.over(settings.defaults).image)
    told = {"image": ready.reference, "registry": ready.registry_id, "python": ready.python}
    render.done(ready.reference, told, as_json=as_json)


@app.command("ls")
def list_images(as_json: Json = False, profile: Profile = None) -> None:
    """List the images that dokrun has built and pushed to the registry that is configured."""
    from dokrun.engine.images import built

    rows = [{"image": each} for each in built(settings_of(profile))]
    render.table(rows, ("image",), as_json=as_json)


@app.command("shim")
def write_shim(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write it; an image has it as /opt/dokrun/shim.pyz.")
    ],
    as_json: Json = False,
) -> None:
    """Write shim.pyz, for an image that shall have it baked in."""
    from dokrun.payload import pyz, shim

    ready = pyz.build(with_code=True)
    try:
        path.write_bytes(ready.data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    told = {"path": str(path), "bytes": len(ready.data), "sha256": ready.sha256, "baked_path": shim.BAKED_PATH}
    line = f"{path}: {len(ready.data):,} bytes, sha256 {ready.sha256}; copy it to {shim.BAKED_PATH}"
    render.done(line, told, as_json=as_json)
