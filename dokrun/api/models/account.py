"""An account, and what it has registered."""

from __future__ import annotations

from typing import Any

from dokrun.api.models.base import Confidential, Model, Time


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


class RegistryRequest(Confidential, frozen=True):
    """Credentials for a private container registry, to be kept by the service."""

    hidden = frozenset({"password"})
    hostname: str
    username: str
    password: str


class Registry(Model, frozen=True):
    """Credentials for a container registry that the service keeps; it never tells the password."""

    id: str
    created_at: Time | None = None
    updated_at: Time | None = None
    hostname: str = ""
    username: str = ""


class SshKeyRequest(Model, frozen=True):
    """A public key to register."""

    name: str
    pub_key: str
    is_active: bool = True


class SshKeyUpdate(Model, frozen=True):
    """What can be changed of a registered key: all of it but the key."""

    name: str
    is_active: bool


class SshKey(Model, frozen=True):
    """A public key that opens the ssh door of tasks while it is active."""

    id: str
    name: str = ""
    pub_key: str = ""
    is_active: bool = False
