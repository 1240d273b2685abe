"""What an account has registered, plans, prices and bills, over HTTP."""

from __future__ import annotations

from datetime import date
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from dokrun.api import models
from dokrun.emulator import answers, validate, webhooks
from dokrun.emulator.account import Account, bill
from dokrun.emulator.catalog import PLANS, PRICES
from dokrun.emulator.clock import Clock
from dokrun.emulator.state import Project

T = TypeVar("T")


class AccountRoutes:
    """The handlers."""

    def __init__(self, project: Project, account: Account, clock: Clock) -> None:
        self._project = project
        self._account = account
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        """List what is found below the API's path."""
        return [
            answers.resource("/auth/", get=self.auth),
            answers.resource("/auth/agree/", post=self.agree),
            answers.resource("/registries/", get=self.list_registries, post=self.create_registry),
            answers.resource(
                "/registries/{id}/", get=self.get_registry, put=self.update_registry, delete=self.delete_registry
            ),
            answers.resource("/plans/", get=self.plans),
            answers.resource("/unit_prices/", get=self.prices),
            answers.resource("/billing_infos/", get=self.bills),
            answers.resource("/ssh/keys/", get=self.list_keys, post=self.create_key),
            answers.resource(
                "/ssh/keys/{id}/",
                get=self.get_key,
                put=self.update_key,
                delete=self.delete_key,
            ),
            answers.resource("/notification/endpoints/", get=self.list_endpoints, post=self.create_endpoint),
            answers.resource(
                "/notification/endpoints/{id}/",
                get=self.get_endpoint,
                put=self.update_endpoint,
                patch=self.update_endpoint,
                delete=self.delete_endpoint,
            ),
            answers.resource("/notification/settings/", get=self.list_settings, post=self.create_setting),
            answers.resource("/notification/settings/test-webhook/", post=self.test_webhook),
            answers.resource(
                "/notification/settings/{id:uuid}/",
                get=self.get_setting,
                put=self.update_setting,
                patch=self.update_setting,
                delete=self.delete_setting,
            ),
        ]

    async def auth(self, _request: Request) -> Response:
        return answers.value(self._account.shown())

    async def agree(self, _request: Request) -> Response:
        self._account.agree()
        return answers.nothing()

    async def plans(self, request: Request) -> Response:
        return answers.page(request, PLANS)

    async def prices(self, request: Request) -> Response:
        _day(request)
        return answers.page(request, PRICES)

    async def bills(self, request: Request) -> Response:
        wanted = _day(request)
        tasks = [
            task
            for task in self._project.tasks.values()
            if task.end_at is not None and all(getattr(task.end_at, name) == number for name, number in wanted.items())
        ]
        return answers.page(request, [bill(tasks, self._clock.now())])

    async def list_registries(self, request: Request) -> Response:
        return answers.page(request, self._account.registries.all())

    async def create_registry(self, request: Request) -> Response:
        wanted = validate.read(await request.body(), models.RegistryRequest)
        return answers.value(self._account.put_registry(wanted), status=201)

    async def get_registry(self, request: Request) -> Response:
        return answers.value(self._account.registries.get(request.path_params["id"]))

    async def update_registry(self, request: Request) -> Response:
        registry = self._account.registries.get(request.path_params["id"])
        wanted = validate.read(await request.body(), models.RegistryRequest)
        return answers.value(self._account.put_registry(wanted, registry.id))

    async def delete_registry(self, request: Request) -> Response:
        self._account.remove_registry(request.path_params["id"])
        return answers.nothing()

    async def list_keys(self, request: Request) -> Response:
        return answers.page(request, self._account.ssh_keys.all())

    async def create_key(self, request: Request) -> Response:
        wanted = validate.read(await request.body(), models.SshKeyRequest)
        return answers.value(self._account.put_ssh_key(wanted), status=201)

    async def get_key(self, request: Request) -> Response:
        return answers.value(self._account.ssh_keys.get(request.path_params["id"]))

    async def update_key(self, request: Request) -> Response:
        key = self._account.ssh_keys.get(request.path_params["id"])
        wanted = validate.read(await request.body(), models.SshKeyUpdate)
        changed = msgspec.structs.replace(key, name=wanted.name, is_active=wanted.is_active)
        return answers.value(self._account.ssh_keys.put(changed))

    async def delete_key(self, request: Request) -> Response:
        self._account.ssh_keys.remove(request.path_params["id"])
        return answers.nothing()

    async def list_endpoints(self, request: Request) -> Response:
        return answers.page(request, self._account.endpoints.all())

    async def create_endpoint(self, request: Request) -> Response:
        wanted = validate.read(await request.body(), models.NotificationEndpointRequest)
        return answers.value(self._account.put_endpoint(wanted), status=201)

    async def get_endpoint(self, request: Request) -> Response:
        return answers.value(self._account.endpoints.get(request.path_params["id"]))

    async def update_endpoint(self, request: Request) -> Response:
        endpoint = self._account.endpoints.get(request.path_params["id"])
        if request.method == "PATCH":
            change = validate.read(await request.body(), models.NotificationEndpointChange)
            wanted = models.NotificationEndpointRequest(
                _given(change.endpoint_type, endpoint.endpoint_type), _given(change.address, endpoint.address)
            )
        else:
            wanted = validate.read(await request.body(), models.NotificationEndpointRequest)
        return answers.value(self._account.put_endpoint(wanted, str(endpoint.id)))

    async def delete_endpoint(self, request: Request) -> Response:
        self._account.endpoints.remove(request.path_params["id"])
        return answers.nothing()

    async def list_settings(self, request: Request) -> Response:
        return answers.page(request, self._account.settings.all(), self._account.show_setting)

    async def create_setting(self, request: Request) -> Response:
        wanted = validate.read(await request.body(), models.NotificationSettingRequest)
        return answers.value(self._account.show_setting(self._account.put_setting(wanted)), status=201)

    async def get_setting(self, request: Request) -> Response:
        return answers.value(self._account.show_setting(self._account.settings.get(str(request.path_params["id"]))))

    async def update_setting(self, request: Request) -> Response:
        setting = self._account.settings.get(str(request.path_params["id"]))
        if request.method == "PATCH":
            change = validate.read(await request.body(), models.NotificationSettingChange)
            wanted = models.NotificationSettingRequest(
                event_type=_given(change.event_type, setting.event_type),
                is_enabled=_given(change.is_enabled, setting.is_enabled),
                endpoint_ids=_given(change.endpoint_ids, setting.endpoint_ids),
            )
        else:
            wanted = validate.read(await request.body(), models.NotificationSettingRequest)
        return answers.value(self._account.show_setting(self._account.put_setting(wanted, setting.id)))

    async def delete_setting(self, request: Request) -> Response:
        self._account.settings.remove(str(request.path_params["id"]))
        return answers.nothing()

    async def test_webhook(self, request: Request) -> Response:
        wanted = validate.read(await request.body(), models.WebhookTestRequest)
        return answers.value(await webhooks.send(validate.url(wanted.url, "url"), {"event_type": "test"}))


def _given(change: T | None, before: T) -> T:
    return before if change is None else change


def _day(request: Request) -> dict[str, int]:
    """Read a day, a month or a year from the query; what it does not name is not asked for."""
    names = [name for name in ("year", "month", "day") if name in request.query_params]
    wanted = {name: answers.positive(request, name, 1) for name in names}
    try:
        date(wanted.get("year", 2000), wanted.get("month", 1), wanted.get("day", 1))
    except (ValueError, OverflowError):
        raise validate.Invalid("year, month, day: there is no such day") from None
    return wanted
