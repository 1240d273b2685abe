"""The whole road: a decorated function, a payload in a bucket, a DOK task, the shim, the artifact, the future."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import json
import os
import random
import sys
import threading
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from waiting import wait_for

import dokrun as dok
from dokrun import engine, keys
from dokrun.api import Client
from dokrun.bucket import Bucket
from dokrun.config import BucketSettings
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.target import Target
from dokrun.options import Options
from dokrun.secret import Secret
from dokrun.shim.envelope import segment_of

pytestmark = pytest.mark.usefixtures("account")

remote = dok.remote(plan="v100-32gb")


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Scaler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scale(self, value: int) -> int:
        return self.factor * value

    @dok.remote(plan="v100-32gb")
    def remotely(self, value: int) -> int:
        return self.factor * value

    def __call__(self, value: int) -> int:
        return self.factor * value


@remote
def add(a: int, b: int = 1) -> int:
    return a + b


@remote
def mirror(point: Point) -> Point:
    return Point(point.y, point.x)


@remote
def identity(value: Any) -> Any:
    return value


@remote
def where_am_i() -> tuple[dok.CallInfo, dict[str, str]]:
    return dok.current(), dict(os.environ)


def test_a_call_returns_at_once_and_its_future_brings_the_value() -> None:
    future = add(2, b=3)
    assert not future.done()
    assert future.result(timeout=60) == 5
    assert future.status == "done"


def test_local_runs_here_without_pickling() -> None:
    lock = threading.Lock()
    assert identity.local(lock) is lock


def test_an_instance_comes_back_as_an_instance_of_the_same_class() -> None:
    result = mirror(Point(1, 2)).result(timeout=60)
    assert result == Point(2, 1)
    assert type(result) is Point


def test_a_lambda_a_closure_a_partial_a_method_and_a_callable_object_all_work() -> None:
    offset = 10

    def closure(value: int) -> int:
        return value + offset

    functions = [
        remote(lambda value: value + 1),
        remote(closure),
        remote(functools.partial(add.local, b=5)),
        remote(Scaler(3).scale),
        remote(Scaler(4)),
        Scaler(5).remotely,
    ]
    futures = [function(1) for function in functions]
    assert [future.result(timeout=60) for future in futures] == [2, 11, 6, 3, 4, 5]


def test_arrays_travel_out_of_band_and_arrive_writable_on_both_sides() -> None:
    def double_in_place(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array *= 2
        return array

    large = np.arange(300_000, dtype=np.float64)  # more than a segment that rides in the envelope
    result = remote(double_in_place)(large).result(timeout=60)
    np.testing.assert_array_equal(result, large * 2)
    result[0] = 1.0
    assert large[1] == 1.0, "the caller's own array is untouched"


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 3)),
        np.asfortranarray(np.arange(6_000_000, dtype=np.uint8).reshape(2000, 3000)),
        np.arange(4_000_000, dtype=np.int16)[::2],
        np.array(5.0),
    ],
    ids=["empty", "fortran", "strided", "scalar"],
)
def test_arrays_of_every_layout_come_back_equal(value: Any) -> None:
    np.testing.assert_array_equal(identity(value).result(timeout=60), value)


@pytest.mark.parametrize("value", [None, b"", "", [], {"a": (1, {2})}, b"x" * 3_000_000])
def test_values_of_every_kind_come_back_equal(value: Any) -> None:
    assert identity(value).result(timeout=60) == value


def test_a_large_array_is_uploaded_once_however_many_calls_use_it(store: ObjectStore) -> None:
    bucket = Bucket(BucketSettings(store.bucket, store.url, None, "anybody", Secret("canary-of-the-bucket")))
    array = np.random.default_rng().random(200_000)
    first = identity(array)
    np.testing.assert_array_equal(first.result(timeout=60), array)
    key = keys.blob(segment_of(array.data).sha256)
    assert bucket.put_once(key, array.data, segment_of(array.data).sha256) is False, (
        "it is there under its content's name"
    )
    bucket.put(key, (array * 2).data)  # would arrive if it were not sent again, and be refused by its digest
    with pytest.raises(dok.Tampered, match="do not match the digest") as caught:
        identity(array).result(timeout=60)
    assert caught.value.ran == "no"
    bucket.delete(key)


def test_the_function_knows_its_call_and_sees_only_its_own_environment(account: pytest.MonkeyPatch) -> None:
    account.setenv("CANARY", "of the client")
    future = where_am_i.options(env={"MODE": "fast"})()
    info, environment = future.result(timeout=60)
    assert info == dok.CallInfo(future.call_id, 1, future.task_id)
    assert environment["MODE"] == "fast"
    assert "CANARY" not in environment
    assert not [name for name in environment if name.startswith("DOKRUN_PAYLOAD")], "a signed address is a secret"


def test_outside_of_a_task_current_says_local() -> None:
    assert dok.current() == ("local", 1, None)


def test_a_task_has_a_time_limit_tags_and_a_readable_name(client: Client) -> None:
    future = add.options(timeout="2h", tags=["mine"], name="my sums")(1)
    future.result(timeout=60)
    task = client.tasks.get(str(future.task_id))
    assert task.execution_time_limit_sec == 2 * 3600 + 600
    assert task.name.startswith("my-sums-")
    assert {"dokrun", "mine"} <= set(task.tags)
    assert task.containers[0].image == f"docker.io/library/python:{'.'.join(map(str, sys.version_info[:2]))}-slim"


def test_a_task_definition_holds_no_credentials(client: Client, store: ObjectStore) -> None:
    future = add(1)
    future.result(timeout=60)
    container = client.tasks.get(str(future.task_id)).containers[0]
    told = " ".join([*container.command, *container.environment.values()])
    assert store.url in told
    assert "canary-of-the-bucket" not in told


def test_a_receipt_tells_seconds_and_yen() -> None:
    future = add(1)
    future.result(timeout=60)
    assert future.receipt is not None
    assert future.receipt.plan == "v100-32gb"
    assert float(future.receipt.yen) == pytest.approx(future.receipt.billed_seconds * 0.016)


def test_wait_as_completed_and_callbacks_of_the_standard_library_work() -> None:
    futures = [add(number) for number in range(3)]
    told: list[int] = []
    for future in futures:
        future.add_done_callback(lambda done: told.append(done.result()))
    done, pending = concurrent.futures.wait(futures, timeout=60)
    assert (len(done), len(pending)) == (3, 0)
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [1, 2, 3]
    assert sorted(told) == [1, 2, 3]


def test_a_future_can_be_awaited() -> None:
    async def both() -> list[int]:
        return list(await asyncio.gather(add(1), add(2)))

    assert asyncio.run(both()) == [2, 3]


def test_whoever_seeds_the_random_numbers_gets_them_all() -> None:
    random.seed(0)
    before = random.getstate()
    assert remote(max)(1, 2).result(timeout=60) == 2
    assert random.getstate() == before


def test_many_threads_may_call_at_once() -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(add, range(12)))
    assert [future.result(timeout=100) for future in futures] == list(range(1, 13))


@pytest.mark.parametrize("size", [4096, 3 << 20], ids=["copied", "uploaded"])
def test_what_the_caller_does_to_an_argument_after_the_call_changes_nothing(size: int) -> None:
    array = np.zeros(size, dtype=np.uint8)
    future = identity(array)
    array[:] = 7
    assert int(future.result(timeout=60).sum()) == 0


def test_bytes_that_change_while_they_are_sent_are_never_left_under_the_wrong_name(store: ObjectStore) -> None:
    bucket = Bucket(BucketSettings(store.bucket, store.url, None, "anybody", Secret("canary-of-the-bucket")))
    announced = segment_of(b"a" * 1000)
    key = keys.blob(announced.sha256)
    with pytest.raises(dok.StorageError, match="changed while it was being sent"):
        bucket.put_once(key, b"b" * 1000, announced.sha256)
    assert bucket.put_once(key, b"a" * 1000, announced.sha256), "it was not there"


def test_a_payload_does_not_stay_in_the_bucket(client: Client, store: ObjectStore) -> None:
    future = identity(os.urandom(200_000))  # what a command cannot carry
    future.result(timeout=60)
    url = json.loads(client.tasks.get(str(future.task_id)).containers[0].command[-1])["payload"]
    wait_for(lambda: httpx.get(url).status_code == 404)


class Tuned:
    """A callable with attributes that a remote function has too."""

    def __init__(self) -> None:
        self.options = {"a": 1}
        self.local = "here"

    def __call__(self, value: int) -> int:
        return value + self.options["a"]


class Kinds:
    factor = 3

    @dok.remote(plan="v100-32gb")
    @staticmethod
    def static(value: int) -> int:
        return value

    @dok.remote(plan="v100-32gb")
    @classmethod
    def of_class(cls, value: int) -> int:
        return value * cls.factor


def test_callables_with_attributes_static_methods_and_class_methods_work() -> None:
    kinds: Any = Kinds
    futures = [remote(Tuned())(1), kinds.static(2), kinds().static(3), kinds.of_class(4), kinds().of_class(5)]
    assert [future.result(timeout=60) for future in futures] == [2, 2, 3, 12, 15]


def test_a_call_on_an_engine_that_is_closed_fails_at_once_and_has_not_run() -> None:
    closed = engine.get()
    engine.reset()
    function = inspect.unwrap(add)
    target = Target(function, inspect.signature(function), "add")
    future = closed.call(target, (1,), {}, Options(plan="v100-32gb"))
    error = future.exception(timeout=60)
    assert isinstance(error, dok.SubmitFailed)
    assert error.ran == "no"
