"""What `f.options(…)` changes, and what None takes back."""

from __future__ import annotations

from typing import Any

import platformdirs
import pytest

import dokrun as dok
from dokrun.api import Client
from dokrun.api.models import Task

NOTHING_SAID: dict[str, Any] = dict.fromkeys(
    ("plan", "image", "timeout", "env", "tags", "include", "exclude", "name", "profile", "http")
)


@dok.remote(
    plan="h100-80gb",
    image="docker.io/library/python:3.9-slim",
    timeout="2h",
    env={"MODE": "fast"},
    tags=["mine"],
    include=["no-such-file"],
    exclude=["*"],
    http=8000,
    name="other",
    profile="no-such-profile",
)
def elaborate() -> None: ...


@dok.remote
def plain() -> None: ...


def task_of(function: dok.RemoteFunction[[], None], client: Client) -> Task:
    future = function()
    future.result(timeout=60)
    return client.tasks.get(str(future.task_id))


def said_in(task: Task) -> tuple[Any, ...]:
    """Tell what options say about a task, without what differs from call to call."""
    container = task.containers[0]
    environment = {name: value for name, value in container.environment.items() if not name.startswith("DOKRUN_")}
    said = container.plan, container.image, task.execution_time_limit_sec, environment, container.http
    return (task.name.partition("-")[0], *said)


@pytest.fixture
def defaults(account: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A profile that has defaults of its own, in the user's config folder."""
    account.setenv("HOME", str(tmp_path))
    account.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = platformdirs.user_config_path("dokrun")
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(
        "[defaults]\nplan = 'v100-32gb'\ntimeout = '30m'\ntags = ['ours']\nenv = {TEAM = 'a'}\n"
    )


@pytest.mark.usefixtures("defaults")
def test_none_takes_back_what_the_decorator_says_so_that_the_profiles_default_holds(client: Client) -> None:
    task = task_of(elaborate.options(**NOTHING_SAID), client)
    name, *others = said_in(task_of(plain, client))
    assert (name, *said_in(task)) == ("plain", "elaborate", *others)
    assert task.execution_time_limit_sec == 30 * 60 + 600
    assert task.containers[0].plan == "v100-32gb"
    assert "ours" in task.tags
    assert "mine" not in task.tags


@pytest.mark.usefixtures("account")
def test_none_takes_back_one_option_and_leaves_the_others(client: Client) -> None:
    task = task_of(elaborate.options(image=None, include=None, exclude=None, profile=None), client)
    image = task.containers[0].image
    assert image == str(said_in(task_of(plain.options(plan="v100-32gb"), client))[2])
    assert task.name.startswith("other-")
    assert task.containers[0].environment["MODE"] == "fast"


@pytest.mark.usefixtures("account")
def test_none_in_the_decorator_is_as_if_the_option_were_not_given() -> None:
    with pytest.raises(dok.OptionError, match="has no plan"):
        dok.remote(**NOTHING_SAID)(plain.local)()


@pytest.mark.usefixtures("account")
def test_a_call_that_excludes_its_own_module_is_refused_and_sends_nothing(client: Client) -> None:
    before = client.tasks.list().meta.count
    with pytest.raises(dok.OptionError, match=r"exclude= takes away test_options\.py, in which plain is defined"):
        plain.options(plan="v100-32gb", exclude=["*.py"])()
    assert client.tasks.list().meta.count == before


def test_an_option_of_no_such_name_is_refused_though_it_is_none() -> None:
    with pytest.raises(dok.OptionError, match="did you mean 'image'"):
        plain.options(imag=None)  # type: ignore[call-arg]
