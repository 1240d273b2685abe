"""`dokrun emulator`: DOK's API on this machine."""

from __future__ import annotations

import signal
import threading
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

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
) -> None:
    """Serve DOK's API on this machine, until Ctrl-C."""
    try:
        from dokrun.emulator import Behaviour, Emulator
    except ImportError as error:
        raise ConfigError(f"the emulator needs more packages ({error.name}): pip install 'dokrun[local]'") from error
    try:
        service = Emulator(port=port, data=data, behaviour=Behaviour(slots=slots, runtime=runtime.value))
    except OSError as error:
        raise ConfigError(f"cannot listen on port {port}: {error.strerror}; try --port 0") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with service:
        print("# An emulator of DOK listens; Ctrl-C ends it. In another terminal:")
        print(f"export DOKRUN_API_URL={service.api_url}")
        print(f"export DOKRUN_ACCESS_TOKEN={service.token}")
        print(f"export DOKRUN_ACCESS_TOKEN_SECRET={service.secret}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("# ended", flush=True)
