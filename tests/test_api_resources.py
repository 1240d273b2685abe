"""Every path of the contract: what each method sends, and what it makes of the answer."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from rich.console import Console

from dokrun import errors
from dokrun.api import Client, models
from dokrun.api.transport import Backoff

ID = "0d8bb1d7-4f5c-4f0e-9b57-1a6b8c3b1a11"
MADE = "2026-11-24T10:00:00+09:00"
MADE_AT = datetime(2026, 11, 24, 10, tzinfo=timezone(timedelta(hours=9)))
CONTRACT = Path(__file__).parent.parent / "contract" / "dok-api.yaml"
CANARY = "hush-hush"
PAGE: dict[str, Any] = {"page": 1, "page_size": 100, "total_pages": 1, "count": 1, "next": None, "previous": None}

REGISTRY = {"id": ID, "created_at": MADE, "updated_at": MADE, "hostname": "ghcr.io", "username": "me"}
BILL = {
    "account": "1",
    "bill_close_at": "2026-11-30",
    "last_upload_at": MADE,
    "details": [{"sequence_no": 1, "plan": None, "usage_type": 2, "usage": 60, "amount": 17, "description": "h100"}],
}
KEY = {"id": "7", "name": "mine", "pub_key": "ssh-ed25519 AAAA", "is_active": True}
ENDPOINT = {
    "id": 3,
    "created_at": MADE,
    "updated_at": MADE,
    "endpoint_type": "webhook",
    "address": "https://hook.test/",
    "is_verified": True,
    "secret": CANARY,
}
SETTING = {
    "id": ID,
    "created_at": MADE,
    "updated_at": MADE,
    "event_type": "task_completed",
    "is_enabled": True,
    "endpoints": [ENDPOINT],
}
TESTED = {"ok": False, "webhook_status_code": 500, "response_body": "no"}

the_registry = models.Registry(ID, MADE_AT, MADE_AT, "ghcr.io", "me")
the_bill = models.BillingInfo("1", "2026-11-30", MADE, [models.BillingDetail(1, None, 2, 60, 17, "h100")])
the_key = models.SshKey("7", "mine", "ssh-ed25519 AAAA", is_active=True)
the_endpoint = models.NotificationEndpoint(
    3, MADE_AT, MADE_AT, "webhook", "https://hook.test/", is_verified=True, secret=CANARY
)
the_setting = models.NotificationSetting(
    ID, MADE_AT, MADE_AT, "task_completed", is_enabled=True, endpoints=[the_endpoint]
)

ask_registry = models.RegistryRequest("ghcr.io", "me", CANARY)
ask_endpoint = models.NotificationEndpointRequest("webhook", "https://hook.test/")
ask_setting = models.NotificationSettingRequest("task_completed", is_enabled=True, endpoint_ids=[3])

ONE_REQUEST: list[tuple[Callable[[Client], object], str, object, object, object]] = [
    # what is called, the method and path that are sent, the body that is, the answer, what is made of it
    (
        lambda c: c.auth.get(),
        "GET /auth/",
        None,
        {"member": {"member_id": "m"}},
        models.AuthInfo(None, models.Member("m")),
    ),
    (lambda c: c.auth.agree(), "POST /auth/agree/", None, None, None),
    (lambda c: c.auth.agree("2026-04-01"), "POST /auth/agree/?version=2026-04-01", None, None, None),
    (
        lambda c: c.tasks.get(ID),
        f"GET /tasks/{ID}/",
        None,
        {"id": ID, "status": "done"},
        models.Task(ID, status="done"),
    ),
    (
        lambda c: c.tasks.create(models.CreateTaskRequest("n", [], ["t"], 600)),
        "POST /tasks/",
        {"name": "n", "containers": [], "tags": ["t"], "execution_time_limit_sec": 600},
        {"id": ID},
        models.Task(ID),
    ),
    (lambda c: c.tasks.cancel(ID), f"POST /tasks/{ID}/cancel/", None, {"id": ID}, models.Task(ID)),
    (lambda c: c.tasks.delete(ID), f"DELETE /tasks/{ID}/", None, None, None),
    (lambda c: c.artifacts.get(ID), f"GET /artifacts/{ID}/", None, {"id": ID}, models.Artifact(ID)),
    (
        lambda c: c.artifacts.download_url(ID),
        f"GET /artifacts/{ID}/download/",
        None,
        {"url": "https://store.test/1?s=2"},
        "https://store.test/1?s=2",
    ),
    (lambda c: c.registries.get(ID), f"GET /registries/{ID}/", None, REGISTRY, the_registry),
    (
        lambda c: c.registries.create(ask_registry),
        "POST /registries/",
        {"hostname": "ghcr.io", "username": "me", "password": CANARY},
        REGISTRY,
        the_registry,
    ),
    (
        lambda c: c.registries.update(ID, ask_registry),
        f"PUT /registries/{ID}/",
        {"hostname": "ghcr.io", "username": "me", "password": CANARY},
        REGISTRY,
        the_registry,
    ),
    (lambda c: c.registries.delete(ID), f"DELETE /registries/{ID}/", None, None, None),
    (lambda c: c.ssh_keys.get("7"), "GET /ssh/keys/7/", None, KEY, the_key),
    (
        lambda c: c.ssh_keys.create(models.SshKeyRequest("mine", "ssh-ed25519 AAAA")),
        "POST /ssh/keys/",
        {"name": "mine", "pub_key": "ssh-ed25519 AAAA", "is_active": True},
        KEY,
        the_key,
    ),
    (
        lambda c: c.ssh_keys.update("7", models.SshKeyUpdate("yours", is_active=False)),
        "PUT /ssh/keys/7/",
        {"name": "yours", "is_active": False},
        KEY,
        the_key,
    ),
    (lambda c: c.ssh_keys.delete("7"), "DELETE /ssh/keys/7/", None, None, None),
    (lambda c: c.notifications.endpoints.get(3), "GET /notification/endpoints/3/", None, ENDPOINT, the_endpoint),
    (
        lambda c: c.notifications.endpoints.create(ask_endpoint),
        "POST /notification/endpoints/",
        {"endpoint_type": "webhook", "address": "https://hook.test/"},
        ENDPOINT,
        the_endpoint,
    ),
    (
        lambda c: c.notifications.endpoints.update(3, ask_endpoint),
        "PUT /notification/endpoints/3/",
        {"endpoint_type": "webhook", "address": "https://hook.test/"},
        ENDPOINT,
        the_endpoint,
    ),
    (
        lambda c: c.notifications.endpoints.change(3, models.NotificationEndpointChange(address="https://b.test/")),
        "PATCH /notification/endpoints/3/",
        {"address": "https://b.test/"},
        ENDPOINT,
        the_endpoint,
    ),
    (lambda c: c.notifications.endpoints.delete(3), "DELETE /notification/endpoints/3/", None, None, None),
    (lambda c: c.notifications.settings.get(ID), f"GET /notification/settings/{ID}/", None, SETTING, the_setting),
    (
        lambda c: c.notifications.settings.create(ask_setting),
        "POST /notification/settings/",
        {"event_type": "task_completed", "is_enabled": True, "endpoint_ids": [3]},
        SETTING,
        the_setting,
    ),
    (
        lambda c: c.notifications.settings.update(ID, ask_setting),
        f"PUT /notification/settings/{ID}/",
        {"event_type": "task_completed", "is_enabled": True, "endpoint_ids": [3]},
        SETTING,
        the_setting,
    ),
    (
        lambda c: c.notifications.settings.change(ID, models.NotificationSettingChange(is_enabled=False)),
        f"PATCH /notification/settings/{ID}/",
        {"is_enabled": False},
        SETTING,
        the_setting,
    ),
    (
        lambda c: c.notifications.settings.change(ID, models.NotificationSettingChange(endpoint_ids=[])),
        f"PATCH /notification/settings/{ID}/",
        {"endpoint_ids": []},
        SETTING,
        the_setting,
    ),
    (lambda c: c.notifications.settings.delete(ID), f"DELETE /notification/settings/{ID}/", None, None, None),
    (
        lambda c: c.notifications.settings.test_webhook("https://hook.test/"),
        "POST /notification/settings/test-webhook/",
        {"url": "https://hook.test/"},
        TESTED,
        models.WebhookTest(ok=False, webhook_status_code=500, response_body="no"),
    ),
    (
        lambda c: c.tasks.set_notification_preference(
            ID, models.NotificationPreference(is_enabled=True, endpoint_ids=[3])
        ),
        f"PUT /tasks/{ID}/notification-preference/",
        {"is_enabled": True, "endpoint_ids": [3]},
        {"ok": True},
        True,
    ),
    (
        lambda c: c.tasks.set_notification_preference(ID, models.NotificationPreference()),
        f"PUT /tasks/{ID}/notification-preference/",
        {"is_enabled": None, "endpoint_ids": None},
        {"ok": False},
        False,
    ),
    (
        lambda c: c.tasks.stream(ID),
        f"POST /tasks/{ID}/containers/0/stream/",
        None,
        {"url": "wss://log.test/1", "token": CANARY},
        models.LogStream("wss://log.test/1", CANARY),
    ),
    (
        lambda c: c.tasks.output_url(ID),
        f"GET /tasks/{ID}/download/output/",
        None,
        {"url": "https://store.test/1?s=2"},
        "https://store.test/1?s=2",
    ),
    (
        lambda c: c.tasks.output_url(ID, filename="a b.txt"),
        f"GET /tasks/{ID}/download/output/?filename=a+b.txt",
        None,
        {"url": "https://store.test/1"},
        "https://store.test/1",
    ),
]

LISTS: list[tuple[Callable[[Client], models.Page[Any]], str, object, object]] = [
    (
        lambda c: c.tasks.list(status=["done", "error"], tag="t"),
        "GET /tasks/?page=1&page_size=100&status=done%2Cerror&tag=t",
        {"id": ID},
        models.Task(ID),
    ),
    (
        lambda c: c.artifacts.list(task=ID),
        f"GET /artifacts/?page=1&page_size=100&task={ID}",
        {"id": ID},
        models.Artifact(ID),
    ),
    (lambda c: c.registries.list(), "GET /registries/?page=1&page_size=100", REGISTRY, the_registry),
    (lambda c: c.registries.list(page=2, page_size=3), "GET /registries/?page=2&page_size=3", REGISTRY, the_registry),
    (lambda c: c.bills.list(), "GET /billing_infos/", BILL, the_bill),
    (lambda c: c.bills.list(year=2026, month=11), "GET /billing_infos/?year=2026&month=11", BILL, the_bill),
    (
        lambda c: c.bills.list(year=2026, month=11, day=24, page=2),
        "GET /billing_infos/?year=2026&month=11&day=24&page=2",
        BILL,
        the_bill,
    ),
    (lambda c: c.ssh_keys.list(), "GET /ssh/keys/", KEY, the_key),
    (lambda c: c.notifications.endpoints.list(), "GET /notification/endpoints/", ENDPOINT, the_endpoint),
    (lambda c: c.notifications.settings.list(), "GET /notification/settings/", SETTING, the_setting),
    (lambda c: c.plans.list(), "GET /plans/", {"id": "h100-80gb"}, models.Plan("h100-80gb")),
    (
        lambda c: c.prices.list(date(2026, 11, 2), page=2, page_size=1),
        "GET /unit_prices/?page=2&page_size=1&year=2026&month=11&day=2",
        {"plan": "p", "price": "0.28"},
        None,
    ),
]

ITERATORS: list[tuple[Callable[[Client], Iterator[Any]], str, Callable[[int], dict[str, object]]]] = [
    (lambda c: c.tasks.iterate(page_size=1, tag="t"), "/tasks/?page_size=1&tag=t", lambda n: {"id": str(n)}),
    (
        lambda c: c.artifacts.iterate(page_size=1, task=ID),
        f"/artifacts/?page_size=1&task={ID}",
        lambda n: {"id": str(n)},
    ),
    (lambda c: c.registries.iterate(page_size=1), "/registries/?page_size=1", lambda n: {"id": str(n)}),
    (
        lambda c: c.bills.iterate(year=2026, month=1, day=2, page_size=1),
        "/billing_infos/?year=2026&month=1&day=2&page_size=1",
        lambda n: {"account": str(n)},
    ),
    (lambda c: c.ssh_keys.iterate(page_size=1), "/ssh/keys/?page_size=1", lambda n: {"id": str(n)}),
    (
        lambda c: c.notifications.endpoints.iterate(page_size=1),
        "/notification/endpoints/?page_size=1",
        lambda n: {"id": n},
    ),
    (
        lambda c: c.notifications.settings.iterate(page_size=1),
        "/notification/settings/?page_size=1",
        lambda n: {"id": str(n)},
    ),
    (lambda c: c.plans.iterate(page_size=1), "/plans/?page_size=1", lambda n: {"id": str(n)}),
    (
        lambda c: c.prices.iterate(date(2026, 1, 2), page_size=1),
        "/unit_prices/?page_size=1&year=2026&month=1&day=2",
        lambda n: {"plan": str(n), "price": "1"},
    ),
]


class Service(httpx.BaseTransport):
    """A service that always gives this answer, and writes down what it was asked."""

    def __init__(self, answer: object, status: int = 200) -> None:
        self._answer, self._status = answer, status
        self.asked: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return httpx.Response(204) if self._answer is None else httpx.Response(self._status, json=self._answer)


def client_of(service: httpx.BaseTransport) -> Client:
    backoff = Backoff(attempts=3, sleep=lambda _: None)
    return Client("token", "secret", base_url="https://dok.test", transport=service, backoff=backoff)


def shown(request: httpx.Request) -> str:
    return f"{request.method} {request.url.raw_path.decode()}"


@pytest.mark.parametrize(("call", "sent", "body", "answer", "read"), ONE_REQUEST, ids=[row[1] for row in ONE_REQUEST])
def test_a_method_sends_what_the_contract_says_and_reads_the_answer(
    call: Callable[[Client], object], sent: str, body: object, answer: object, read: object
) -> None:
    service = Service(answer)
    assert call(client_of(service)) == read
    (request,) = service.asked
    assert shown(request) == sent
    assert (json.loads(request.content) if request.content else None) == body


def test_every_operation_of_the_contract_has_a_method() -> None:
    paths = schemathesis.openapi.from_path(CONTRACT).raw_schema["paths"]
    sent = {one.partition("?")[0] for one in [*(row[1] for row in ONE_REQUEST), *(row[1] for row in LISTS)]}
    there = {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if method in ("get", "post", "put", "patch", "delete")
    }
    assert len(there) > 30
    missing = {it for it in there if not any(re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", it), one) for one in sent)}
    assert missing == set()


@pytest.mark.parametrize(("call", "sent", "entry", "read"), LISTS, ids=[row[1] for row in LISTS])
def test_a_list_is_a_page(call: Callable[[Client], models.Page[Any]], sent: str, entry: object, read: object) -> None:
    service = Service({"meta": PAGE, "results": [entry]})
    page = call(client_of(service))
    assert shown(service.asked[0]) == sent
    assert page.meta.count == 1
    assert page.results == [read] or (read is None and len(page.results) == 1)


@pytest.mark.parametrize(("call", "sent", "entry"), ITERATORS, ids=[row[1] for row in ITERATORS])
def test_an_iterator_goes_over_all_pages_and_asks_each_with_the_same_words(
    call: Callable[[Client], Iterator[Any]], sent: str, entry: Callable[[int], dict[str, object]]
) -> None:
    asked: list[httpx.URL] = []

    def service(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        number = int(request.url.params.get("page", 1))
        following = None if number == 3 else f"https://dok.test/?page={number + 1}"
        return httpx.Response(
            200, json={"meta": {**PAGE, "page": number, "next": following}, "results": [entry(number)]}
        )

    found = [*call(client_of(httpx.MockTransport(service)))]
    told = [getattr(it, name) for it in found for name in ("id", "account", "plan") if hasattr(it, name)]
    assert [str(it) for it in told] == ["1", "2", "3"]
    assert [int(url.params.get("page", 1)) for url in asked] == [1, 2, 3]
    assert {url.copy_remove_param("page").raw_path.decode() for url in asked} == {sent}


@pytest.mark.parametrize(
    "kind",
    [models.Registry, models.SshKey, models.NotificationSetting, models.NotificationEndpoint, models.BillingInfo],
)
def test_all_fields_but_identities_may_be_absent(kind: type[models.Model]) -> None:
    entry = {"id": 3} if kind is models.NotificationEndpoint else {} if kind is models.BillingInfo else {"id": "3"}
    whole = {"meta": {}, "results": [{**entry, "unheard_of": {"x": 1}, "created_at": None}]}
    client = client_of(Service(whole))
    lists: dict[type[models.Model], Callable[[], models.Page[Any]]] = {
        models.Registry: client.registries.list,
        models.SshKey: client.ssh_keys.list,
        models.NotificationSetting: client.notifications.settings.list,
        models.NotificationEndpoint: client.notifications.endpoints.list,
        models.BillingInfo: client.bills.list,
    }
    (result,) = lists[kind]().results
    assert type(result) is kind


@pytest.mark.parametrize(
    "value",
    [
        ask_registry,
        the_endpoint,
        the_setting,
        models.LogStream(f"wss://log.test/?k={CANARY}", CANARY),
        models.DownloadUrl(f"https://store.test/?signature={CANARY}"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_secret_is_sent_and_never_shown(value: models.Model) -> None:
    console = Console(record=True, width=300)
    with console.capture() as rich:
        console.print(value, [value])
    seen = f"{value} {value!r} {[value]!r} {rich.get()}"
    assert "…" in seen
    assert CANARY not in seen
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize(
    "post", [row for row in ONE_REQUEST if row[1].startswith(("POST", "PATCH"))], ids=lambda r: r[1]
)
def test_what_makes_or_changes_something_is_not_repeated(post: tuple[Callable[[Client], object], str]) -> None:
    service = Service({"error_code": "busy"}, status=503)
    with pytest.raises(errors.ServerError):
        post[0](client_of(service))
    assert len(service.asked) == 1


# --- the collected output


class Outputs(httpx.BaseTransport):
    """Hands out an address on another host, where these bodies lie one after another; None is a broken one."""

    def __init__(self, *bodies: bytes | None) -> None:
        self._bodies = [*bodies]
        self.elsewhere: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "dok.test":
            return httpx.Response(200, json={"url": "https://store.test/out?signature=hush"})
        self.elsewhere.append(request)
        body = self._bodies.pop(0)
        if body is None:
            return httpx.Response(200, headers={"Content-Length": "9"}, stream=httpx.ByteStream(b"half"))
        return httpx.Response(200, stream=httpx.ByteStream(body))


def test_the_output_is_fetched_without_credentials_and_decoded_whatever_it_is() -> None:
    service = Outputs("日本\n".encode() + b"\xff\xe6\x97")
    assert client_of(service).tasks.output(ID) == "日本\n\ufffd\ufffd"
    assert "Authorization" not in service.elsewhere[0].headers


def test_an_output_that_broke_is_fetched_again_from_its_beginning() -> None:
    service = Outputs(None, None, b"whole")
    assert client_of(service).tasks.output(ID) == "whole"
    assert len(service.elsewhere) == 3


def test_an_output_that_breaks_again_and_again_is_no_answer() -> None:
    service = Outputs(None, None, None)
    with pytest.raises(errors.NoAnswer, match="GET /out: 4 of 9 bytes came"):
        client_of(service).tasks.output(ID)
    assert len(service.elsewhere) == 3


def test_an_output_larger_than_allowed_is_refused() -> None:
    with pytest.raises(errors.InvalidAnswer, match="GET /out: more than 4 bytes came"):
        client_of(Outputs(b"12345")).tasks.output(ID, limit_bytes=4)
    assert client_of(Outputs(b"1234")).tasks.output(ID, limit_bytes=4) == "1234"


def test_an_output_that_has_not_been_collected_is_not_found() -> None:
    with pytest.raises(errors.NotFound):
        client_of(Service({}, status=404)).tasks.output(ID)
