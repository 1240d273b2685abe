"""The emulator keeps the service's rules, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from clocks import ManualClock
from emulated import STAYS, Lines, end_of, lines, request
from waiting import PATIENCE_S

from dokrun import errors
from dokrun.api import Client, models
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.reaper import Reaper

__all__ = ["lines"]


def exit_code(task: models.Task) -> int | None:
    return task.containers[0].exit_code


def artifact_of(client: Client, task: models.Task) -> dict[str, bytes]:
    assert task.artifact is not None
    content = httpx.get(client.artifacts.download_url(task.artifact.id)).content
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        found = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read() for name, file in found.items() if file is not None}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timed(clock: ManualClock) -> Iterator[Client]:
    """A client of an emulator whose time stands still."""
    with Emulator(clock=clock) as dok, Client(dok.token, dok.secret, base_url=dok.api_url) as client:
        yield client


# --- states


def test_a_task_runs_while_its_main_process_does_and_the_next_one_waits(client: Client, lines: Lines) -> None:
    line = lines(STAYS)
    first, second = client.tasks.create(request(line.code)), client.tasks.create(request())
    assert line.hear() == "R"
    assert client.tasks.get(first.id).status == "running"
    waiting = client.tasks.get(second.id)
    assert (waiting.status, waiting.containers[0].start_at) == ("waiting", None)
    line.hang_up()
    ended, then = end_of(client, first).containers[0], end_of(client, second).containers[0]
    assert (ended.exit_code, then.exit_code) == (0, 0)
    assert ended.end_at is not None
    assert then.start_at is not None
    assert ended.end_at <= then.start_at


def test_as_many_tasks_run_at_once_as_there_are_slots(lines: Lines) -> None:
    one, other = lines(STAYS), lines(STAYS)
    with Emulator(behaviour=Behaviour(slots=2)) as dok, Client(dok.token, dok.secret, base_url=dok.api_url) as client:
        tasks = [client.tasks.create(request(code)) for code in (one.code, other.code, "")]
        assert (one.hear(), other.hear()) == ("R", "R")
        assert [client.tasks.get(task.id).status for task in tasks] == ["running", "running", "waiting"]


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [("exit(0)", "done", 0), ("exit(3)", "error", 3), ("import os; os.kill(os.getpid(), 9)", "error", 128 + 9)],
)
def test_the_exit_status_tells_done_from_error(client: Client, code: str, status: str, expected: int) -> None:
    task = end_of(client, client.tasks.create(request(code)))
    assert (task.status, exit_code(task)) == (status, expected)


def test_a_program_that_is_not_there_is_an_error_that_names_it(client: Client) -> None:
    task = end_of(client, client.tasks.create(request(entrypoint=["/no/such/program"])))
    assert (task.status, exit_code(task)) == ("error", 127)
    assert "/no/such/program" in (task.error_message or "")


def test_a_waiting_task_that_is_cancelled_never_starts(client: Client, lines: Lines) -> None:
    line = lines(STAYS)
    client.tasks.create(request(line.code))
    waiting, next_one = client.tasks.create(request()), client.tasks.create(request())
    assert line.hear() == "R"
    assert client.tasks.cancel(waiting.id).status == "canceled"
    line.hang_up()
    end_of(client, next_one)  # so the line has moved on past its place
    task = client.tasks.get(waiting.id)
    assert (task.status, task.containers[0].start_at, exit_code(task)) == ("canceled", None, None)


def test_a_running_task_that_is_cancelled_is_killed(client: Client, lines: Lines) -> None:
    line = lines("signal.signal(15, signal.SIG_IGN); " + STAYS)
    task = client.tasks.create(request(line.code))
    assert line.hear() == "R"
    client.tasks.cancel(task.id)
    assert line.hear() == ""
    ended = end_of(client, task)
    assert (ended.status, exit_code(ended), ended.artifact) == ("canceled", 128 + 9, None)


@pytest.mark.parametrize("code", ["exit(0)", "exit(1)"])
def test_an_ended_task_cannot_be_cancelled(client: Client, code: str) -> None:
    task = end_of(client, client.tasks.create(request(code)))
    with pytest.raises(errors.Forbidden, match="has ended"):
        client.tasks.cancel(task.id)
    assert client.tasks.get(task.id) == task


def test_only_an_ended_task_is_deleted_and_its_artifact_goes_with_it(client: Client, lines: Lines) -> None:
    line = lines(STAYS)
    task = client.tasks.create(request(line.code))
    assert line.hear() == "R"
    with pytest.raises(errors.Forbidden, match="has not ended"):
        client.tasks.delete(task.id)
    line.hang_up()
    artifact = end_of(client, task).artifact
    assert artifact is not None
    client.tasks.delete(task.id)
    with pytest.raises(errors.NotFound):
        client.artifacts.get(artifact.id)


@pytest.mark.parametrize("keep", [False, True])
def test_a_failed_task_keeps_its_artifact_only_if_told_to(*, keep: bool) -> None:
    with (
        Emulator(behaviour=Behaviour(keep_failed_artifacts=keep)) as dok,
        Client(dok.token, dok.secret, base_url=dok.api_url) as client,
    ):
        task = end_of(client, client.tasks.create(request("exit(1)")))
    assert (task.status, task.artifact is not None) == ("error", keep)


# --- time limit


def test_a_task_that_overruns_is_told_to_end_and_then_killed(timed: Client, clock: ManualClock, lines: Lines) -> None:
    line = lines("signal.signal(15, lambda *_: line.sendall(b'T')); " + STAYS)
    task = timed.tasks.create(request(line.code, limit_s=600))
    assert line.hear() == "R"
    clock.wait_for_sleeper(600)
    clock.pass_time(600)
    assert line.hear() == "T"
    assert timed.tasks.get(task.id).status == "running"
    clock.wait_for_sleeper(10)
    clock.pass_time(10)
    assert line.hear() == ""
    ended = end_of(timed, task)
    assert (ended.status, exit_code(ended), ended.containers[0].execution_seconds) == ("aborted", 128 + 9, 610)


def test_a_task_that_ends_when_it_is_told_to_is_aborted_all_the_same(
    timed: Client, clock: ManualClock, lines: Lines
) -> None:
    line = lines("signal.signal(15, lambda *_: os._exit(0)); " + STAYS)
    task = timed.tasks.create(request(line.code, limit_s=600))
    assert line.hear() == "R"
    clock.wait_for_sleeper(600)
    clock.pass_time(600)
    ended = end_of(timed, task)
    assert (ended.status, exit_code(ended), ended.artifact) == ("aborted", 0, None)


@pytest.mark.parametrize(("limit_s", "passed_s"), [(600, 599), (None, 10**8)])
def test_a_task_within_its_limit_or_without_one_runs_on(
    timed: Client, clock: ManualClock, lines: Lines, limit_s: int | None, passed_s: int
) -> None:
    line = lines("signal.signal(15, lambda *_: line.sendall(b'T')); " + STAYS)
    task = timed.tasks.create(request(line.code, limit_s=limit_s))
    assert line.hear() == "R"
    if limit_s is not None:
        clock.wait_for_sleeper(limit_s)
    clock.pass_time(passed_s)
    assert timed.tasks.get(task.id).status == "running"
    line.hang_up()
    assert end_of(timed, task).status == "done"


# --- what a task sees and leaves


def test_a_task_sees_its_own_environment_and_no_other(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "sings")
    code = "import json, os; json.dump(dict(os.environ), open(os.environ['SAKURA_ARTIFACT_DIR'] + '/seen', 'w'))"
    task = end_of(client, client.tasks.create(request(code, environment={"ANSWER": "42"})))
    seen = json.loads(artifact_of(client, task)["./seen"])
    assert (seen["ANSWER"], seen["SAKURA_TASK_ID"]) == ("42", task.id)
    assert "CANARY" not in seen
    assert seen["HOME"] != os.environ.get("HOME")


def test_what_a_task_left_running_is_killed_when_its_main_process_ends(client: Client, lines: Lines) -> None:
    line = lines("subprocess.Popen(['sleep', '600'], pass_fds=[line.fileno()]); line.sendall(b'L')")
    task = client.tasks.create(request(line.code))
    assert line.hear() == "L"
    assert line.hear() == ""
    assert end_of(client, task).status == "done"


def test_a_task_that_removes_its_artifact_folder_ends_all_the_same(client: Client) -> None:
    task = client.tasks.create(request("import os; os.rmdir(os.environ['SAKURA_ARTIFACT_DIR'])"))
    end_of(client, client.tasks.create(request()))  # so the first one's slot is free again
    assert client.tasks.get(task.id).ended


def test_a_closed_emulator_has_ended_its_tasks_and_removed_its_files(
    lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = lines(STAYS)
    with Emulator() as dok, Client(dok.token, dok.secret, base_url=dok.api_url) as client:
        client.tasks.create(request(line.code))
        assert line.hear() == "R"
        assert len(list(tmp_path.iterdir())) == 1
    assert line.hear() == ""
    assert list(tmp_path.iterdir()) == []


HOST = """
import os, signal
from dokrun.api import Client, models
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.reaper import Reaper

dok = Emulator().start()
container = models.ContainerRequest("any", ["-c", os.environ["CODE"]], ["python3"], "v100-32gb")
request = models.CreateTaskRequest("test", [container], [], None)
Client(dok.token, dok.secret, base_url=dok.api_url).tasks.create(request)
signal.pause()
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_an_emulator_whose_process_is_killed(
    lines: Lines, tmp_path: Path, signum: signal.Signals
) -> None:
    line = lines(STAYS)
    environment = {**os.environ, "CODE": line.code, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", HOST], env=environment, stdout=subprocess.PIPE) as host:
        try:
            assert line.hear() == "R"
            assert len(list(tmp_path.iterdir())) == 1
        finally:
            host.send_signal(signum)
        assert line.hear() == ""
        host.communicate(timeout=PATIENCE_S)  # the helper holds the output as well, so this waits for both
    assert host.returncode == -signum
    assert list(tmp_path.iterdir()) == []


def test_an_emulator_that_was_never_started_can_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Emulator().close()
    assert list(tmp_path.iterdir()) == []


def test_a_task_whose_children_make_groups_of_their_own_ends_with_them(client: Client, lines: Lines) -> None:
    line = lines(STAYS)
    child = f"import os, subprocess, sys\nif os.fork() == 0:\n os.setpgid(0, 0)\n exec({line.code!r})\n"
    task = client.tasks.create(request(child + "import time; time.sleep(600)"))
    assert line.hear() == "R"
    client.tasks.cancel(task.id)
    assert line.hear() == ""


def test_the_helper_starts_whatever_another_thread_does_to_the_environment(tmp_path: Path) -> None:
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for number in range(8):
                os.environ[f"DOKRUN_TEST_{number}"] = "x" * 200
            for number in range(8):
                del os.environ[f"DOKRUN_TEST_{number}"]

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(100):
            Reaper(tmp_path).close()
    finally:
        over.set()
        changing.join()
