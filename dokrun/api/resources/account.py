"""The account behind the API key, and what it has registered."""

from __future__ import annotations

from collections.abc import Iterator

from dokrun.api import models
from dokrun.api.resources.base import PAGE_SIZE, Resource, iterate_pages, paged, segment


class Auth(Resource):
    """Whose API key it is, and the terms of service."""

    def get(self) -> models.AuthInfo:
        """Tell the account behind the API key. Also the cheapest way to see whether the key works."""
        return self._connection.request("GET", "/auth/", models.AuthInfo)

    def agree(self, version: str | None = None) -> None:
        """Agree to the terms of service; before that, nothing else works."""
        self._connection.execute("POST", "/auth/agree/", query={"version": version})


class Registries(Resource):
    """Credentials for private container registries, which the service keeps; tasks name them by id."""

    def list(self, *, page: int = 1, page_size: int = PAGE_SIZE) -> models.Page[models.Registry]:
        """Tell one page of the registered credentials, without their passwords."""
        query = {"page": page, "page_size": page_size}
        return self._connection.request("GET", "/registries/", models.Page[models.Registry], query=query)

    def iterate(self, *, page_size: int = PAGE_SIZE) -> Iterator[models.Registry]:
        """Yield all registered credentials, page by page."""
        return iterate_pages(lambda page: self.list(page=page, page_size=page_size))

    def get(self, registry_id: str) -> models.Registry:
        """Tell one registry. Raises NotFound where there is none of this id."""
        return self._connection.request("GET", f"/registries/{segment(registry_id)}/", models.Registry)

    def create(self, registry: models.RegistryRequest) -> models.Registry:
        """Register credentials. Never repeated if they may have been received."""
        return self._connection.request("POST", "/registries/", models.Registry, body=registry)

    def update(self, registry_id: str, registry: models.RegistryRequest) -> models.Registry:
        """Replace all of a registry, its password too."""
        return self._connection.request("PUT", f"/registries/{segment(registry_id)}/", models.Registry, body=registry)

    def delete(self, registry_id: str) -> None:
        """Have the service forget a registry."""
        self._connection.execute("DELETE", f"/registries/{segment(registry_id)}/")


class SshKeys(Resource):
    """Public keys that open the ssh door of tasks."""

    def list(self, *, page: int = 1, page_size: int | None = None) -> models.Page[models.SshKey]:
        """Tell one page of the registered keys, as long as the service makes it where no `page_size` is given."""
        query = paged(page, page_size)
        return self._connection.request("GET", "/ssh/keys/", models.Page[models.SshKey], query=query)

    def iterate(self, *, page_size: int | None = None) -> Iterator[models.SshKey]:
        """Yield all registered keys, page by page."""
        return iterate_pages(lambda page: self.list(page=page, page_size=page_size))

    def get(self, key_id: str) -> models.SshKey:
        """Tell one key. Raises NotFound where there is none of this id."""
        return self._connection.request("GET", f"/ssh/keys/{segment(key_id)}/", models.SshKey)

    def create(self, key: models.SshKeyRequest) -> models.SshKey:
        """Register a key. Never repeated if it may have been received."""
        return self._connection.request("POST", "/ssh/keys/", models.SshKey, body=key)

    def update(self, key_id: str, key: models.SshKeyUpdate) -> models.SshKey:
        """Change a key's name and whether it is active."""
        return self._connection.request("PUT", f"/ssh/keys/{segment(key_id)}/", models.SshKey, body=key)

    def delete(self, key_id: str) -> None:
        """Have the service forget a key."""
        self._connection.execute("DELETE", f"/ssh/keys/{segment(key_id)}/")
