"""The credentials of registries: those that are found here, and those that DOK keeps so that tasks can pull."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dokrun import errors
from dokrun.api import Client
from dokrun.api.models import Registry as KnownRegistry
from dokrun.api.models import RegistryRequest
from dokrun.config import Settings
from dokrun.image.credentials import Credentials, canonical_host, docker_credentials
from dokrun.image.reference import Reference

# After these answers nothing was stored; after every other failure of the request, nobody knows.
_NOT_STORED = (errors.NotSent, errors.BadRequest, errors.Unauthorized, errors.Forbidden, errors.NotFound)


def credentials_of(settings: Settings, host: str, environ: Mapping[str, str] = os.environ) -> Credentials | None:
    """Tell the credentials for a registry: the settings' where it is the configured one, else Docker's, or None.

    Raises:
        ImageError: the configured registry's name is none.
        RegistryError: Docker's file or helper is broken.
    """
    registry = settings.registry
    if registry is None or registry.username is None or registry.password is None:
        return docker_credentials(host, environ)
    if Reference.parse(f"{registry.name}/dokrun").host != host:
        return docker_credentials(host, environ)
    return Credentials(registry.username, registry.password)


def known_registry(client: Client, host: str, username: str) -> KnownRegistry | None:
    """Tell what DOK has stored for a registry and a username, or None. Raises ApiError."""
    return next((one for one in known_of(client, host) if one.username == username), None)


def known_of(client: Client, host: str) -> list[KnownRegistry]:
    """Tell all that DOK has stored for a registry, one for each username. Raises ApiError."""
    return [one for one in client.registries.iterate() if canonical_host(one.hostname.lower()) == host]


def store(client: Client, host: str, credentials: Credentials) -> tuple[KnownRegistry, bool]:
    """Have DOK keep credentials, and tell whether it knew the registry and the username before.

    What is there is replaced: of two entries of one name it would be a matter of chance which is used.

    Raises:
        ApiError: DOK refused, or cannot have received it.
        ImageError: nobody knows whether it has them.
    """
    request = RegistryRequest(host, credentials.username, credentials.password.reveal())
    there = known_registry(client, host, credentials.username)
    if there is not None:
        return client.registries.update(there.id, request), True
    try:
        return client.registries.create(request), False
    except _NOT_STORED:
        raise
    except errors.ApiError as error:
        # No answer, or one that says nothing about what was done: creating is not repeated, so look.
        there = known_registry(client, host, credentials.username)
        if there is None:
            raise errors.ImageError(
                f"DOK does not list {host} after it was told to keep its credentials ({error}); "
                f"look again with: dokrun registry list, then run: dokrun registry add {host}"
            ) from error
        return there, False
