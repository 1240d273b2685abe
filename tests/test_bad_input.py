"""What a user gets for a mistake: an error where the mistake is, before anything is sent."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

import dokrun as dok
from dokrun.api import Client
from dokrun.options import seconds

lock = threading.Lock()


@dataclass
class Config:
    name: str = "base"
    logger: Any = None
    layers: list[Any] = field(default_factory=list)


@dok.remote(plan="v100-32gb")
def train(cfg: Any, *, epochs: int = 1) -> int:
    return epochs


@pytest.mark.parametrize(
    ("argument", "path"),
    [
        (lock, "cfg"),
        (Config(logger=lock), "cfg.logger"),
        ({"deep": [1, (2, Config(layers=[None, lock]))]}, "cfg['deep'][1][1].layers[1]"),
    ],
)
@pytest.mark.usefixtures("account")
def test_an_argument_that_cannot_be_pickled_is_named_with_the_place_inside_it(argument: Any, path: str) -> None:
    with pytest.raises(dok.NotSerializable) as caught:
        train(argument)
    assert str(caught.value).startswith(f"argument {path}: cannot pickle '_thread.lock' object")


@pytest.mark.usefixtures("account")
def test_a_function_that_refers_to_what_cannot_be_pickled_names_it() -> None:
    held = {"lock": threading.Lock()}
    function = dok.remote(plan="v100-32gb")(lambda: held)
    with pytest.raises(dok.NotSerializable, match=r"function <lambda>: held\['lock'\]: cannot pickle"):
        function()


@pytest.mark.usefixtures("account")
def test_a_call_that_cannot_be_pickled_sends_nothing(client: Client) -> None:
    before = client.tasks.list().meta.count
    with pytest.raises(dok.NotSerializable):
        train(lock)
    assert client.tasks.list().meta.count == before


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'cfg'"),
        ((1, 2), {}, "too many positional arguments"),
        ((1,), {"epoch": 2}, "unexpected keyword argument 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_arguments_that_do_not_fit_the_signature_are_refused(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(dok.OptionError) as caught:
        train(*args, **kwargs)
    assert message in str(caught.value)
    assert str(caught.value).startswith("train(cfg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pln": "h100-80gb"}, "@remote has no option 'pln'; did you mean 'plan'?"),
        ({"plan": ""}, "plan='' must be a text that is not empty"),
        ({"timeout": "soon"}, "timeout='soon' is not a duration"),
        ({"timeout": 0}, "timeout=0 must be more than zero"),
        ({"timeout": float("inf")}, "timeout=inf must be more than zero, and a year at most"),
        ({"timeout": float("nan")}, "timeout=nan must be more than zero"),
        ({"timeout": True}, "timeout=True is not a duration"),
        ({"env": {"SAKURA_TASK_ID": "1"}}, "'SAKURA_TASK_ID'"),
        ({"env": {"DOKRUN_X": "1"}}, "'DOKRUN_X'"),
        ({"env": {"A": 1}}, "env= must map names to texts, and 'A' is mapped to int"),
        ({"env": {1: "A"}}, "env= has 1 for a name"),
        ({"env": ["A"]}, "env= must map names to texts; as in"),
        ({"secrets": {"A": 1}}, "secrets= must map names to texts, and 'A' is mapped to int"),
        ({"secrets": {"A": None}}, "secrets= must map names to texts, and 'A' is mapped to NoneType"),
        ({"secrets": {"A-B": "1"}}, "secrets= sets 'A-B', which is no name that a variable of yours can have"),
        ({"secrets": ["A", "A-B"]}, "secrets[1] is no name that a variable of yours can have"),
        ({"secrets": ["A", ["B"]]}, "secrets[1] is no name that a variable of yours can have"),
        ({"secrets": b"A"}, "secrets= must be a list of names"),
        ({"env": {"A=B": "1"}}, "not a name that an environment can hold"),
        ({"env": {"A": "x" * 8000}}, "7168 fit"),
        ({"tags": "one"}, "tags='one' must be a list of texts"),
        ({"tags": ["dokrun-x"]}, "reserved"),
        ({"tags": [1]}, "must be a text"),
        ({"image": 3}, "image=3 must be a text"),
    ],
)
def test_a_wrong_option_fails_where_it_is_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises(dok.OptionError) as written:
        dok.remote(**options)
    assert message in str(written.value)
    with pytest.raises(dok.OptionError):
        train.options(**options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("15m", 900), ("1h30m", 5400), ("1.5 h", 5400), ("2d", 172800), (5, 5), (timedelta(minutes=1), 60)],
)
def test_durations_are_read_as_people_write_them(text: Any, expected: float) -> None:
    assert seconds("timeout", text) == expected


def test_a_generator_is_refused_at_decoration_with_what_to_write_instead() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def more_numbers() -> AsyncIterator[int]:
        yield 1

    for function in (numbers, more_numbers, functools.partial(numbers)):
        with pytest.raises(dok.OptionError, match=r"is a generator.*return a list"):
            dok.remote(plan="v100-32gb")(function)


def test_a_coroutine_function_is_refused_at_decoration_with_what_to_write_instead() -> None:
    async def fetch() -> int:
        return 1

    with pytest.raises(dok.OptionError, match=r"fetch is a coroutine function; write `def fetch\(…\)`"):
        dok.remote(plan="v100-32gb")(fetch)


def test_what_cannot_be_called_is_refused_at_decoration() -> None:
    with pytest.raises(dok.OptionError, match="goes on a function, not on str"):
        dok.remote("h100-80gb")  # type: ignore[call-overload]


@pytest.mark.usefixtures("account")
def test_without_a_plan_the_error_names_the_plans() -> None:
    @dok.remote
    def plain() -> None: ...

    with pytest.raises(dok.OptionError, match=r"plain has no plan.*h100-80gb"):
        plain()


def test_calling_a_remote_function_inside_a_task_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOKRUN_CALL_ID", "of-the-task")
    with pytest.raises(dok.OptionError, match=r"use \.local\(\)"):
        train(1)


def test_without_a_bucket_small_calls_travel_and_large_ones_name_the_figure_and_the_setting(
    account: pytest.MonkeyPatch, client: Client
) -> None:
    account.delenv("DOKRUN_BUCKET")
    assert train(1, epochs=3).result(timeout=60) == 3
    before = client.tasks.list().meta.count
    with pytest.raises(dok.ConfigError, match=r"only 64 KiB \(compressed\) travel without a bucket.*DOKRUN_BUCKET"):
        train(os.urandom(100_000))
    assert client.tasks.list().meta.count == before


def test_options_make_a_copy_and_leave_the_function_as_it_is() -> None:
    copy = train.options(plan="h100-80gb")
    assert "h100-80gb" in repr(copy)
    assert "v100-32gb" in repr(train)
    assert copy.__name__ == "train"


def test_an_error_about_arguments_shows_names_and_no_defaults() -> None:
    @dok.remote(plan="v100-32gb")
    def fetch(url: str, *, token: str = "canary", **more: str) -> None: ...

    with pytest.raises(dok.OptionError) as caught:
        fetch()  # type: ignore[call-arg]
    assert str(caught.value) == "fetch(url, *, token, **more): missing a required argument: 'url'"


def test_a_remote_function_cannot_be_made_remote_again() -> None:
    with pytest.raises(dok.OptionError, match=r"write train\.options\(…\)"):
        dok.remote(plan="v100-32gb")(train)


@pytest.mark.usefixtures("account")
def test_a_future_as_an_argument_says_what_to_pass_instead() -> None:
    future: dok.Future[int] = dok.Future("c" * 32, "train")
    with pytest.raises(dok.NotSerializable, match=r"argument cfg: .*pass future\.result\(\)"):
        train(future)
