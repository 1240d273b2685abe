"""The client, with a resource for every part of the API."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

import httpx

from dokrun.api import resources
from dokrun.api.clock import Clock
from dokrun.api.connection import Connection
from dokrun.api.transport import Backoff
from dokrun.config import DEFAULT_API_URL, NO_CREDENTIALS
from dokrun.errors import MissingCredentials
from dokrun.secret import Secret

if TYPE_CHECKING:
    from typing_extensions import Self


class Client:
    """DOK's API: `auth`, `tasks`, `artifacts`, `registries`, `plans`, `prices`, `bills`, `ssh_keys`, `notifications`.

    Args:
        access_token: the token of a Sakura Cloud API key that has been granted DOK.
        access_token_secret: its secret.
        base_url: the service's address up to and with the version; the only zone that offers it is Ishikari 1.
        timeout_s: the longest wait, in seconds, for a connection and for each piece of an answer.
        backoff: how requests that may be repeated are repeated.
        transport: what sends the requests, in place of the network.
        clock: what tells the time, in place of this machine's own clocks.

    Raises:
        MissingCredentials: the token or its secret is empty.

    Examples:
        >>> from dokrun.emulator import Emulator
        >>> with Emulator() as service, Client(service.token, service.secret, base_url=service.api_url) as client:
        ...     [plan.id for plan in client.plans.iterate()]
        ['v100-32gb', 'h100-80gb', 'h100-8gpu-80gb']
    """

    def __init__(
        self,
        access_token: str,
        access_token_secret: Secret | str,
        *,
        base_url: str = DEFAULT_API_URL,
        timeout_s: float = 30.0,
        backoff: Backoff | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        secret = access_token_secret if isinstance(access_token_secret, Secret) else Secret(access_token_secret)
        if not access_token or not secret:
            raise MissingCredentials(NO_CREDENTIALS)
        self._connection = Connection(
            access_token,
            secret,
            base_url=base_url,
            timeout_s=timeout_s,
            backoff=backoff or Backoff(),
            transport=transport,
            clock=clock or Clock(),
        )
        self.auth = resources.Auth(self._connection)
        self.tasks = resources.Tasks(self._connection)
        self.artifacts = resources.Artifacts(self._connection)
        self.registries = resources.Registries(self._connection)
        self.plans = resources.Plans(self._connection)
        self.prices = resources.Prices(self._connection)
        self.bills = resources.Bills(self._connection)
        self.ssh_keys = resources.SshKeys(self._connection)
        self.notifications = resources.Notifications(self._connection)

    @property
    def clock_ahead_s(self) -> float | None:
        """By how many seconds this machine's clock is surely ahead of the service's; None until it has answered."""
        return self._connection.clock_ahead_s

    def check_clock(self) -> None:
        """Make sure that this machine's clock is good enough to sign addresses; asks the service the time if it must.

        Raises:
            ConfigError: it is ten minutes or more off the service's.
            NoAnswer: the service does not tell.
        """
        self._connection.check_clock()

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Use the client; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def __repr__(self) -> str:
        """Tell the address, never the credentials."""
        return f"Client(base_url={self._connection.shown!r})"
