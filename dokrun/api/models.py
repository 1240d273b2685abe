"""What DOK's API sends and takes, with the service's own names.

Fields that are not known here are ignored, and all but identities may be absent: the service may grow, and may be
otherwise than its public description. Times are aware. A status that is not known here is not an ended one.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

# A time without an offset is not one: nobody could tell when it was.
Time = Annotated[datetime, msgspec.Meta(tz=True)]

ENDED = frozenset({"error", "done", "aborted", "canceled"})


class Model(msgspec.Struct, frozen=True):
    """A value of the API."""


class HttpPort(Model, frozen=True):
    """The container's public port: plain HTTP inside, https outside, open to the world."""

    port: int
    path: str = "/"


class Ssh(Model, frozen=True, omit_defaults=True):
    """The container's ssh door; `host_name` is the service's to say."""

    shell: str
    port: int | None = None
    host_name: str | None = None


class ContainerRequest(Model, frozen=True, omit_defaults=True):
    """The container that a task shall run. An `environment` holds fewer than 8192 characters in all."""

    image: str
    command: list[str]
    entrypoint: list[str]
    plan: str
    registry: str | None = None
    environment: dict[str, str] = {}
    http: HttpPort | None = None
    ssh: Ssh | None = None


class CreateTaskRequest(Model, frozen=True):
    """A task to create. Without `execution_time_limit_sec` (600 or more) the service allows 20 days."""

    name: str
    containers: list[ContainerRequest]
    tags: list[str]
    execution_time_limit_sec: int | None


class Container(Model, frozen=True):
    """A task's container; `execution_seconds` is what it ran, not the plan's minimum that is billed."""

    index: int = 0
    image: str = ""
    registry: str | None = None
    command: list[str] = []
    entrypoint: list[str] = []
    environment: dict[str, str] = {}
    http: HttpPort | None = None
    ssh: Ssh | None = None
    plan: str = ""
    exit_code: int | None = None
    execution_seconds: int | None = None
    start_at: Time | None = None
    end_at: Time | None = None
    stop_at: Time | None = None


class Artifact(Model, frozen=True):
    """What a task left in its artifact folder, as a tar.gz; gone 72 hours after it was made."""

    id: str
    task: str = ""
    created_at: Time | None = None
    updated_at: Time | None = None
    deleted_at: Time | None = None
    filename: str = ""
    size_bytes: int = 0


class Task(Model, frozen=True):
    """One container on one plan, waiting, running or ended."""

    id: str
    name: str = ""
    created_at: Time | None = None
    updated_at: Time | None = None
    canceled_at: Time | None = None
    containers: list[Container] = []
    status: str = ""
    http_uri: str | None = None
    tags: list[str] = []
    error_message: str | None = None
    artifact: Artifact | None = None
    execution_time_limit_sec: int | None = None

    @property
    def ended(self) -> bool:
        """Whether the service has said that the task will not run on."""
        return self.status in ENDED


class Meta(Model, frozen=True):
    """Where in a list a page stands."""

    page: int = 1
    page_size: int = 0
    total_pages: int = 1
    count: int = 0
    next: str | None = None
    previous: str | None = None


class Page(Model, Generic[T], frozen=True, kw_only=True):
    """One page of a list."""

    meta: Meta = Meta()
    results: list[T]


class DownloadUrl(Model, frozen=True):
    """An address that works for a limited time, without credentials."""

    url: str


class Plan(Model, frozen=True):
    """A machine that tasks can run on; at least `minimum_execution_seconds` are billed."""

    id: str
    name: str = ""
    minimum_execution_seconds: int = 0


class UnitPrice(Model, frozen=True):
    """A plan's price in yen per second, tax included."""

    plan: str
    price: Decimal
    is_overridden: bool = False
    begin_at: str = ""
    end_at: str = ""


class Member(Model, frozen=True):
    """The member that an account belongs to."""

    member_id: str = ""


class Account(Model, frozen=True):
    """A cloud account; `tos_agreed_at` is None until somebody has agreed to the terms of service."""

    account_id: str = ""
    account_code: str = ""
    account_name: str = ""
    tos_agreed_at: Time | None = None
    created_at: Time | None = None


class AuthInfo(Model, frozen=True):
    """Whose API key it is."""

    user: dict[str, Any] | None = None
    member: Member | None = None
    account: Account | None = None


class Error(Model, frozen=True):
    """The body of an answer that is an error; `error_msg` may be in Japanese."""

    is_fatal: bool = False
    serial: str = ""
    status: str = ""
    error_code: str = ""
    error_msg: str = ""
