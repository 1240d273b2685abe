"""`dokrun emulator`: DOK's API on this machine."""

from __future__ import annotations

import signal
import threading
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from dokrun.cli import render
from dokrun.cli.parameters import Json
from dokrun.errors import ConfigError


class Runtime(str, Enum):
    """What the emulator's tasks run as."""

    PROCESS = "process"
    DOCKER = "docker"


def emulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where it listens on 127.0.0.1; 0 is a free port.")] = 0,
    data: Annotated[Optional[Path], typer.Option(help="Keep tasks, artifacts and logs here over restarts.")] = None,  # noqa: UP045 - typer reads it at run time
    slots: Annotated[int, typer.Option(min=1, help="How many tasks run at once.")] = 1,
    runtime: Annotated[
        Runtime, typer.Option(help="What tasks run as: processes of this machine, or containers of Docker.")
    ] = Runtime.PROCESS,
    as_json: Json = False,
) -> None:
    """Serve DOK's API on this machine, until Ctrl-C.

    When it is ready it says what points a client at it; with --json that is one line, and nothing follows.
    """
    try:
        from dokrun.emulator import Behaviour, Emulator
    except ImportError as error:
        raise ConfigError(f"the emulator needs more packages ({error.name}): pip install 'dokrun[local]'") from error
    try:
        service = Emulator(port=port, data=data, behaviour=Behaviour(slots=slots, runtime=runtime.value))
    except OSError as error:
        raise ConfigError(f"cannot listen on port {port}: {error.strerror}; try --port 0") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    told = {"api_url": service.api_url, "access_token": service.token, "access_token_secret": service.secret}
    with service:
        try:
            _tell(told, as_json=as_json)
            threading.Event().wait()
        except KeyboardInterrupt:
            if not as_json:
                print("# ended", flush=True)


def _tell(told: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        render.show_json(told, indent=None)
        return
    print("# An emulator of DOK listens; Ctrl-C ends it. In another terminal:")
    for name, value in told.items():
        print(f"export DOKRUN_{name.upper()}={value}", flush=True)
