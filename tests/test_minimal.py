"""The second DOK keeps the contract, the client works with it, and each of its faults happens as it is said to."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from contracts import schemathesis
from minimal import MinimalDok

from dokrun import errors
from dokrun.api import Client, models
from dokrun.api.transport import Backoff

CREATE, LIST = ("POST", "/tasks/"), ("GET", "/tasks/")
PART = {"image": "python:3.11", "command": ["-c", "pass"], "entrypoint": ["python3"], "plan": "v100-32gb"}


@pytest.fixture
def minimal() -> Iterator[MinimalDok]:
    with closing(MinimalDok()) as minimal:
        yield minimal


@pytest.fixture
def client(minimal: MinimalDok) -> Iterator[Client]:
    with calling(minimal) as client:
        yield client


def calling(minimal: MinimalDok, *, timeout_s: float = 30.0) -> Client:
    """Make a client that repeats what it may at once."""
    backoff = Backoff(attempts=3, sleep=lambda _: None)
    return Client(minimal.token, minimal.secret, base_url=minimal.api_url, timeout_s=timeout_s, backoff=backoff)


def request(*tags: str, **container: Any) -> models.CreateTaskRequest:
    return models.CreateTaskRequest("a task", [models.ContainerRequest(**{**PART, **container})], [*tags], 600)


def post(minimal: MinimalDok, **changes: Any) -> httpx.Response:
    body = {"name": "a task", "tags": [], "containers": [PART], **changes}
    return httpx.post(f"{minimal.api_url}/tasks/", json=body, auth=(minimal.token, minimal.secret))


# --- without faults


@pytest.mark.parametrize(
    ("phases", "excluded"),
    [
        ("examples,coverage", ""),
        # Among what it makes up are queries with unknown names, which the contract does not forbid.
        ("examples,stateful", ",negative_data_rejection"),
    ],
)
def test_schemathesis_finds_nothing_in_which_it_breaks_the_contract(
    minimal: MinimalDok, tmp_path: Path, phases: str, excluded: str
) -> None:
    minimal.artifacts.append(
        {
            **dict.fromkeys(("updated_at", "deleted_at")),
            **{name: str(uuid.uuid4()) for name in ("id", "task")},
            "filename": "artifact.tar.gz",
            "size_bytes": 1,
            "created_at": "2026-11-01T09:00:00+09:00",
        }
    )
    operations = ("/tasks/", "/tasks/{id}/", "/tasks/{id}/cancel/", "/artifacts/", "/plans/", "/unit_prices/")
    told = schemathesis(
        tmp_path,
        minimal.api_url,
        minimal.token,
        minimal.secret,
        f"--phases={phases}",
        *(f"--include-path={path}" for path in operations),
        "--exclude-method=DELETE",
        # The contract cannot say which plans there are; nor has this service an answer to methods that nobody uses.
        f"--exclude-checks=positive_data_acceptance,unsupported_method{excluded}",
    )
    assert "Selected: 7/" in told
    assert minimal.tasks


def test_a_task_runs_and_ends_only_when_the_test_says_so(minimal: MinimalDok, client: Client) -> None:
    created = client.tasks.create(request("a", "b"))
    assert (created.status, created.containers[0].start_at, created.execution_time_limit_sec) == ("waiting", None, 600)
    minimal.start(created.id)
    running = client.tasks.get(created.id)
    assert (running.status, running.containers[0].exit_code, running.ended) == ("running", None, False)
    minimal.end(created.id, "error", 3)
    ended = client.tasks.get(created.id)
    assert (ended.status, ended.containers[0].exit_code, ended.ended) == ("error", 3, True)
    assert ended.containers[0].execution_seconds is not None


def test_tasks_are_listed_newest_first_in_pages_by_tag_and_status(minimal: MinimalDok, client: Client) -> None:
    ids = [client.tasks.create(request(tag)).id for tag in ("a", "a", "b", "a")]
    minimal.end(ids[0], "aborted")
    assert [task.id for task in client.tasks.iterate(page_size=3)] == ids[::-1]
    assert [task.id for task in client.tasks.iterate(tag="a", page_size=1)] == [ids[3], ids[1], ids[0]]
    assert [task.id for task in client.tasks.iterate(tag="a", status=["waiting", "running"])] == [ids[3], ids[1]]
    assert client.tasks.list(page=2, page_size=3).meta.next is None


def test_a_query_that_breaks_a_rule_is_refused(client: Client) -> None:
    for query in ({"status": "asleep"}, {"page_size": 101}, {"page": 0}):
        with pytest.raises(errors.BadRequest, match=next(iter(query))):
            client.tasks.list(**query)


def test_an_answer_holds_what_was_sent_with_nulls_and_strangers_and_its_tags_in_another_order(
    minimal: MinimalDok,
) -> None:
    container = {**PART, "environment": {"A": "1"}, "http": {"port": 80, "path": "/"}}
    told = post(minimal, tags=["a", "b"], containers=[container], execution_time_limit_sec=None).json()
    assert container.items() <= told["containers"][0].items()
    assert (told["tags"], told["artifact"], told["execution_time_limit_sec"]) == (["b", "a"], None, None)
    assert (told["containers"][0]["registry"], told["containers"][0]["ssh"]) == (None, None)
    assert told.keys() - models.Task.__struct_fields__
    assert told["containers"][0].keys() - models.Container.__struct_fields__
    assert post(minimal).json()["execution_time_limit_sec"] == 1_728_000


@pytest.mark.parametrize(
    ("wrong", "changes"),
    [
        ("Unknown key in container", {"containers": [{**PART, "gpu": 1}]}),
        ("plan", {"containers": [{**PART, "plan": "tpu"}]}),
        ("environment", {"containers": [{**PART, "environment": {"SAKURA_TASK_ID": "1"}}]}),
        ("environment", {"containers": [{**PART, "environment": {"A": "1" * 8191}}]}),
        ("ssh", {"containers": [{**PART, "ssh": {"shell": "/bin/fish"}}]}),
        ("containers", {"containers": [PART, PART]}),
        ("execution_time_limit_sec", {"execution_time_limit_sec": 599}),
        ("name", {"name": ""}),
    ],
)
def test_a_definition_that_breaks_a_rule_is_refused_by_the_name_of_the_rule(
    minimal: MinimalDok, wrong: str, changes: Any
) -> None:
    answer = post(minimal, **changes)
    assert (answer.status_code, minimal.tasks) == (400, {})
    assert wrong in answer.json()["error_msg"]


def test_a_task_is_cancelled_once_and_keeps_its_place(minimal: MinimalDok, client: Client) -> None:
    task = client.tasks.create(request("a"))
    cancelled = client.tasks.cancel(task.id)
    assert (cancelled.status, cancelled.canceled_at is not None) == ("canceled", True)
    with pytest.raises(errors.Forbidden):
        client.tasks.cancel(task.id)
    with pytest.raises(errors.NotFound):
        client.tasks.cancel(str(uuid.uuid4()))
    assert [task.id for task in client.tasks.iterate(tag="a")] == [task.id]


def test_artifacts_are_those_that_the_test_has_set(minimal: MinimalDok, client: Client) -> None:
    task = client.tasks.create(request())
    assert client.artifacts.list(task=task.id).results == []
    minimal.artifacts.append({"id": "an-artifact", "task": task.id, "updated_at": None})
    assert [one.id for one in client.artifacts.list(task=task.id).results] == ["an-artifact"]
    assert client.artifacts.list(task=str(uuid.uuid4())).results == []
    artifact = client.tasks.get(task.id).artifact
    assert artifact is not None
    assert artifact.id == "an-artifact"


def test_every_plan_has_a_price(client: Client) -> None:
    prices = {one.plan: one.price for one in client.prices.list().results}
    assert prices.keys() == {plan.id for plan in client.plans.list().results}
    assert prices["h100-80gb"] == Decimal("0.28")


def test_who_has_no_key_is_refused_and_leaves_nothing(minimal: MinimalDok) -> None:
    with Client(minimal.token, "wrong", base_url=minimal.api_url) as stranger, pytest.raises(errors.Unauthorized):
        stranger.tasks.create(request())
    assert minimal.tasks == {}


# --- with faults


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("what", "seen"),
    [
        ("reset", (errors.NoAnswer, "reset by peer")),
        ("status 408", (errors.Refused, "408 Request Timeout")),
        ("status 429", (errors.TooManyRequests, "429 Too Many Requests")),
        ("status 500", (errors.ServerError, "500 Internal Server Error")),
        ("status 503", (errors.ServerError, "503 Service Unavailable")),
    ],
)
def test_a_fault_before_or_after_the_commit_looks_the_same_and_only_the_later_leaves_a_task(
    minimal: MinimalDok, client: Client, what: str, seen: tuple[type[errors.ApiError], str], when: str
) -> None:
    minimal.inject(*CREATE, f"{what} {when} commit")
    with pytest.raises(errors.ApiError, match=seen[1]) as caught:
        client.tasks.create(request("a"))
    assert type(caught.value) is seen[0]
    assert minimal.injected == [(*CREATE, f"{what} {when} commit")]
    assert [task["tags"] for task in minimal.tasks.values()] == ([["a"]] if when == "after" else [])


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_hangs_answers_nothing_until_the_client_goes(minimal: MinimalDok, when: str) -> None:
    minimal.inject(*CREATE, f"hang {when} commit")
    with calling(minimal, timeout_s=0.2) as client, pytest.raises(errors.NoAnswer, match="timed out"):
        client.tasks.create(request())
    minimal.wait_for(f"hang {when} commit")
    assert minimal.injected == [(*CREATE, f"hang {when} commit")]
    assert len(minimal.tasks) == (1 if when == "after" else 0)


@pytest.mark.parametrize(
    ("what", "seen", "words"),
    [("cut body", errors.NoAnswer, "complete message"), ("not JSON", errors.InvalidAnswer, "malformed")],
)
def test_an_answer_that_cannot_be_read_leaves_a_task(
    minimal: MinimalDok, client: Client, what: str, seen: type[errors.ApiError], words: str
) -> None:
    minimal.inject(*CREATE, f"{what} after commit")
    with pytest.raises(errors.ApiError, match=words) as caught:
        client.tasks.create(request())
    assert type(caught.value) is seen
    assert minimal.injected == [(*CREATE, f"{what} after commit")]
    assert len(minimal.tasks) == 1


def test_a_request_that_was_repeated_on_its_way_makes_two_tasks_and_tells_the_second(
    minimal: MinimalDok, client: Client
) -> None:
    minimal.inject(*CREATE, "twice")
    told = client.tasks.create(request("a"))
    first, second = client.tasks.iterate(tag="a")
    assert (told.id, told.containers) == (first.id, second.containers)
    assert minimal.injected == [(*CREATE, "twice")]


def test_a_late_task_is_there_only_when_the_test_lets_it_come(minimal: MinimalDok, client: Client) -> None:
    minimal.inject(*CREATE, "late")
    with pytest.raises(errors.ServerError, match="504"):
        client.tasks.create(request("a"))
    assert [*client.tasks.iterate(tag="a")] == []
    late = minimal.commit_late()
    assert [task.id for task in client.tasks.iterate(tag="a")] == late
    assert (len(late), minimal.commit_late(), minimal.injected) == (1, [], [(*CREATE, "late")])


def test_an_echo_that_differs_is_only_an_echo(minimal: MinimalDok, client: Client) -> None:
    minimal.inject(*CREATE, "echo differs")
    told = client.tasks.create(request())
    assert told.containers[0].command == ["-c", "pass", "--more"]
    assert client.tasks.get(told.id).containers[0].command == ["-c", "pass"]
    assert minimal.injected == [(*CREATE, "echo differs")]


def test_a_stale_list_lacks_the_newest_task_for_as_many_looks_as_were_said(minimal: MinimalDok, client: Client) -> None:
    old, new = (client.tasks.create(request("a")).id for _ in range(2))
    minimal.inject(*LIST, "list stale", times=2)
    looks = [[task.id for task in client.tasks.list(tag="a").results] for _ in range(3)]
    assert looks == [[old], [old], [new, old]]
    assert minimal.injected == [(*LIST, "list stale")] * 2


def test_a_list_that_lies_has_somebody_elses_older_task_of_the_same_tag(minimal: MinimalDok, client: Client) -> None:
    ours = client.tasks.create(request("a"))
    minimal.inject(*LIST, "list lies", times=3)
    client.tasks.list()
    assert minimal.injected == []
    for _ in range(2):
        newest, foreign = client.tasks.iterate(tag="a")
        assert (newest.id, [foreign.id], foreign.tags) == (ours.id, minimal.foreign, ["a"])
        assert foreign.containers[0].image != ours.containers[0].image
        assert foreign.created_at is not None
        assert newest.created_at is not None
        assert foreign.created_at < newest.created_at
    assert minimal.injected == [(*LIST, "list lies")] * 2


def test_a_fault_befalls_the_request_that_it_was_set_for_and_no_other(minimal: MinimalDok, client: Client) -> None:
    minimal.inject("POST", "/tasks/{id}/cancel/", "status 503 after commit", nth=2)
    first, second = (client.tasks.create(request()).id for _ in range(2))
    assert client.tasks.cancel(first).status == "canceled"
    with pytest.raises(errors.ServerError):
        client.tasks.cancel(second)
    assert client.tasks.get(second).status == "canceled"
    assert minimal.injected == [("POST", "/tasks/{id}/cancel/", "status 503 after commit")]


def test_two_faults_befall_one_request(minimal: MinimalDok, client: Client) -> None:
    minimal.inject(*CREATE, "reset after commit")
    minimal.inject(*CREATE, "twice")
    with pytest.raises(errors.NoAnswer):
        client.tasks.create(request())
    assert minimal.injected == [(*CREATE, "twice"), (*CREATE, "reset after commit")]
    assert len(minimal.tasks) == 2


def test_a_fault_that_there_is_not_is_refused_where_it_is_set(minimal: MinimalDok) -> None:
    with pytest.raises(AssertionError, match="status 418"):
        minimal.inject(*CREATE, "status 418 before commit")


def test_a_closed_service_refuses_connections_and_has_its_tasks_when_it_opens_again(
    minimal: MinimalDok, client: Client
) -> None:
    task, address = client.tasks.create(request()), minimal.api_url
    minimal.close()
    with pytest.raises(errors.NotSent):
        client.tasks.create(request())
    minimal.open()
    assert minimal.api_url == address
    assert [one.id for one in client.tasks.iterate()] == [task.id]


def test_every_request_is_noted_with_what_it_asked(minimal: MinimalDok, client: Client) -> None:
    task = client.tasks.create(request("a"))
    client.tasks.list(tag="a")
    client.tasks.get(task.id)
    asked = [(one.method, one.route, one.id) for one in minimal.requests]
    assert asked == [(*CREATE, ""), (*LIST, ""), ("GET", "/tasks/{id}/", task.id)]
    assert json.loads(minimal.requests[0].body)["tags"] == ["a"]
    assert minimal.requests[1].query["tag"] == "a"
