"""The client through the whole contract: against the emulator, or the real service if `DOKRUN_LIVE=1`.

The real service wants credentials in the environment; what is created there is deleted afterwards, and the tasks of a
few seconds on the cheapest plan cost a few yen.
"""

from __future__ import annotations

import os
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from emulated import end_of

from dokrun import config, errors
from dokrun.api import Client, models
from dokrun.emulator import Emulator

T = TypeVar("T")

LIVE = os.environ.get("DOKRUN_LIVE") == "1"
TAG = f"dokrun-contract-{uuid.uuid4().hex[:8]}"
THREE = 3


@pytest.fixture(scope="module")
def service() -> Iterator[Client]:
    """The service's client."""
    if LIVE:
        settings = config.load()
        with Client(settings.access_token, settings.access_token_secret, base_url=settings.api_url) as client:
            yield client
    else:
        with Emulator() as dok, Client(dok.token, dok.secret, base_url=dok.api_url) as client:
            yield client


@pytest.fixture
def clean(service: Client) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Takes what undoes something, and does it at the end, the last first."""
    undo: list[Callable[[], object]] = []
    yield undo.append
    for step in reversed(undo):
        try:
            step()
        except errors.NotFound:
            pass


def task(*command: str) -> models.CreateTaskRequest:
    image = "docker.io/library/python:3.12-slim"
    container = models.ContainerRequest(image, list(command), ["/bin/sh", "-c"], plan="v100-32gb")
    return models.CreateTaskRequest("dokrun-contract", [container], [TAG], 600)


def pages(listed: Callable[..., models.Page[T]], wanted: Callable[[T], bool]) -> list[T]:
    """Read a list page by page, one entry on a page; tell those that are wanted."""
    found: list[T] = []
    number = 1
    while True:
        page = listed(page=number, page_size=1)
        assert len(page.results) <= 1
        found += filter(wanted, page.results)
        if page.meta.next is None:
            return found
        number += 1


def test_the_account_plans_prices_and_bills(service: Client) -> None:
    assert service.auth.get().account is not None
    service.auth.agree()
    plans = {plan.id for plan in service.plans.iterate()}
    prices = {unit.plan: unit.price for unit in service.prices.iterate()}
    assert "v100-32gb" in plans & set(prices)
    assert all(price > 0 for price in prices.values())
    assert isinstance(service.bills.list().results, list)


def test_a_task_from_its_creation_to_its_deletion(service: Client, clean: Any, tmp_path: Path) -> None:
    created = service.tasks.create(task('echo one; echo two >&2; echo kept > "$SAKURA_ARTIFACT_DIR/file"'))
    clean(lambda: service.tasks.delete(created.id))
    assert created.status in ("waiting", "running")
    assert [found.id for found in service.tasks.iterate(tag=TAG)] == [created.id]
    log = "".join(service.tasks.logs(created.id))
    ended = end_of(service, created)
    assert (ended.status, ended.containers[0].exit_code) == ("done", 0)
    assert log.split() == ["one", "two"]
    assert service.tasks.output(created.id) == log
    (artifact,) = service.artifacts.list(task=created.id).results
    assert service.artifacts.get(artifact.id).task == created.id
    with tarfile.open(service.artifacts.download(artifact.id, tmp_path / "artifact")) as archive:
        member = next(found for found in archive if found.name.endswith("file"))
        content = archive.extractfile(member)
        assert content is not None
        assert content.read() == b"kept\n"
    with pytest.raises(errors.Forbidden):
        service.tasks.cancel(created.id)
    service.tasks.delete(created.id)
    with pytest.raises(errors.NotFound):
        service.tasks.get(created.id)


def test_a_task_that_is_cancelled(service: Client, clean: Any) -> None:
    created = service.tasks.create(task("sleep 600"))
    clean(lambda: service.tasks.delete(created.id))
    assert service.tasks.set_notification_preference(created.id, models.NotificationPreference(is_enabled=False))
    service.tasks.cancel(created.id)
    assert end_of(service, created).status == "canceled"


def test_the_log_of_a_task_that_was_cancelled_in_the_line_is_empty(service: Client, clean: Any) -> None:
    first, second = (service.tasks.create(task("sleep 600")) for _ in range(2))
    for created in (second, first):
        clean(lambda gone=created.id: service.tasks.delete(gone))
        service.tasks.cancel(created.id)
        end_of(service, created)
    assert list(service.tasks.logs(second.id)) == []


def test_a_wrong_task_is_refused_in_the_services_words(service: Client) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        service.tasks.create(models.CreateTaskRequest("wrong", task().containers, [TAG], 1))
    assert caught.value.status == 400


def test_lists_of_three_pages_hold_everything_once(service: Client, clean: Any) -> None:
    for _ in range(THREE):
        created = service.tasks.create(task("sleep 600"))
        clean(lambda gone=created.id: service.tasks.delete(gone))
        service.tasks.cancel(created.id)
        end_of(service, created)
    ids = [found.id for found in service.tasks.iterate(tag=TAG, page_size=1)]
    assert len(ids) == len(set(ids)) == THREE
    listed = pages(lambda **page: service.tasks.list(tag=TAG, **page), lambda _: True)
    assert [found.id for found in listed] == ids


def test_registries_ssh_keys_and_notifications_are_registered_changed_and_removed(service: Client, clean: Any) -> None:
    mark = uuid.uuid4().hex[:8]
    for number in range(THREE):
        request = models.RegistryRequest(f"{mark}-{number}.example.com", "user", "password")
        registry = service.registries.create(request)
        clean(lambda gone=registry.id: service.registries.delete(gone))
        key = service.ssh_keys.create(models.SshKeyRequest(f"{mark}-{number}", PUBLIC_KEY))
        clean(lambda gone=key.id: service.ssh_keys.delete(gone))
        address = f"http://127.0.0.1:9/{mark}/{number}"
        endpoint = service.notifications.endpoints.create(models.NotificationEndpointRequest("webhook", address))
        clean(lambda gone=endpoint.id: service.notifications.endpoints.delete(gone))
        setting = service.notifications.settings.create(
            models.NotificationSettingRequest("task_completed", is_enabled=False, endpoint_ids=[endpoint.id])
        )
        clean(lambda gone=setting.id: service.notifications.settings.delete(gone))
    assert len(pages(service.registries.list, lambda found: found.hostname.startswith(mark))) == THREE
    assert len([found for found in service.ssh_keys.iterate() if found.name.startswith(mark)]) == THREE
    assert len([found for found in service.notifications.endpoints.iterate() if mark in found.address]) == THREE
    changed = service.registries.update(registry.id, models.RegistryRequest(f"{mark}.example.com", "other", "password"))
    assert service.registries.get(registry.id) == changed
    assert service.ssh_keys.update(key.id, models.SshKeyUpdate(f"{mark}-new", is_active=False)).is_active is False
    assert service.ssh_keys.get(key.id).name == f"{mark}-new"
    moved = models.NotificationEndpointChange(address=f"http://127.0.0.1:9/{mark}/moved")
    assert service.notifications.endpoints.change(endpoint.id, moved).address == moved.address
    again = models.NotificationEndpointRequest("webhook", address)
    assert service.notifications.endpoints.update(endpoint.id, again).address == address
    assert service.notifications.endpoints.get(endpoint.id).address == address
    whole = models.NotificationSettingRequest("task_completed", is_enabled=False, endpoint_ids=[])
    assert service.notifications.settings.update(setting.id, whole).endpoints == []
    part = models.NotificationSettingChange(endpoint_ids=[endpoint.id])
    assert service.notifications.settings.change(setting.id, part).endpoints[0].id == endpoint.id
    assert service.notifications.settings.get(setting.id).is_enabled is False
    assert service.notifications.settings.test_webhook(address).ok is False
    service.registries.delete(registry.id)
    with pytest.raises(errors.NotFound):
        service.registries.get(registry.id)


PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA contract"
