"""Tell somebody's webhook what has happened, once, and see what it answers.

Only webhooks on this machine: an emulator is there for tests, and those must not call strangers.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.parse
import urllib.request
from functools import partial

import msgspec
from anyio import to_thread

from dokrun.api import models
from dokrun.emulator.account import Account
from dokrun.emulator.task import TaskRecord

EVENT = "task_completed"
_TIMEOUT_S = 10.0
_LONGEST_ANSWER = 64 << 10
# This machine's own environment has no say in where a notification goes.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Notifier:
    """Tells those whom an account wants told, while everything else goes on."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._under_way: set[asyncio.Task[None]] = set()

    def tell(self, task: TaskRecord) -> None:
        """Begin to tell that a task has ended."""
        endpoints = self._account.told_of(task, EVENT)
        if endpoints:
            notification = asyncio.create_task(_tell(task, endpoints))
            self._under_way.add(notification)
            notification.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Wait until everybody has been told."""
        await asyncio.gather(*self._under_way, return_exceptions=True)


async def _tell(task: TaskRecord, endpoints: list[models.NotificationEndpoint]) -> None:
    """Send a message to each endpoint; what they answer changes nothing."""
    for endpoint in endpoints:
        await send(endpoint.address, {"event_type": EVENT, "task": task.shown()})


async def send(url: str, message: object) -> models.WebhookTest:
    """Send a message, and tell what the webhook answered."""
    return await to_thread.run_sync(partial(_post, url, msgspec.json.encode(message)))


def _post(url: str, body: bytes) -> models.WebhookTest:
    if urllib.parse.urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        return models.WebhookTest(ok=False, response_body="this emulator calls webhooks on the loopback address only")
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - its user's own
        with _direct.open(request, timeout=_TIMEOUT_S) as response:
            answer = response.read(_LONGEST_ANSWER).decode(errors="replace")
            return models.WebhookTest(ok=True, webhook_status_code=response.status, response_body=answer)
    except urllib.error.HTTPError as error:
        answer = error.read(_LONGEST_ANSWER).decode(errors="replace")
        return models.WebhookTest(ok=False, webhook_status_code=error.code, response_body=answer)
    except (OSError, ValueError) as error:
        return models.WebhookTest(ok=False, webhook_status_code=None, response_body=str(error))
