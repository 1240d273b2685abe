"""The emulator's door: who gets in, what is refused, and with which words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from clocks import ManualClock
from emulated import end_of, request, send

from dokrun.api import Client
from dokrun.emulator import Emulator

CONTAINER = {"image": "any", "command": [], "entrypoint": ["true"], "plan": "v100-32gb"}
TASK = {"name": "test", "tags": [], "containers": [CONTAINER]}


def changed(**changes: Any) -> dict[str, Any]:
    return {**TASK, **changes}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in TASK.items() if key != name}


def container(**changes: Any) -> dict[str, Any]:
    return changed(containers=[{**CONTAINER, **changes}])


def container_without(name: str) -> dict[str, Any]:
    return changed(containers=[{key: value for key, value in CONTAINER.items() if key != name}])


def assert_refused(response: httpx.Response, status: int, message: str) -> None:
    error = response.json()
    assert response.status_code == status
    assert sorted(error) == ["error_code", "error_msg", "is_fatal", "serial", "status"]
    assert error["error_msg"].startswith(message)
    assert error["status"] == f"{status} {response.reason_phrase}"
    assert error["error_code"] == response.reason_phrase.lower().replace(" ", "_")
    assert error["serial"]
    assert error["is_fatal"] is False


# --- who gets in


def test_without_credentials_nobody_gets_in(dok: Emulator) -> None:
    assert_refused(send(dok, "GET", "/auth/", auth=None), 401, "Authentication credentials not provided")


@pytest.mark.parametrize("header", ["Basic eDp5", "Basic", "Bearer {token}", "{token}:{secret}", "Basic é"])
def test_with_other_credentials_nobody_gets_in(dok: Emulator, header: str) -> None:
    given = header.format(token=dok.token, secret=dok.secret).encode()
    response = send(dok, "GET", "/tasks/", auth=None, headers={"Authorization": given})
    assert_refused(response, 401, "Invalid credentials")


def test_another_emulators_key_opens_nothing(dok: Emulator) -> None:
    with Emulator() as other:
        assert_refused(send(dok, "GET", "/auth/", auth=(other.token, other.secret)), 401, "Invalid credentials")


@pytest.mark.parametrize("host", ["evil.test", "evil.test:80", "127.0.0.1.evil.test:80", "localhost.evil.test:80", ""])
def test_a_request_to_a_host_of_another_name_is_refused(dok: Emulator, host: str) -> None:
    assert_refused(send(dok, "GET", "/auth/", headers={"Host": host}), 403, "this emulator answers on the loopback")


# --- what is not there


@pytest.mark.parametrize(
    "path", ["/nothing/", "/tasks/no-such-task/", "/artifacts/no-such/", "/artifacts/no/download/"]
)
def test_what_is_not_there_is_not_found(dok: Emulator, path: str) -> None:
    assert_refused(send(dok, "GET", path), 404, "")


def test_what_is_not_below_the_apis_path_is_not_found(dok: Emulator) -> None:
    assert_refused(httpx.get(str(httpx.URL(dok.api_url).join("/"))), 404, "Not Found")


@pytest.mark.parametrize(("method", "path"), [("PUT", "/tasks/"), ("POST", "/plans/"), ("GET", "/tasks/1/cancel/")])
def test_another_method_is_not_allowed(dok: Emulator, method: str, path: str) -> None:
    assert_refused(send(dok, method, path), 405, "Method Not Allowed")


# --- what a task has to be


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ([], "the body must be an object"),
        (without("name"), "name: this field is required"),
        (without("tags"), "tags: this field is required"),
        (without("containers"), "containers: this field is required"),
        (changed(name=""), "name: must not be empty"),
        (changed(name=1), "Expected `str`, got `int` - at `$.name`"),
        (changed(tags=[1]), "Expected `str`, got `int` - at `$.tags[0]`"),
        (changed(containers=[]), "containers: exactly one"),
        (changed(containers=[CONTAINER] * 2), "containers: exactly one"),
        (changed(containers=CONTAINER), "containers: exactly one"),
        (changed(containers=["any"]), "containers: exactly one"),
        (changed(execution_time_limit_sec=599), "execution_time_limit_sec: must be 600 or more"),
        (changed(execution_time_limit_sec="600"), "Expected `int | null`"),
        (container(gpu=1, cpus=2), "Unknown key in container: cpus, gpu"),
        (container_without("image"), "containers[0].image: this field is required"),
        (container_without("command"), "containers[0].command: this field is required"),
        (container_without("entrypoint"), "containers[0].entrypoint: this field is required"),
        (container_without("plan"), "containers[0].plan: this field is required"),
        (container(image=""), "containers[0].image: must not be empty"),
        (container(command="true"), "Expected `array`, got `str` - at `$.containers[0].command`"),
        (container(plan="a100"), "containers[0].plan: 'a100' is not one of v100-32gb, h100-80gb"),
        (container(environment={"SAKURA_X": ""}), "containers[0].environment: SAKURA_X: names that begin with SAKURA_"),
        (container(environment={"A": "x" * 8191}), "containers[0].environment: 8192 characters"),
        (container(environment={"A" * 4096: "x" * 4096}), "containers[0].environment: 8192 characters"),
        (container(http={"port": 0, "path": "/"}), "containers[0].http.port: must be between"),
        (container(http={"port": 65536, "path": "/"}), "containers[0].http.port: must be between"),
        (container(ssh={"shell": "/bin/fish"}), "containers[0].ssh.shell: must be one of /bin/sh"),
    ],
)
def test_a_task_that_breaks_a_rule_is_refused_with_the_rule(dok: Emulator, task: object, message: str) -> None:
    assert_refused(send(dok, "POST", "/tasks/", json=task), 400, message)


@pytest.mark.parametrize("body", [b"", b'{"name": ', b"\xff"])
def test_a_body_that_is_not_json_is_refused(dok: Emulator, body: bytes) -> None:
    assert_refused(send(dok, "POST", "/tasks/", content=body), 400, "the body is not JSON")


@pytest.mark.parametrize(
    "task",
    [
        changed(execution_time_limit_sec=600),
        container(environment={"A": "x" * 8190}),
        container(http={"port": 65535, "path": "/"}, ssh={"shell": "/bin/zsh", "port": 22}, registry=None),
        container(http=None, ssh=None),
    ],
)
def test_a_task_that_just_keeps_the_rules_is_created(dok: Emulator, task: dict[str, Any]) -> None:
    response = send(dok, "POST", "/tasks/", json=task)
    assert response.status_code == 201
    created, wanted = response.json()["containers"][0], task["containers"][0]
    assert {key: created[key] for key in wanted} == wanted


@pytest.mark.parametrize(("given", "kept"), [({}, 20 * 86400), ({"execution_time_limit_sec": None}, None)])
def test_a_time_limit_left_out_is_20_days_and_null_is_none(
    dok: Emulator, given: dict[str, None], kept: int | None
) -> None:
    assert send(dok, "POST", "/tasks/", json=changed(**given)).json()["execution_time_limit_sec"] == kept


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("page=0", "page: must be a whole number"),
        ("page=x", "page: must be a whole number"),
        ("page_size=-1", "page_size: must be a whole number"),
        ("page_size=101", "page_size: must be 100 or less"),
    ],
)
def test_a_page_that_cannot_be_is_refused(dok: Emulator, query: str, message: str) -> None:
    assert_refused(send(dok, "GET", f"/tasks/?{query}"), 400, message)


# --- addresses that it hands out


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def address(clock: ManualClock) -> Iterator[httpx.URL]:
    """The address of an artifact, on an emulator whose time stands still."""
    with Emulator(clock=clock) as dok, Client(dok.token, dok.secret, base_url=dok.api_url) as client:
        task = end_of(client, client.tasks.create(request()))
        assert task.artifact is not None
        yield httpx.URL(client.artifacts.download_url(task.artifact.id))


def test_an_address_works_without_credentials_until_it_expires(address: httpx.URL, clock: ManualClock) -> None:
    clock.pass_time(900)
    assert httpx.get(address).status_code == 200
    clock.pass_time(1)
    assert_refused(httpx.get(address), 403, "the signature has expired")


@pytest.mark.parametrize("forged", ["", "0" * 64, "99999999999-" + "0" * 64, "99999999999-{digest}", "-{digest}"])
def test_a_forged_address_is_refused(address: httpx.URL, forged: str) -> None:
    digest = address.params["signature"].partition("-")[2]
    response = httpx.get(address.copy_merge_params({"signature": forged.format(digest=digest)}))
    assert_refused(response, 403, "the signature does not match")


def test_an_address_is_of_one_artifact(address: httpx.URL) -> None:
    response = httpx.get(address.copy_with(path=f"{address.path}0", query=address.query))
    assert_refused(response, 403, "the signature does not match")


def test_a_signature_of_other_letters_is_refused(address: httpx.URL) -> None:
    assert httpx.get(address.copy_merge_params({"signature": "é"})).status_code == 403
