"""A task is the job's own if it says all that was sent, in whatever order and with whatever words around it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest
from minimal import MinimalDok

from dokrun import keys
from dokrun.api import Client
from dokrun.api.models import ContainerRequest, CreateTaskRequest, HttpPort, Ssh, Task
from dokrun.engine.definition import Identity, attempt_of, digest
from dokrun.engine.images import Ready
from dokrun.engine.prepare import Preparing
from dokrun.engine.stage import Attempt, stage
from dokrun.engine.target import Target
from dokrun.options import Options
from dokrun.payload import pyz
from dokrun.shim import protocol

JOB = keys.new_id()
CONTAINER = ContainerRequest(
    "docker.io/library/python:3.11-slim",
    ["bootstrap", "shim's digest", "shim", "payload", '{"claim": "…"}'],
    ["/bin/sh", "-c", "…"],
    "v100-32gb",
    environment={protocol.JOB_ID: JOB, protocol.ATTEMPT: "1", "MODE": "fast"},
)
REQUEST = CreateTaskRequest("work-123456", [CONTAINER], [keys.OURS, keys.job_tag(JOB), "mine"], 900)
IDENTITY = Identity(JOB, digest(REQUEST))


def with_container(**changes: Any) -> CreateTaskRequest:
    container = msgspec.structs.replace(CONTAINER, **changes)
    return msgspec.structs.replace(REQUEST, containers=[container])


def with_variable(**variables: str) -> CreateTaskRequest:
    return with_container(environment={**CONTAINER.environment, **variables})


def with_argument(number: int, text: str) -> CreateTaskRequest:
    return with_container(command=[*CONTAINER.command[:number], text, *CONTAINER.command[number + 1 :]])


@pytest.fixture
def minimal() -> Iterator[MinimalDok]:
    with closing(MinimalDok()) as minimal:
        yield minimal


def told(minimal: MinimalDok, request: CreateTaskRequest) -> Task:
    """Tell how a service shows what was sent: with its tags in another order, nulls, and fields that nobody foresaw."""
    with Client(minimal.token, minimal.secret, base_url=minimal.api_url) as client:
        return client.tasks.get(client.tasks.create(request).id)


def test_cell_poll_vm_the_services_own_words_around_a_definition_change_nothing(minimal: MinimalDok) -> None:
    task = told(minimal, REQUEST)
    assert task.tags != REQUEST.tags
    assert None in minimal.tasks[task.id]["containers"][0].values()
    assert "node" in minimal.tasks[task.id]["containers"][0]
    assert digest(task) == digest(REQUEST)
    assert IDENTITY.owns(task)


@pytest.mark.parametrize(
    "same",
    [
        msgspec.structs.replace(REQUEST, name="another name"),
        msgspec.structs.replace(REQUEST, tags=REQUEST.tags[::-1]),
        with_argument(protocol.ADDRESSES_ARGUMENT, '{"claim": "presigned anew"}'),
        with_container(command=[*CONTAINER.command, "which of the calls"]),
        with_variable(DOKRUN_ATTEMPT="2"),
        with_variable(DOKRUN_CHECKPOINT_SHA256="0" * 64, DOKRUN_CHECKPOINT_SIZE="12"),
    ],
    ids=["name", "order of tags", "addresses", "calls", "attempt", "checkpoint"],
)
def test_what_differs_from_one_attempt_to_the_next_is_still_the_jobs_own(
    minimal: MinimalDok, same: CreateTaskRequest
) -> None:
    assert IDENTITY.owns(told(minimal, same))


@pytest.mark.parametrize(
    "other",
    [
        with_container(image="docker.io/library/python:3.12-slim"),
        with_container(plan="h100-80gb"),
        with_container(entrypoint=["/bin/sh"]),
        with_container(registry="1"),
        with_container(http=HttpPort(8000)),
        with_container(ssh=Ssh("/bin/sh")),
        with_argument(0, "another bootstrap"),
        pytest.param(with_argument(1, "another version's digest"), id="cell_post_vm-shim"),
        with_argument(3, "another payload"),
        with_variable(MODE="slow"),
        with_variable(EXTRA=""),
        msgspec.structs.replace(REQUEST, tags=[*REQUEST.tags, "more"]),
        msgspec.structs.replace(REQUEST, execution_time_limit_sec=901),
    ],
    ids=lambda request: None,
)
def test_whatever_else_differs_makes_it_somebody_elses(minimal: MinimalDok, other: CreateTaskRequest) -> None:
    assert not IDENTITY.owns(told(minimal, other))


def test_a_task_without_the_jobs_tag_is_not_its_own(minimal: MinimalDok) -> None:
    untagged = msgspec.structs.replace(REQUEST, tags=["mine"])
    assert not Identity(JOB, digest(untagged)).owns(told(minimal, untagged))


@pytest.mark.parametrize("number", ["", "x", "-1", "²", "9" * 5000], ids=["none", "word", "minus", "power", "long"])
def test_a_task_that_tells_no_attempt_is_none(minimal: MinimalDok, number: str) -> None:
    assert attempt_of(told(minimal, with_variable(DOKRUN_ATTEMPT=number))) == 0


def test_cell_post_vm_another_dokrun_makes_another_definition_of_the_same_call() -> None:
    def work() -> int:
        return 1

    preparing = Preparing(Target(work, inspect.signature(work), "work"), "v100-32gb", Options())
    preparing.add((), {})
    request = stage(preparing.job(), None, Ready("an image"), "batch", Attempt())
    command = request.containers[0].command
    assert command[1] == pyz.build(with_code=False).sha256, "all that the container runs of dokrun's is in the shim"
    other = msgspec.structs.replace(request.containers[0], command=[command[0], "0" * 64, *command[2:]])
    assert digest(msgspec.structs.replace(request, containers=[other])) != digest(request)
