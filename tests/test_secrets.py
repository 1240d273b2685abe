"""Secrets for the function: it has them, and nobody else gets to see them."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from attempts import job_of
from storefaults import FaultyStore, StoreFault
from waiting import wait_for

import dokrun as dok
from dokrun import engine, keys
from dokrun.bucket import Bucket
from dokrun.emulator import Emulator
from dokrun.emulator.objects import ObjectStore
from dokrun.errors import ConfigError, NotSerializable, OptionError
from dokrun.secret import Secret
from dokrun.shim import protocol

VALUE = "canary-7f3a9c1e"

remote = dok.remote(plan="v100-32gb")


@pytest.fixture
def faulty(account: pytest.MonkeyPatch, store: ObjectStore) -> Iterator[FaultyStore]:
    """The account's store, behind a proxy that writes down what is asked."""
    with FaultyStore(store) as faulty:
        account.setenv("DOKRUN_S3_ENDPOINT_URL", faulty.url)
        yield faulty
        engine.reset()


@remote
def tell(name: str) -> str | None:
    return os.environ.get(name)


@pytest.mark.parametrize("given", [["HF_TOKEN"], ("HF_TOKEN",), {"HF_TOKEN": VALUE}], ids=["list", "tuple", "mapping"])
def test_the_function_has_a_secret_in_its_environment(
    account: pytest.MonkeyPatch, given: Any, faulty: FaultyStore
) -> None:
    account.setenv("HF_TOKEN", VALUE)
    assert tell.options(secrets=given)("HF_TOKEN").result(timeout=60) == VALUE


def test_a_mapping_wins_over_this_process_environment(account: pytest.MonkeyPatch) -> None:
    account.setenv("HF_TOKEN", "another")
    assert tell.options(secrets={"HF_TOKEN": VALUE})("HF_TOKEN").result(timeout=60) == VALUE


def test_a_list_means_what_is_set_when_the_function_is_called(account: pytest.MonkeyPatch) -> None:
    account.setenv("HF_TOKEN", "early")
    function = tell.options(secrets=["HF_TOKEN"])
    account.setenv("HF_TOKEN", VALUE)
    assert function("HF_TOKEN").result(timeout=60) == VALUE


def test_a_secret_that_is_not_set_here_is_named_and_nothing_is_sent(
    account: pytest.MonkeyPatch, faulty: FaultyStore, dok: Emulator
) -> None:
    account.delenv("HF_TOKEN", raising=False)
    posts = tasks(dok)
    with pytest.raises(ConfigError, match=r"secrets= names HF_TOKEN, which is not set here; set it, or write"):
        tell.options(secrets=["HF_TOKEN"])("HF_TOKEN")
    assert faulty.requests == []
    assert tasks(dok) == posts


@pytest.mark.parametrize(
    "given", [["1X"], ["A-B"], {"DOKRUN_X": VALUE}, {"SAKURA_X": VALUE}, {"A": 1}, "HF_TOKEN", [1]]
)
def test_what_no_variable_can_be_called_is_refused_and_no_value_shown(given: Any) -> None:
    with pytest.raises(OptionError) as caught:
        tell.options(secrets=given)
    assert VALUE not in str(caught.value)


def test_without_a_bucket_a_secret_is_not_sent_at_all(account: pytest.MonkeyPatch, dok: Emulator) -> None:
    account.delenv("DOKRUN_BUCKET")
    account.delenv("DOKRUN_S3_ENDPOINT_URL")
    before = tasks(dok)
    with pytest.raises(ConfigError, match="tell has secrets, and without a bucket") as caught:
        tell.options(secrets={"HF_TOKEN": VALUE})("HF_TOKEN")
    assert VALUE not in str(caught.value)
    assert tasks(dok) == before


def tasks(dok: Emulator) -> list[dict[str, Any]]:
    answer = httpx.get(f"{dok.api_url}/tasks/", params={"page_size": 100}, auth=(dok.token, dok.secret))
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


@remote
def wait_at(gate: Path) -> str:
    (gate.parent / "started").touch()
    gate.read_bytes()
    return os.environ["HF_TOKEN"][-4:]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at in /proc")
def test_nobody_but_the_function_gets_to_see_a_secret(
    account: pytest.MonkeyPatch, faulty: FaultyStore, dok: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    account.setenv("HF_TOKEN", VALUE)
    account.delenv("HF_TOKEN")  # so that the emulator's processes have it from nowhere else
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    function = wait_at.options(secrets={"HF_TOKEN": VALUE})
    future = function(gate)
    wait_for((tmp_path / "started").exists)
    job_id, task_id = job_of(future), future.task_id
    mine = processes(job_id)
    assert len(mine) == 2, "the supervisor and the worker"
    for folder in mine:
        assert VALUE.encode() not in (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
    gate.write_bytes(b"go")
    assert future.result(timeout=60) == VALUE[-4:]
    log = "".join(future.logs())
    (task,) = [task for task in tasks(dok) if task["id"] == task_id]
    assert task["containers"][0]["command"][3] == protocol.FETCHED, "the payload does not stand in the definition"
    for where, text in {
        "the task's definition": json.dumps(task),
        "the log": log,
        "this process's own log": caplog.text,
        "the function's repr": repr(function) + repr(future),
        "the options": repr(function._options) if hasattr(function, "_options") else "",
        "the addresses": "".join(request.path for request in faulty.requests),
    }.items():
        assert VALUE not in text, where
    for path in (tmp_path / "state").rglob("*"):
        assert path.is_dir() or VALUE.encode() not in path.read_bytes(), path


def processes(job_id: str) -> list[Path]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"{protocol.JOB_ID}={job_id}".encode() in environment:
            found.append(folder)
    return found


@remote
def fail() -> None:
    raise LookupError("no such model")


@pytest.mark.parametrize("function", [tell, fail], ids=["value", "exception"])
def test_the_object_that_holds_a_secret_is_deleted_with_the_outcome(faulty: FaultyStore, function: Any) -> None:
    arguments = ("HF_TOKEN",) if function is tell else ()
    future = function.options(secrets={"HF_TOKEN": VALUE})(*arguments)
    future.exception(timeout=60)
    engine.reset()
    stored = [request for request in faulty.asked("PUT", "*") if VALUE.encode() in request.body]
    assert [request.path for request in stored] == [f"/{faulty.bucket}/{keys.payload(job_of(future))}"]
    assert Bucket(faulty.settings).read(keys.payload(job_of(future)), 1 << 20) is None


def test_a_call_that_is_cancelled_leaves_no_secret_in_the_bucket(faulty: FaultyStore, tmp_path: Path) -> None:
    faulty.add(StoreFault("hold", "GET", "*/payload"))
    future = tell.options(secrets={"HF_TOKEN": VALUE})("HF_TOKEN")
    faulty.wait_for("hold")
    assert future.cancel()
    faulty.let_go()
    payload = keys.payload(job_of(future))
    wait_for(lambda: Bucket(faulty.settings).read(payload, 1 << 20) is None)


def test_a_secret_is_not_pickled_with_a_function_or_its_options() -> None:
    function = tell.options(secrets={"HF_TOKEN": VALUE})
    with pytest.raises(TypeError, match="a secret is not pickled"):
        pickle.dumps(Secret(VALUE))
    try:
        data = pickle.dumps(function)
    except (TypeError, NotSerializable, pickle.PicklingError, AttributeError):
        data = b""
    assert VALUE.encode() not in data
    assert VALUE not in f"{Secret(VALUE)} {Secret(VALUE)!r}"
