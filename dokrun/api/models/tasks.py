"""Tasks, and what they leave behind."""

from __future__ import annotations

import msgspec

from dokrun.api.models.base import Confidential, Model, Time

ENDED = frozenset({"error", "done", "aborted", "canceled"})


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
    environment: dict[str, str] = msgspec.field(default_factory=dict)
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
    command: list[str] = msgspec.field(default_factory=list)
    entrypoint: list[str] = msgspec.field(default_factory=list)
    environment: dict[str, str] = msgspec.field(default_factory=dict)
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
    containers: list[Container] = msgspec.field(default_factory=list)
    status: str = ""
    http_uri: str | None = None
    tags: list[str] = msgspec.field(default_factory=list)
    error_message: str | None = None
    artifact: Artifact | None = None
    execution_time_limit_sec: int | None = None

    @property
    def ended(self) -> bool:
        """Whether the service has said that the task will not run on."""
        return self.status in ENDED

    @property
    def started_at(self) -> Time | None:
        """When its container started, as far as the service tells."""
        return next((container.start_at for container in self.containers if container.start_at), None)


class LogStream(Confidential, frozen=True):
    """Where a running container's log can be heard: a websocket, to be opened with the token as its bearer."""

    hidden = frozenset({"url", "token"})
    url: str
    token: str


class NotificationPreference(Model, frozen=True):
    """Who is told when one task ends; what is None is left to the account's own settings."""

    is_enabled: bool | None = None
    endpoint_ids: list[int] | None = None
