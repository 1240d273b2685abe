"""From what is said of a task at the command line, or stands in a file, to the request that creates it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dokrun.cli.opened import read_text
from dokrun.errors import OptionError, suggest
from dokrun.options import seconds

if TYPE_CHECKING:
    from dokrun.api.models import CreateTaskRequest

_SHELLS = ("/bin/sh", "/bin/bash", "/bin/zsh")
_LEAST_LIMIT_S = 600


def said(
    name: str | None, image: str | None, plan: str | None, command: list[str] | None, entrypoint: list[str] | None
) -> dict[str, Any]:
    """Tell what was said of the container, if it is enough. Raises OptionError."""
    missing = [f"--{option}" for option, value in (("name", name), ("image", image), ("plan", plan)) if not value]
    if missing:
        raise OptionError(f"{' and '.join(missing)} must be said, or all of it in a file: --file definition.json")
    return {"image": image, "plan": plan, "command": command or [], "entrypoint": entrypoint or []}


def environment(given: list[str]) -> dict[str, str]:
    """Read variables, as NAME=VALUE or as the names of those that are here. Raises OptionError."""
    made = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            if name not in os.environ:
                raise OptionError(f"--env {name} has no value, and there is no such variable here; write {name}=VALUE")
            value = os.environ[name]
        made[name] = value
    return made


def shell(path: str) -> str:
    """Tell a shell that DOK has. Raises OptionError."""
    if path not in _SHELLS:
        raise OptionError(f"DOK has no shell {path!r}{suggest(path, _SHELLS)}")
    return path


def limit_s(text: str) -> int | None:
    """Read how long a task may take; None is without an end. Raises OptionError."""
    if text == "none":
        return None
    wanted_s = int(seconds("--time-limit", text))
    if wanted_s < _LEAST_LIMIT_S:
        raise OptionError(f"--time-limit {text} is less than the ten minutes that DOK allows")
    return wanted_s


def read(file: Path) -> dict[str, Any]:
    """Read a file of one JSON object. Raises OptionError."""
    try:
        body = json.loads(read_text(file))
    except ValueError as error:
        raise OptionError(f"{file} is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise OptionError(f"{file} is not one object, as the API takes it")
    return body


def request(body: dict[str, Any]) -> CreateTaskRequest:
    """Make the request of what was said or read. Raises OptionError."""
    import msgspec

    from dokrun.api.models import CreateTaskRequest

    unknown = sorted(set(body) - set(CreateTaskRequest.__struct_fields__))
    if unknown:
        raise OptionError(f"a task has no {unknown[0]!r}{suggest(unknown[0], CreateTaskRequest.__struct_fields__)}")
    try:
        return msgspec.convert(body, CreateTaskRequest)
    except msgspec.ValidationError as error:
        raise OptionError(f"this is no definition of a task: {error}") from None
