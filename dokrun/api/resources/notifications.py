"""Who is told when a task ends: endpoints are addresses, settings say which of them hear of which event."""

from __future__ import annotations

from collections.abc import Iterator

from dokrun.api import models
from dokrun.api.connection import Connection
from dokrun.api.resources.base import Resource, iterate_pages, paged, segment

_ENDPOINTS = "/notification/endpoints/"
_SETTINGS = "/notification/settings/"


class Endpoints(Resource):
    """Addresses that can be told what happens."""

    def list(self, *, page: int = 1, page_size: int | None = None) -> models.Page[models.NotificationEndpoint]:
        """Tell one page of the endpoints, as long as the service makes it where no `page_size` is given."""
        query = paged(page, page_size)
        return self._connection.request("GET", _ENDPOINTS, models.Page[models.NotificationEndpoint], query=query)

    def iterate(self, *, page_size: int | None = None) -> Iterator[models.NotificationEndpoint]:
        """Yield all endpoints, page by page."""
        return iterate_pages(lambda page: self.list(page=page, page_size=page_size))

    def get(self, endpoint_id: int) -> models.NotificationEndpoint:
        """Tell one endpoint. Raises NotFound where there is none of this id."""
        return self._connection.request("GET", _endpoint(endpoint_id), models.NotificationEndpoint)

    def create(self, endpoint: models.NotificationEndpointRequest) -> models.NotificationEndpoint:
        """Register an endpoint. Never repeated if it may have been received."""
        return self._connection.request("POST", _ENDPOINTS, models.NotificationEndpoint, body=endpoint)

    def update(self, endpoint_id: int, endpoint: models.NotificationEndpointRequest) -> models.NotificationEndpoint:
        """Replace all of an endpoint."""
        return self._connection.request("PUT", _endpoint(endpoint_id), models.NotificationEndpoint, body=endpoint)

    def change(self, endpoint_id: int, change: models.NotificationEndpointChange) -> models.NotificationEndpoint:
        """Change some fields of an endpoint."""
        return self._connection.request("PATCH", _endpoint(endpoint_id), models.NotificationEndpoint, body=change)

    def delete(self, endpoint_id: int) -> None:
        """Have the service forget an endpoint."""
        self._connection.execute("DELETE", _endpoint(endpoint_id))


class Settings(Resource):
    """Which endpoints are told of which event."""

    def list(self, *, page: int = 1, page_size: int | None = None) -> models.Page[models.NotificationSetting]:
        """Tell one page of the settings, as long as the service makes it where no `page_size` is given."""
        query = paged(page, page_size)
        return self._connection.request("GET", _SETTINGS, models.Page[models.NotificationSetting], query=query)

    def iterate(self, *, page_size: int | None = None) -> Iterator[models.NotificationSetting]:
        """Yield all settings, page by page."""
        return iterate_pages(lambda page: self.list(page=page, page_size=page_size))

    def get(self, setting_id: str) -> models.NotificationSetting:
        """Tell one setting. Raises NotFound where there is none of this id."""
        return self._connection.request("GET", _setting(setting_id), models.NotificationSetting)

    def create(self, setting: models.NotificationSettingRequest) -> models.NotificationSetting:
        """Make a setting. Never repeated if it may have been received."""
        return self._connection.request("POST", _SETTINGS, models.NotificationSetting, body=setting)

    def update(self, setting_id: str, setting: models.NotificationSettingRequest) -> models.NotificationSetting:
        """Replace all of a setting."""
        return self._connection.request("PUT", _setting(setting_id), models.NotificationSetting, body=setting)

    def change(self, setting_id: str, change: models.NotificationSettingChange) -> models.NotificationSetting:
        """Change some fields of a setting."""
        return self._connection.request("PATCH", _setting(setting_id), models.NotificationSetting, body=change)

    def delete(self, setting_id: str) -> None:
        """Have the service forget a setting."""
        self._connection.execute("DELETE", _setting(setting_id))

    def test_webhook(self, url: str) -> models.WebhookTest:
        """Have the service send a test message to a webhook, and tell what it answered."""
        body = models.WebhookTestRequest(url)
        return self._connection.request("POST", f"{_SETTINGS}test-webhook/", models.WebhookTest, body=body)


class Notifications(Resource):
    """Who is told what: `endpoints` and `settings`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.endpoints = Endpoints(connection)
        self.settings = Settings(connection)


def _endpoint(identity: int) -> str:
    return f"{_ENDPOINTS}{segment(str(identity))}/"


def _setting(identity: str) -> str:
    return f"{_SETTINGS}{segment(identity)}/"
