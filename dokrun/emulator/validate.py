"""Refuse what the service refuses, with a message that tells the field."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any, TypeVar

import msgspec

from dokrun.api.models import ENDED, ContainerRequest, CreateTaskRequest
from dokrun.emulator.catalog import PLANS

DEFAULT_TIME_LIMIT_S = 1_728_000  # 20 days
SHORTEST_TIME_LIMIT_S = 600
ENVIRONMENT_CHARS = 8192
LARGEST_PORT = 65535
STATUSES = ENDED | {"waiting", "running"}
_REQUIRED = ("name", "containers", "tags")
_CONTAINER_REQUIRED = ("image", "command", "entrypoint", "plan")
_CONTAINER_KEYS = frozenset(field.name for field in msgspec.structs.fields(ContainerRequest))
_NOT_IN_URLS = re.compile(r"[^\x21-\x7e]|[<>\"{}|\\^`]")
_SHELLS = ("/bin/sh", "/bin/bash", "/bin/zsh")


T = TypeVar("T")


class Invalid(ValueError):
    """The request does not keep the contract; the message is the answer's `error_msg`."""


def read(body: bytes, form: type[T], *, nulls: bool = False) -> T:
    """Read a body, in which null is a value of its own only where `nulls` says so.

    Raises:
        Invalid: it is no JSON, or not of this form.
    """
    data = _object(body)
    for name, given in data.items():
        if given is None and not nulls:
            raise Invalid(f"{name}: must not be null")
    try:
        return msgspec.convert(data, form)
    except msgspec.ValidationError as error:
        raise Invalid(str(error)) from None


def url(text: str, name: str) -> str:
    """Read an address that something can be sent to. Raises Invalid."""
    try:
        parts = urllib.parse.urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and not _NOT_IN_URLS.search(text)
    except ValueError:
        valid = False
    if not valid:
        raise Invalid(f"{name}: must be a URL that begins with http:// or https://")
    return text


def statuses(text: str) -> frozenset[str]:
    """Read a filter by statuses. Raises Invalid where one is not known."""
    wanted = frozenset(text.split(","))
    unknown = sorted(wanted - STATUSES)
    if unknown:
        raise Invalid(f"status: {unknown[0]!r} is not one of {', '.join(sorted(STATUSES))}")
    return wanted


def task_request(body: bytes) -> CreateTaskRequest:
    """Read the body of `POST /tasks/`.

    Raises:
        Invalid: it breaks one of the service's rules.
    """
    data = _object(body)
    _require(data, _REQUIRED, "")
    containers = data["containers"]
    if not isinstance(containers, list) or len(containers) != 1 or not isinstance(containers[0], dict):
        raise Invalid("containers: exactly one container is required")
    unknown = sorted(set(containers[0]) - _CONTAINER_KEYS)
    if unknown:
        raise Invalid(f"Unknown key in container: {', '.join(unknown)}")
    _require(containers[0], _CONTAINER_REQUIRED, "containers[0].")
    data.setdefault("execution_time_limit_sec", DEFAULT_TIME_LIMIT_S)
    try:
        request = msgspec.convert(data, CreateTaskRequest)
    except msgspec.ValidationError as error:
        raise Invalid(str(error)) from None
    if not request.name:
        raise Invalid("name: must not be empty")
    limit = request.execution_time_limit_sec
    if limit is not None and limit < SHORTEST_TIME_LIMIT_S:
        raise Invalid(f"execution_time_limit_sec: must be {SHORTEST_TIME_LIMIT_S} or more")
    _check_container(request.containers[0])
    return request


def _check_container(container: ContainerRequest) -> None:
    if not container.image:
        raise Invalid("containers[0].image: must not be empty")
    plans = [plan.id for plan in PLANS]
    if container.plan not in plans:
        raise Invalid(f"containers[0].plan: {container.plan!r} is not one of {', '.join(plans)}")
    for key in container.environment:
        if key.startswith("SAKURA_"):
            raise Invalid(f"containers[0].environment: {key}: names that begin with SAKURA_ are reserved")
    size = sum(len(key) + len(value) for key, value in container.environment.items())
    if size >= ENVIRONMENT_CHARS:
        raise Invalid(f"containers[0].environment: {size} characters, and fewer than {ENVIRONMENT_CHARS} are allowed")
    if container.http is not None and not 1 <= container.http.port <= LARGEST_PORT:
        raise Invalid(f"containers[0].http.port: must be between 1 and {LARGEST_PORT}")
    if container.ssh is not None and container.ssh.shell not in _SHELLS:
        raise Invalid(f"containers[0].ssh.shell: must be one of {', '.join(_SHELLS)}")


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Invalid("the body must be an object")
    return data


def _require(data: dict[str, Any], names: tuple[str, ...], prefix: str) -> None:
    for name in names:
        if name not in data:
            raise Invalid(f"{prefix}{name}: this field is required")
