"""Make the command that finds or brings `shim.pyz` in any image, and starts it."""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from dokrun.payload.pyz import build
from dokrun.payload.strip import strip
from dokrun.shim import bootstrap, protocol, reply, web

# The image may have Python under either name. `$0` is the first word of the command, which is the script below.
ENTRYPOINT = (
    "/bin/sh",
    "-c",
    (
        "p=$(command -v python3 || command -v python) || "
        f'{{ echo "dokrun: this image has neither python3 nor python" >&2; exit {protocol.NO_PYTHON}; }}; '
        'exec "$p" -u -c "$0" "$@"'
    ),
)

# Where an image may have the same bytes, so that they need not be brought.
BAKED_PATH = "/opt/dokrun/shim.pyz"

# How long one try to fetch the shim, some 300 KiB, may take.
PATIENCE_S = 60.0


@functools.cache
def _program() -> tuple[str, str]:
    """Tell the program that brings the shim: what comes before the first worker is started, and what comes after it."""
    before = _text(bootstrap).partition("from .web import")[0]
    # What one module imports from another stands before it here; what the first begins with holds for all of them.
    after = "".join(map(_text, (reply, web)))
    return before, re.sub(r"^from (\.|__future__).*\n", "", after, flags=re.MULTILINE)


def _text(module: ModuleType) -> str:
    lines = strip(Path(str(module.__file__)).read_bytes()).decode().splitlines()
    return "".join(f"{line}\n" for line in lines if line.strip())


def command(
    payload: str | None, addresses: Mapping[str, object], *, calls: str = "", patience_s: float = PATIENCE_S
) -> list[str]:
    """Tell the command that, behind `ENTRYPOINT`, runs the shim in any image that has Python.

    Args:
        payload: the payload in base 64, if it rides in the command.
        addresses: where the rest is to be had; the command carries the shim itself where they do not name it.
        calls: which calls are to be run, where not all are.
        patience_s: how long one try to fetch the shim may take, in seconds.
    """
    fetched = "shim" in addresses
    # What is carried has to be short.
    ready = build(with_code=fetched)
    carried = protocol.FETCHED if fetched else base64.b64encode(ready.packed.data or b"").decode()
    table = json.dumps(addresses, separators=(",", ":"))
    before, after = _program()
    started = f"spawned = fork({protocol.PAYLOAD_VARIABLES})\n"
    script = f"{before}{started}{after}run(spawned, {BAKED_PATH!r}, {protocol.FETCHED!r}, {patience_s})\n"
    return [script, ready.sha256, carried, payload or protocol.FETCHED, table, *([calls] if calls else [])]
