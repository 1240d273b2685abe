"""A task as the emulator keeps it, and as the API shows it."""

from __future__ import annotations

import math
from datetime import datetime

import msgspec

from dokrun.api import models


class TaskRecord(msgspec.Struct):
    """A task. What can be stored of it is here; its process is not."""

    id: str
    request: models.CreateTaskRequest
    created_at: datetime
    updated_at: datetime
    status: str = "waiting"
    canceled_at: datetime | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    exit_code: int | None = None
    error_message: str | None = None
    artifact: models.Artifact | None = None
    http_uri: str | None = None
    ssh: models.Ssh | None = None
    preference: models.NotificationPreference | None = None

    @property
    def ended(self) -> bool:
        """Whether it neither waits nor runs."""
        return self.status in models.ENDED

    @property
    def plan(self) -> str:
        """The plan of its container."""
        return self.request.containers[0].plan

    @property
    def execution_seconds(self) -> int | None:
        """How long its container ran, in whole seconds upwards; None while it has not ended, or never started."""
        if self.start_at is None or self.end_at is None:
            return None
        return math.ceil((self.end_at - self.start_at).total_seconds())

    def shown(self) -> models.Task:
        """Make the answer that the API gives."""
        wanted = self.request.containers[0]
        container = models.Container(
            image=wanted.image,
            registry=wanted.registry,
            command=wanted.command,
            entrypoint=wanted.entrypoint,
            environment=wanted.environment,
            http=wanted.http,
            ssh=self.ssh or wanted.ssh,
            plan=wanted.plan,
            exit_code=self.exit_code,
            execution_seconds=self.execution_seconds,
            start_at=self.start_at,
            end_at=self.end_at,
            stop_at=self.end_at,
        )
        return models.Task(
            id=self.id,
            name=self.request.name,
            created_at=self.created_at,
            updated_at=self.updated_at,
            canceled_at=self.canceled_at,
            containers=[container],
            status=self.status,
            http_uri=self.http_uri,
            tags=self.request.tags,
            error_message=self.error_message,
            artifact=self.artifact,
            execution_time_limit_sec=self.request.execution_time_limit_sec,
        )
