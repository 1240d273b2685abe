"""The client: what it asks the service and what it makes of the answers."""

from __future__ import annotations

import base64
import inspect
import logging
import pickle
import socket
import tarfile
import traceback
import uuid
from collections.abc import Callable
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from emulated import end_of, request

from dokrun import errors
from dokrun.api import Client
from dokrun.api.transport import Backoff
from dokrun.emulator import Emulator
from dokrun.secret import Secret

TOKEN, SECRET, TAG = "a-token", "a-key-that-nobody-sees", "a-tag-that-nobody-sees"
HIDDEN = (TOKEN, SECRET, TAG, base64.b64encode(f"{TOKEN}:{SECRET}".encode()).decode())
NO_PAUSE = Backoff(attempts=2, sleep=lambda _: None)
TASK_ID = "0d8bb1d7-4f5c-4f0e-9b57-1a6b8c3b1a11"


def answering(status: int, **answer: object) -> Client:
    """Make a client of a service that always gives this answer."""
    return talking_to(lambda _: httpx.Response(status, **answer))  # type: ignore[arg-type]


def talking_to(service: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client(
        TOKEN, SECRET, base_url="https://dok.test/1.0", backoff=NO_PAUSE, transport=httpx.MockTransport(service)
    )


def refusal_of(client: Client) -> errors.ApiError:
    with client, pytest.raises(errors.ApiError) as caught:
        client.tasks.list(tag=TAG)
    return caught.value


# --- against the emulator


def test_a_created_task_is_answered_whole_and_can_be_got(client: Client) -> None:
    created = client.tasks.create(request("pass"))
    got = end_of(client, created)
    assert (got.id, got.name, got.tags, got.execution_time_limit_sec) == (created.id, "test", ["test"], 600)
    assert (got.status, got.containers[0].exit_code, got.containers[0].command) == ("done", 0, ["-c", "pass"])
    assert got.created_at is not None
    assert got.created_at.utcoffset() is not None


def test_iterating_gives_every_task_once_over_all_pages_newest_first(client: Client) -> None:
    tag = uuid.uuid4().hex
    created = [client.tasks.create(request(tag=tag)).id for _ in range(5)]
    page = client.tasks.list(tag=tag, page=2, page_size=2)
    assert (page.meta.page, page.meta.total_pages, page.meta.count) == (2, 3, 5)
    assert [task.id for task in page.results] == created[::-1][2:4]
    assert [task.id for task in client.tasks.iterate(tag=tag, page_size=2)] == created[::-1]


def test_tasks_are_filtered_by_tag_and_by_one_or_more_statuses(client: Client) -> None:
    tag = uuid.uuid4().hex
    done = end_of(client, client.tasks.create(request(tag=tag)))
    failed = end_of(client, client.tasks.create(request("exit(1)", tag=tag)))
    end_of(client, client.tasks.create(request(tag="another")))
    assert [task.id for task in client.tasks.iterate(tag=tag)] == [failed.id, done.id]
    assert [task.id for task in client.tasks.iterate(tag=tag, status="error")] == [failed.id]
    assert [task.id for task in client.tasks.list(tag=tag, status=("error", "done")).results] == [failed.id, done.id]
    assert [*client.tasks.iterate(tag=tag, status=iter(["waiting", "running"]), page_size=1)] == []


def test_a_cancelled_task_is_canceled_and_a_second_time_is_forbidden(client: Client) -> None:
    task = client.tasks.create(request("import time; time.sleep(60)"))
    assert client.tasks.cancel(task.id).canceled_at is not None
    assert end_of(client, task).status == "canceled"
    with pytest.raises(errors.Forbidden, match="the task has ended") as caught:
        client.tasks.cancel(task.id)
    assert (caught.value.status, caught.value.error_code) == (403, "forbidden")


def test_a_deleted_task_is_not_found(client: Client) -> None:
    task = end_of(client, client.tasks.create(request()))
    client.tasks.delete(task.id)
    with pytest.raises(errors.NotFound, match="there is no such task"):
        client.tasks.get(task.id)


def test_an_artifact_is_listed_got_and_downloaded_with_what_the_task_wrote(client: Client, tmp_path: Path) -> None:
    code = "import os; open(os.environ['SAKURA_ARTIFACT_DIR'] + '/answer', 'w').write('42')"
    task = end_of(client, client.tasks.create(request(code)))
    (artifact,) = client.artifacts.iterate(task=task.id)
    assert client.artifacts.get(artifact.id) == artifact == task.artifact
    assert client.artifacts.list(task="another").results == []
    path = client.artifacts.download(artifact.id, tmp_path / "artifact.tar.gz")
    assert path.read_bytes() == httpx.get(client.artifacts.download_url(artifact.id)).content
    assert path.stat().st_size == artifact.size_bytes
    with tarfile.open(path, "r:gz") as archive:
        answer = archive.extractfile("./answer")
        assert answer is not None
        assert answer.read() == b"42"


def test_the_account_tells_when_somebody_agreed_to_the_terms(client: Client) -> None:
    before = datetime.now(timezone.utc)
    client.auth.agree("2026-04-01")
    account = client.auth.get().account
    assert account is not None
    assert account.tos_agreed_at is not None
    assert account.tos_agreed_at >= before


def test_plans_tell_the_least_that_is_billed_and_prices_are_exact(client: Client) -> None:
    assert {plan.id: plan.minimum_execution_seconds for plan in client.plans.list().results}["h100-80gb"] == 60
    prices = {price.plan: price.price for price in client.prices.list(date(2026, 11, 2)).results}
    assert prices["h100-80gb"] == Decimal("0.28")
    assert isinstance(prices["v100-32gb"], Decimal)


def test_wrong_credentials_are_refused_in_the_services_words(dok: Emulator) -> None:
    with (
        Client(dok.token, "wrong", base_url=dok.api_url) as client,
        pytest.raises(errors.Unauthorized, match="Invalid credentials; check the API key"),
    ):
        client.auth.get()


@pytest.mark.parametrize(("token", "secret"), [("", "s"), ("t", ""), ("t", Secret(""))])
def test_missing_credentials_are_told_in_the_services_words(token: str, secret: str | Secret) -> None:
    with pytest.raises(errors.MissingCredentials, match="Authentication credentials not provided"):
        Client(token, secret)


def test_logs_show_no_query_and_no_credentials(
    dok: Emulator, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = end_of(client, client.tasks.create(request()))
    assert task.artifact is not None
    caplog.set_level(logging.DEBUG)
    client.tasks.list(tag=TAG)
    client.artifacts.download(task.artifact.id, tmp_path / "artifact.tar.gz")
    logged = [
        record.getMessage()
        for record in caplog.records
        if record.name.partition(".")[0] in ("httpx", "httpcore", "dokrun")  # not the server, which sees it all
    ]
    assert any(line.startswith("HTTP Request: GET") and "/tasks/ " in line for line in logged)
    assert any(line.startswith("HTTP Request: GET") and "/downloads/" in line for line in logged)
    key = base64.b64encode(f"{dok.token}:{dok.secret}".encode()).decode()
    assert not [word for word in (TAG, "signature=", dok.secret, key) if word in "".join(logged)]


# --- what the service may do otherwise


def test_unknown_fields_are_ignored_and_absent_ones_accepted() -> None:
    with answering(200, json={"id": TASK_ID, "priority": 3, "containers": [{"gpu": {"count": 1}}]}) as client:
        task = client.tasks.get(TASK_ID)
    assert (task.id, task.status, task.containers[0].exit_code) == (TASK_ID, "", None)


def test_an_unknown_status_is_not_an_ended_one() -> None:
    with answering(200, json={"id": TASK_ID, "status": "pulling"}) as client:
        assert not client.tasks.get(TASK_ID).ended


def test_a_malformed_time_is_an_invalid_answer_that_names_the_field() -> None:
    with (
        answering(200, json={"id": TASK_ID, "created_at": "yesterday"}) as client,
        pytest.raises(errors.InvalidAnswer, match=r"Invalid date format - at `\$\.created_at`"),
    ):
        client.tasks.get(TASK_ID)


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"results": nul'])
def test_an_answer_that_keeps_no_contract_is_an_invalid_answer(body: bytes) -> None:
    error = refusal_of(answering(200, content=body))
    assert type(error) is errors.InvalidAnswer
    assert (error.method, error.path) == ("GET", "/1.0/tasks/")


def test_an_answer_whose_compression_is_broken_is_one_of_our_errors() -> None:
    headers = {"Content-Encoding": "gzip"}
    assert isinstance(refusal_of(answering(200, headers=headers, stream=httpx.ByteStream(b"{}"))), errors.ApiError)


def test_a_refusal_carries_the_services_words_and_where_they_came_from() -> None:
    words = {"is_fatal": False, "serial": "77aa", "status": "400 Bad Request", "error_code": "bad_request"}
    error = refusal_of(answering(400, json={**words, "error_msg": "Unknown key in container"}))
    assert isinstance(error, errors.BadRequest)
    assert (error.method, error.path, error.status) == ("GET", "/1.0/tasks/", 400)
    assert (error.error_code, error.error_msg, error.serial) == ("bad_request", "Unknown key in container", "77aa")
    assert str(error) == "GET /1.0/tasks/: 400 Bad Request: Unknown key in container"


def test_a_refusal_keeps_the_words_that_can_be_read() -> None:
    error = refusal_of(answering(400, json={"error_msg": "Invalid date format", "error_code": None}))
    assert str(error) == "GET /1.0/tasks/: 400 Bad Request: Invalid date format"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (307, errors.Refused),
        (401, errors.Unauthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Refused),
        (413, errors.BadRequest),
        (422, errors.BadRequest),
        (429, errors.TooManyRequests),
        (502, errors.ServerError),
    ],
)
def test_a_refusal_is_of_its_statuss_kind_even_without_a_body_that_can_be_read(
    status: int, kind: type[errors.Refused]
) -> None:
    error = refusal_of(answering(status, text="<html>"))
    assert type(error) is kind
    assert f"{status} " in str(error)


def unanswered(sent: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("timed out", request=sent) from OSError(f"{sent.url} {sent.headers['Authorization']}")


@pytest.mark.parametrize(
    "make_client", [lambda: answering(400, json={}), lambda: answering(200, text="{"), lambda: talking_to(unanswered)]
)
def test_no_error_shows_the_query_or_the_credentials(make_client: Callable[[], Client]) -> None:
    error = refusal_of(make_client())
    shown = [str(error), repr(error), repr(error.args), repr(vars(error)), *traceback.format_exception(error)]
    assert "/1.0/tasks/" in shown[0]
    assert not [word for word in HIDDEN if word in "".join(shown)]


def test_a_service_that_cannot_be_reached_was_sent_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    error = refusal_of(Client(TOKEN, SECRET, base_url=f"http://127.0.0.1:{port}/1.0", backoff=NO_PAUSE))
    assert type(error) is errors.NotSent


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_survives_pickling_with_its_details(name: str) -> None:
    kind = getattr(errors, name)
    keywords = [it for it in inspect.signature(kind.__init__).parameters.values() if it.kind is it.KEYWORD_ONLY]
    details = {keyword.name: f"a {keyword.name}" for keyword in keywords}
    error = kind("what failed", **details)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, vars(copy)) == (kind, ("what failed",), vars(error))
    assert details.items() <= vars(copy).items()


def test_a_clients_repr_shows_its_address_and_no_credentials() -> None:
    with Client(TOKEN, Secret(SECRET), base_url="https://dok.test/1.0") as client:
        assert repr(client) == "Client(base_url='https://dok.test/1.0')"


def test_nulls_are_taken_for_what_is_not_said() -> None:
    body = {"id": "1", "tags": None, "containers": [{"environment": None, "exit_code": None}], "status": None}
    task = answering(200, json=body).tasks.get("1")
    assert (task.tags, task.status, task.containers[0].environment) == ([], "", {})


def test_a_time_without_an_offset_is_refused_and_named() -> None:
    with pytest.raises(errors.InvalidAnswer, match=r"Invalid date format - at `\$\.created_at`"):
        answering(200, json={"id": "1", "created_at": "2026-11-24T10:00:00"}).tasks.get("1")


@pytest.mark.parametrize("strange", ["../artifacts?x=1", "a/b", "日本"])
def test_an_id_never_leads_to_another_path(strange: str) -> None:
    seen: list[httpx.Request] = []

    def service(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(404)

    with pytest.raises(errors.NotFound):
        Client("t", "s", transport=httpx.MockTransport(service)).tasks.get(strange)
    assert seen[0].url.raw_path.count(b"/") == 9
    assert b"?" not in seen[0].url.raw_path


def test_an_answer_that_is_too_large_is_given_up() -> None:
    service = httpx.MockTransport(lambda _: httpx.Response(200, content=b"[" + b" " * (65 << 20)))
    with pytest.raises(errors.NoAnswer, match="more than 67108864 bytes"):
        Client("t", "s", transport=service, backoff=Backoff(attempts=1)).tasks.get("1")


@pytest.mark.parametrize("address", ["http://host:port/", "host/api", "127.0.0.1:80", "https://", "ftp://host/"])
def test_an_address_that_is_no_url_is_a_mistake_of_the_settings(address: str) -> None:
    with pytest.raises(errors.ConfigError, match="DOKRUN_API_URL"):
        Client("t", "s", base_url=address)


def test_a_client_shows_no_credentials_that_are_written_into_its_address() -> None:
    assert repr(Client("t", "s", base_url="https://user:canary@host/api")) == "Client(base_url='https://host/api')"


@pytest.mark.parametrize("address", ["https://ann:canary", "https://ann:canary/x@host", "https://ann:canary?x@host"])
def test_an_address_that_is_no_url_is_not_shown_for_it_may_hold_a_password(address: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        Client("t", "s", base_url=address)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    client = answering(200, json={"url": address})
    with pytest.raises(errors.NotSent, match="its address is not a URL") as sent:
        client.artifacts.download("1", tmp_path / "a")
    assert "canary" not in repr(vars(sent.value)) + "".join(traceback.format_exception(sent.value))


def test_the_services_words_are_shown_without_the_signatures_that_they_repeat() -> None:
    words = {
        "error_msg": "cannot use https://store/k?X-Amz-Signature=canary as an address",
        "error_code": "bad_request",
    }
    error = refusal_of(answering(400, json=words))
    assert str(error).endswith("cannot use https://store/k as an address")
    assert "canary" not in repr(vars(error))


def test_the_services_words_are_shown_no_further_than_anybody_reads() -> None:
    assert len(str(refusal_of(answering(400, json={"error_msg": "a" * 10**6})))) < 3000
