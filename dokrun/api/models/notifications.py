"""Who is told what."""

from __future__ import annotations

import msgspec

from dokrun.api.models.base import Confidential, Model, Time


class NotificationEndpointRequest(Model, frozen=True):
    """An address to be told at; the service knows the type `webhook`."""

    endpoint_type: str
    address: str


class NotificationEndpointChange(Model, frozen=True, omit_defaults=True):
    """What to change of an endpoint; None leaves a field as it is."""

    endpoint_type: str | None = None
    address: str | None = None


class NotificationEndpoint(Confidential, frozen=True):
    """An address that is told what happens. With the `secret`, a webhook can tell who sent a message."""

    hidden = frozenset({"secret"})
    id: int
    created_at: Time | None = None
    updated_at: Time | None = None
    endpoint_type: str = ""
    address: str = ""
    is_verified: bool = False
    secret: str | None = None


class NotificationSettingRequest(Model, frozen=True):
    """Which endpoints shall be told of an event, such as `task_completed`."""

    event_type: str
    is_enabled: bool
    endpoint_ids: list[int]


class NotificationSettingChange(Model, frozen=True, omit_defaults=True):
    """What to change of a setting; None leaves a field as it is."""

    event_type: str | None = None
    is_enabled: bool | None = None
    endpoint_ids: list[int] | None = None


class NotificationSetting(Model, frozen=True):
    """Which endpoints are told of an event."""

    id: str
    created_at: Time | None = None
    updated_at: Time | None = None
    event_type: str = ""
    is_enabled: bool = False
    endpoints: list[NotificationEndpoint] = msgspec.field(default_factory=list)


class WebhookTestRequest(Model, frozen=True):
    """A webhook to send a test message to."""

    url: str


class WebhookTest(Model, frozen=True):
    """What a webhook answered to a test message."""

    ok: bool | None = None
    webhook_status_code: int | None = None
    response_body: str | None = None
