"""What an account has registered: registries, ssh keys, whom to notify. And its agreement, and its bill."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from dokrun.api import models
from dokrun.emulator.catalog import PLANS, PRICES
from dokrun.emulator.clock import Clock
from dokrun.emulator.records import Records
from dokrun.emulator.runtime import Credentials
from dokrun.emulator.task import TaskRecord
from dokrun.emulator.validate import Invalid, url


class Missing(Exception):
    """There is nothing of that id."""


class Identified(Protocol):
    """What has an id."""

    @property
    def id(self) -> Any:
        """Its id."""


V = TypeVar("V", bound=Identified)


class Shelf(Generic[V]):
    """The values of one kind, by id, kept in the records."""

    def __init__(self, records: Records, kind: str, form: type[V]) -> None:
        self._records = records
        self._kind = kind
        self._values: dict[str, V] = {str(value.id): value for value in records.all(kind, form)}

    def all(self) -> list[V]:
        """Tell all of them, newest first."""
        return list(reversed(self._values.values()))

    def get(self, identity: str) -> V:
        """Tell the one of an id. Raises Missing."""
        if identity not in self._values:
            raise Missing
        return self._values[identity]

    def put(self, value: V) -> V:
        """Keep one, in place of the one of the same id."""
        self._values[str(value.id)] = value
        self._records.put(self._kind, str(value.id), value)
        return value

    def remove(self, identity: str) -> None:
        """Forget one. Raises Missing."""
        self.get(identity)
        del self._values[identity]
        self._records.remove(self._kind, identity)


class Agreement(msgspec.Struct):
    """When somebody agreed to the terms of service."""

    id: str
    at: datetime


class Setting(msgspec.Struct):
    """A notification setting as it is kept: with its endpoints' ids."""

    id: str
    created_at: datetime
    updated_at: datetime
    event_type: str
    is_enabled: bool
    endpoint_ids: list[int]


class Account:
    """One account."""

    def __init__(self, records: Records, clock: Clock, *, agreed: bool) -> None:
        self._clock = clock
        self._created_at = clock.now()
        # Here alone: not in the records, and in no answer.
        self._passwords: dict[str, str] = {}
        self.registries: Shelf[models.Registry] = Shelf(records, "registry", models.Registry)
        self.ssh_keys: Shelf[models.SshKey] = Shelf(records, "ssh key", models.SshKey)
        self.endpoints: Shelf[models.NotificationEndpoint] = Shelf(records, "endpoint", models.NotificationEndpoint)
        self.settings: Shelf[Setting] = Shelf(records, "setting", Setting)
        self._agreements: Shelf[Agreement] = Shelf(records, "agreement", Agreement)
        if agreed and self.agreed_at is None:
            self.agree()

    @property
    def agreed_at(self) -> datetime | None:
        """When the terms of service were agreed to."""
        found = self._agreements.all()
        return found[0].at if found else None

    def agree(self) -> None:
        """Agree to the terms of service, as they now are."""
        self._agreements.put(Agreement("terms", self._clock.now()))

    def shown(self) -> models.AuthInfo:
        """Make the answer that tells whose key it is."""
        account = models.Account(
            account_id="100000000000",
            account_code="emulator",
            account_name="dokrun emulator",
            tos_agreed_at=self.agreed_at,
            created_at=self._created_at,
        )
        return models.AuthInfo(user={}, member=models.Member(member_id="emulator"), account=account)

    def put_registry(self, request: models.RegistryRequest, identity: str | None = None) -> models.Registry:
        """Register credentials, or change them. The password is kept as long as the emulator runs."""
        for name in ("hostname", "username", "password"):
            if not getattr(request, name):
                raise Invalid(f"{name}: must not be empty")
        now = self._clock.now()
        created_at = self.registries.get(identity).created_at if identity else now
        identity = identity or str(uuid.uuid4())
        self._passwords[identity] = request.password
        return self.registries.put(models.Registry(identity, created_at, now, request.hostname, request.username))

    def remove_registry(self, identity: str) -> None:
        """Forget credentials. Raises Missing."""
        self.registries.remove(identity)
        self._passwords.pop(identity, None)

    def credentials_of(self, identity: str) -> Credentials | None:
        """Tell the credentials of a registry; None where it is gone, or was registered before the emulator started."""
        if identity not in self._passwords:
            return None
        registry = self.registries.get(identity)
        return Credentials(registry.hostname, registry.username, self._passwords[identity])

    def put_ssh_key(self, request: models.SshKeyRequest) -> models.SshKey:
        """Register a public key."""
        return self.ssh_keys.put(models.SshKey(str(uuid.uuid4()), request.name, request.pub_key, request.is_active))

    def put_endpoint(
        self, request: models.NotificationEndpointRequest, identity: str | None = None
    ) -> models.NotificationEndpoint:
        """Register whom to tell, or change it."""
        if request.endpoint_type != "webhook":
            raise Invalid("endpoint_type: must be webhook")
        url(request.address, "address")
        now = self._clock.now()
        before = self.endpoints.get(identity) if identity else None
        return self.endpoints.put(
            models.NotificationEndpoint(
                id=before.id if before else max((known.id for known in self.endpoints.all()), default=0) + 1,
                created_at=before.created_at if before else now,
                updated_at=now,
                endpoint_type=request.endpoint_type,
                address=request.address,
                is_verified=True,
                secret=before.secret if before else secrets.token_hex(16),
            )
        )

    def put_setting(self, request: models.NotificationSettingRequest, identity: str | None = None) -> Setting:
        """Say who is told of an event, or change it."""
        now = self._clock.now()
        created_at = self.settings.get(identity).created_at if identity else now
        setting = Setting(
            id=identity or str(uuid.uuid4()),
            created_at=created_at,
            updated_at=now,
            event_type=request.event_type,
            is_enabled=request.is_enabled,
            endpoint_ids=request.endpoint_ids,
        )
        return self.settings.put(setting)

    def show_setting(self, setting: Setting) -> models.NotificationSetting:
        """Make the answer that shows a setting, with those of its endpoints that are still there."""
        known = {endpoint.id: endpoint for endpoint in self.endpoints.all()}
        return models.NotificationSetting(
            id=setting.id,
            created_at=setting.created_at,
            updated_at=setting.updated_at,
            event_type=setting.event_type,
            is_enabled=setting.is_enabled,
            endpoints=[known[number] for number in setting.endpoint_ids if number in known],
        )

    def set_preference(self, task: TaskRecord, preference: models.NotificationPreference) -> None:
        """Say who is told when one task ends."""
        task.preference = preference

    def told_of(self, task: TaskRecord, event: str) -> list[models.NotificationEndpoint]:
        """Tell who is to be told that a task has ended: what the task says comes before the settings."""
        preference = task.preference or models.NotificationPreference()
        if preference.is_enabled is False:
            return []
        if preference.endpoint_ids is not None:
            wanted = set(preference.endpoint_ids)
        else:
            wanted = {
                number
                for setting in self.settings.all()
                if setting.is_enabled and setting.event_type == event
                for number in setting.endpoint_ids
            }
        return [endpoint for endpoint in self.endpoints.all() if endpoint.id in wanted]


def bill(tasks: Iterable[TaskRecord], now: datetime) -> models.BillingInfo:
    """Sum up what tasks cost: for each plan the seconds, at least the plan's minimum for each task, and the yen."""
    minimum = {plan.id: plan.minimum_execution_seconds for plan in PLANS}
    price = {unit.plan: unit.price for unit in PRICES}
    seconds: dict[str, int] = {}
    for task in tasks:
        if task.execution_seconds is not None:
            billed = max(task.execution_seconds, minimum[task.plan])
            seconds[task.plan] = seconds.get(task.plan, 0) + billed
    details = [
        models.BillingDetail(
            sequence_no=number,
            plan=plan,
            usage_type=1,
            usage=usage,
            amount=int((price[plan] * usage).quantize(Decimal(1), ROUND_HALF_UP)),
            description=f"{plan}, {usage} s",
        )
        for number, (plan, usage) in enumerate(sorted(seconds.items()), start=1)
    ]
    return models.BillingInfo(
        account="100000000000", bill_close_at=now.isoformat(), last_upload_at=now.isoformat(), details=details
    )
