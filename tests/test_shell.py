"""`dokrun shell`: a shell by ssh in a task that runs, or in one that is there for it alone and ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import point_at
from waiting import PATIENCE_S, wait_for

from dokrun import config, engine, errors
from dokrun.api import Client, models
from dokrun.emulator import Behaviour, Emulator, Fault
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.engine import Engine

DOOR = 2222
PLAN = "v100-32gb"
# Without a hold on the pipes of whoever called it, which a test that fails would wait for.
STAYS = "exec sleep 600 >/dev/null 2>&1"
NEW = ("shell", "--plan", PLAN)
Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def service(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(behaviour=Behaviour(ssh_port=DOOR)) as service:
        point_at(monkeypatch, service, store, tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        yield service
        engine.reset()


@pytest.fixture
def client(service: Emulator) -> Iterator[Client]:
    """A client of an account that has a key."""
    with Client(service.token, service.secret, base_url=service.api_url) as client:
        client.ssh_keys.create(models.SshKeyRequest("mine", "ssh-ed25519 AAAA", is_active=True))
        yield client


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Run dokrun with an `ssh` that writes down how it was called and then does as it is told."""
    children: list[subprocess.Popen[str]] = []

    def run(*arguments: str, ssh: str = "exit 7") -> subprocess.Popen[str]:
        folder = tmp_path / f"bin{len(children)}"
        folder.mkdir()
        (folder / "ssh").write_text(
            f'#!/bin/sh\necho "$@" > {folder}/called.part\nmv {folder}/called.part {folder}/called\n{ssh}\n'
        )
        (folder / "ssh").chmod(0o755)
        child = subprocess.Popen(
            [Path(sys.executable).with_name("dokrun"), *arguments],
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate()


def called(tmp_path: Path, which: int = 0) -> str | None:
    path = tmp_path / f"bin{which}" / "called"
    return path.read_text() if path.exists() else None


def test_a_new_task_is_opened_and_ends_with_its_shell(client: Client, run: Run, tmp_path: Path) -> None:
    child = run(*NEW, "--image", "alpine:3", "--timeout", "20m", "--shell", "/bin/sh")
    _, told = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, called(tmp_path)) == (7, f"-p {DOOR} root@127.0.0.1\n"), told
    (task,) = client.tasks.list().results
    (container,) = task.containers
    assert (task.status, task.execution_time_limit_sec) == ("canceled", 1260)
    assert (container.image, container.plan, container.ssh) == (
        container.image,
        PLAN,
        models.Ssh("/bin/sh", DOOR, "127.0.0.1"),
    )
    assert container.image.endswith("alpine:3")
    costs = "costs ¥0.96 a minute while it runs"
    assert f"{task.name} (task {task.id}) {costs}, and ends with this command, or after 20m\n" in told
    assert f"{task.name} has ended: ¥" in told


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_the_task_ends_however_the_shell_does(client: Client, run: Run, tmp_path: Path, number: signal.Signals) -> None:
    child = run(*NEW, ssh=STAYS)
    wait_for(lambda: called(tmp_path))
    child.send_signal(number)
    _, told = child.communicate(timeout=PATIENCE_S)
    assert child.returncode != 0
    assert "has ended: ¥" in told
    assert [task.status for task in client.tasks.list().results] == ["canceled"]


def test_a_task_whose_answer_was_lost_is_found_and_there_is_no_second(
    service: Emulator, client: Client, run: Run, tmp_path: Path
) -> None:
    service.faults.add(Fault("reset", method="POST", path="/tasks/", phase="after"))
    run(*NEW).communicate(timeout=PATIENCE_S)
    assert called(tmp_path) is not None
    assert len(service.faults.injected) == 1
    assert [task.status for task in client.tasks.list().results] == ["canceled"]


def test_a_task_that_cannot_be_ended_is_told_with_what_stops_it(service: Emulator, client: Client, run: Run) -> None:
    service.faults.add(Fault("status", method="POST", path="*/cancel/", status=500))
    _, told = run(*NEW).communicate(timeout=PATIENCE_S)
    (task,) = client.tasks.list().results
    assert len(service.faults.injected) == 1
    assert "may still run and cost money: " in told
    assert f"; to stop it: dokrun cancel {task.id}\n" in told


def test_of_a_task_that_was_never_made_no_end_is_told(service: Emulator, client: Client, run: Run) -> None:
    service.faults.add(Fault("status", method="POST", path="/tasks/", status=403))
    child = run(*NEW)
    told = child.communicate(timeout=PATIENCE_S)[1]
    assert child.returncode == 1
    assert len(service.faults.injected) == 1
    assert "was not submitted: " in told
    assert "end" not in told
    assert client.tasks.list().meta.count == 0


def test_a_second_shell_in_the_same_task_does_not_end_it(client: Client, run: Run, tmp_path: Path) -> None:
    first = run(*NEW, ssh=STAYS)
    wait_for(lambda: called(tmp_path))
    (task,) = client.tasks.list().results
    second = run("shell", task.id)
    second.communicate(timeout=PATIENCE_S)
    assert (second.returncode, called(tmp_path, 1)) == (7, called(tmp_path))
    assert client.tasks.get(task.id).status == "running"
    first.terminate()
    first.communicate(timeout=PATIENCE_S)
    third = run("shell", task.id)
    assert "is canceled, and has no ssh door" in third.communicate(timeout=PATIENCE_S)[1]


@pytest.mark.parametrize("there", [True, False])
def test_without_a_key_nothing_is_sent_and_which_to_register_is_told(
    service: Emulator, run: Run, tmp_path: Path, *, there: bool
) -> None:
    if there:
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh" / "id_ed25519.pub").write_text("ssh-ed25519 AAAA")
    with Client(service.token, service.secret, base_url=service.api_url) as client:
        client.ssh_keys.create(models.SshKeyRequest("old", "ssh-ed25519 BBBB", is_active=False))
        child = run(*NEW)
        _, told = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 2
        assert "DOK knows no active ssh key" in told
        assert f"dokrun ssh-key add {tmp_path if there else '~'}/.ssh/id_ed25519.pub registers it" in told
        assert ("ssh-keygen" in told) is not there
        assert client.tasks.list().meta.count == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("shell",), "name a task that runs, or the plan of a new one"),
        (("shell", "a-task", "--plan", PLAN), "name a task that runs, or the plan of a new one"),
        ((*NEW, "--timeout", "soon"), "--timeout='soon' is not a duration"),
        ((*NEW, "--shell", "/bin/fish"), "DOK has no shell '/bin/fish'; it has /bin/bash, /bin/sh, /bin/zsh"),
        (("shell", "--plan", "v100-32g"), "did you mean 'v100-32gb'"),
        (("shell", "abcd"), "there is no task 'abcd' of dokrun's"),
    ],
)
def test_what_cannot_be_meant_is_told_in_a_line_and_nothing_is_sent(
    client: Client, run: Run, arguments: tuple[str, ...], told: str
) -> None:
    child = run(*arguments)
    said = child.communicate(timeout=PATIENCE_S)[1]
    assert child.returncode == (3 if "there is no" in told else 2)
    assert told in said
    assert said.count("\n") == 2  # the second names the page
    assert client.tasks.list().meta.count == 0


def test_a_service_that_tells_no_door_is_waited_for_and_then_blamed(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator() as service, Client(service.token, service.secret, base_url=service.api_url) as client:
        point_at(monkeypatch, service, store, tmp_path)
        client.ssh_keys.create(models.SshKeyRequest("mine", "ssh-ed25519 AAAA", is_active=True))
        made = Engine(config.load(), sleep=lambda _seconds: None)
        try:
            one = made.desk.shell(PLAN, "alpine:3", 600.0, "/bin/bash")
            one.begin()
            with pytest.raises(errors.InvalidAnswer, match="runs, and the service tells no ssh door of it"):
                one.door()
            one.end()
            wait_for(lambda: client.tasks.get(str(one.task_id)).ended)
            with pytest.raises(errors.TaskFailed, match=r"has ended \(canceled\)"):
                one.door()
        finally:
            made.close()
