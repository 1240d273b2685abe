"""The emulator's door to a Docker engine: which one it is, what can go wrong with it, and in what words."""

from __future__ import annotations

import os
import re
import socket
from typing import Any

from dokrun.errors import ConfigError

_DEFAULT_HOST = "unix:///var/run/docker.sock"


def connect() -> Any:
    """Make a client of the engine that the environment names.

    Raises:
        ConfigError: none answers.
    """
    try:
        if host().startswith("unix://"):
            # The SDK forgets to close the socket of an engine that does not answer.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(host().removeprefix("unix://"))
        return sdk().from_env().api
    except failures() as error:
        raise ConfigError(
            f"no Docker engine answers at {host()}; start Docker or set DOCKER_HOST, or take the runtime `process`,"
            " which needs none"
        ) from error


def host() -> str:
    """Tell the engine's address."""
    return os.environ.get("DOCKER_HOST") or _DEFAULT_HOST


def sdk() -> Any:
    """Load Docker's library, which only this runtime needs."""
    import docker  # type: ignore[import-untyped]

    return docker


def failures() -> tuple[type[Exception], ...]:
    """List what the SDK raises: errors of its own, those of the connection and of addresses."""
    import urllib3

    errors = sdk().errors
    return (errors.DockerException, errors.StreamParseError, urllib3.exceptions.HTTPError, OSError, ValueError)


def told(error: BaseException) -> str:
    """Tell what the engine said. It may quote a registry's address, whose query is nobody's concern."""
    return re.sub(r"\?[^\s\"']+", "", str(getattr(error, "explanation", None) or error)).strip()


def close_stream(stream: Any) -> None:
    """Close a stream, and the socket that the SDK leaves open below it."""
    below = getattr(stream, "_sock", None)
    stream.close()
    if below is not None:
        below.close()
