"""What the command line tells of calls, maps and sessions, and brings here of them, whoever has made them."""

from __future__ import annotations

import json
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chores import fail, stay
from desk import Shell, dokrun
from places import JOB, Place, abandoned, place, wait_for

import dokrun as dok
from dokrun import engine, keys
from dokrun.api import Client
from dokrun.emulator import Fault

__all__ = ["dokrun", "place"]

remote = dok.remote(plan="v100-32gb")
COMMAND = str(Path(sys.executable).with_name("dokrun"))


@remote
def leave(text: str) -> dict[str, Any]:
    print("leaving", text)
    folder = dok.artifact_dir() / "plots"
    folder.mkdir()
    (folder / "a.txt").write_text(text)
    (dok.artifact_dir() / "[red]b.txt").write_text("b")
    return {"text": text}


@remote
def half(number: int) -> float:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number / 2


@remote
def grid(size: int) -> Any:
    return np.arange(size, dtype=np.float64)


def elsewhere(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Go on from a machine that knows nothing of what was called."""
    engine.reset()
    monkeypatch.setenv("DOKRUN_STATE_DIR", str(folder / "elsewhere" / "state"))


def test_a_call_is_shown_its_result_printed_and_its_files_fetched_from_its_beginning(
    account: pytest.MonkeyPatch, dokrun: Shell, tmp_path: Path
) -> None:
    future = leave("x [bold]y[/bold]\t\x1b[31m")
    future.result(timeout=60)
    short = keys.shortened(future.handle)
    listed = [row for row in dokrun("ls").rows if row[4] == future.task_id]
    assert [row[:3] for row in listed] == [[short, "done", "v100-32gb"]]
    told = dokrun("show --json", short).json
    assert (told["handle"], told["kind"], told["state"], told["calls"]) == (future.handle, "call", "done", 1)
    assert [step.split()[0] for step in told["here"]][:2] == ["intended", "bound"]
    assert [(each["attempt"], each["task"], each["exit_code"]) for each in told["attempts"]] == [(1, future.task_id, 0)]
    assert sorted(file["name"] for file in told["files"]) == ["[red]b.txt", "plots/a.txt"]
    assert [(each["call"], each["kind"]) for each in told["outcomes"]] == [(0, "value")]
    rows = dokrun("show", short).rows
    assert ["files", "[red]b.txt (1 bytes)"] in rows
    first, second, third = (told for name, told in rows if name == "attempt")
    assert first == f"1: done, task {future.task_id}"
    assert re.fullmatch(r"1: started \S+ \S+, ended \S+ \S+", second)
    assert re.fullmatch(r"1: \S+ s in line, \S+ s, ¥\d+\.\d\d, exit code 0", third)
    assert dokrun("result", short).out == repr({"text": "x [bold]y[/bold]\t\x1b[31m"}) + "\n"
    assert dokrun("result --json", future.handle).json == {"text": "x [bold]y[/bold]\t\x1b[31m"}
    assert dokrun("logs", str(future.task_id)[:13]).out == "leaving x [bold]y[/bold]\t\x1b[31m\n"
    single = dokrun("logs --call 0", short)
    assert (single.status, single.out, "leave --call away" in single.err) == (2, "", True)
    elsewhere(account, tmp_path)
    done = dokrun("download -o", tmp_path / "files", short, "plots/*")
    assert done.rows == [[str(tmp_path / "files" / "plots" / "a.txt"), "22"]]
    assert (tmp_path / "files" / "plots" / "a.txt").read_text() == "x [bold]y[/bold]\t\x1b[31m"
    assert dokrun("download -o", tmp_path / "files", short).status == 2, "it is not empty"
    missing = dokrun("download -o", tmp_path / "more", short, "nothing")
    assert (missing.status, (tmp_path / "more").exists()) == (3, False)
    kept = dokrun("result -o", tmp_path / "value.pickle", short)
    assert (kept.status, kept.out) == (0, "")
    assert dokrun("result --json -o", tmp_path / "again.pickle", short).json["text"].startswith("x ")
    assert (tmp_path / "again.pickle").read_bytes() == (tmp_path / "value.pickle").read_bytes()
    assert pickle.loads((tmp_path / "value.pickle").read_bytes())["text"].startswith("x ")


def test_a_map_is_found_whole_from_another_machine(account: pytest.MonkeyPatch, dokrun: Shell, tmp_path: Path) -> None:
    calls = half.map(range(4), return_exceptions=True)
    results = list(calls)
    assert [str(each) for each in results] == ["0.0", "1 is odd", "1.0", "3 is odd"]
    (handle,) = {row[0] for row in dokrun("ls").rows if row[0].startswith("half-")}
    assert dokrun("logs --call 3", handle).status == 0
    beyond = dokrun("logs --call 4", handle)
    assert (beyond.status, beyond.out, "its 4 calls are 0 to 3" in beyond.err) == (2, "", True)
    engine.reset()
    elsewhere(account, tmp_path)
    done = dokrun("result", handle)
    assert (done.out, done.status) == ("0.0\n1.0\n", 4)
    assert "2 of the 4 calls of half have failed, the first is call 1" in done.err
    assert done.err.endswith("dokrun: half raised ValueError: 1 is odd\n")
    assert dokrun("result --json", handle).out == "", "half of it would look like all"
    told = dokrun("show --json", handle).json
    assert (told["kind"], told["calls"], told["handle"][-2:]) == ("map", 4, "x4")
    assert [each["kind"] for each in told["outcomes"]] == ["value", "exception"] * 2


def test_what_is_no_json_is_kept_as_a_pickle(account: pytest.MonkeyPatch, dokrun: Shell, tmp_path: Path) -> None:
    future = grid(100_000)
    future.result(timeout=60)
    short = keys.shortened(future.handle)
    refused = dokrun("result --json", short)
    assert (refused.status, refused.out) == (1, "")
    assert "of type ndarray, cannot be written as JSON" in refused.err
    assert f"grid need not run again: dokrun result {short} has its value\n" in refused.err
    assert dokrun("result -o", tmp_path / "grid", short).status == 0
    assert pickle.loads((tmp_path / "grid").read_bytes()).sum() == np.arange(100_000).sum()
    unwritten = dokrun("result -o", tmp_path / "no" / "such" / "folder", short)
    assert (unwritten.status, "cannot be written" in unwritten.err) == (1, True)


def test_what_has_not_ended_is_not_there_yet_and_what_failed_says_so(
    account: pytest.MonkeyPatch, dokrun: Shell, tmp_path: Path
) -> None:
    gate, starts = tmp_path / "gate", tmp_path / "starts"
    future = stay(starts, gate)
    wait_for(starts.exists)
    short = keys.shortened(future.handle)
    behind = stay(starts, gate)
    wait_for(lambda: behind.status == "waiting")
    for command in ("result --no-wait", "download", "logs"):
        done = dokrun(command, keys.shortened(behind.handle))
        assert (done.status, done.out) == (5, ""), (command, done.err)
    assert dokrun("show --json", keys.shortened(behind.handle)).json["before_it"] == 1
    rows = {row[0]: row for row in dokrun("ls --running").rows}
    assert rows[keys.shortened(behind.handle)][5] == "1"
    assert dokrun("ls -n 1 --json").json[0]["whole_handle"] == behind.handle
    gate.touch()
    assert dokrun("result", short).out == "42\n"
    broken = fail(starts, "at work")
    assert broken.exception(timeout=60) is not None
    done = dokrun("attach", broken.handle)
    assert (done.out, done.status) == ("at work\n", 4)
    assert "the function ran" in done.err


@pytest.mark.parametrize("command", ["show", "logs", "result", "attach", "download", "rescue", "cancel"])
def test_what_is_not_there_or_not_one_is_told(account: pytest.MonkeyPatch, dokrun: Shell, command: str) -> None:
    first, second = half(2), half(4)
    assert [first.result(timeout=60), second.result(timeout=60)] == [1.0, 2.0]
    done = dokrun(command, "job-99999999")
    assert (done.status, done.out) == (3, "")
    assert "no task 'job-99999999'" in done.err
    assert dokrun(command, "?").status == 3
    assert dokrun(command, "").status == 3


# The process itself.


def straight(place: Place) -> dict[str, str]:
    """Lead past the relay, which knows no live logs; to the journal it is another account."""
    return {**place.environ, "DOKRUN_API_URL": place.dok.api_url}


SCRIPT = """
    import dokrun as dok
    from enum import Enum
    from typing import Optional

    class Kind(str, Enum):
        RED = "red"
        BLUE = "blue"

    @dok.remote(plan="v100-32gb")
    def train(epochs: int, kind: Kind = Kind.RED, names: Optional[list[str]] = None, loud: bool = False) -> dict:
        print("training", epochs)
        return {"epochs": epochs, "kind": kind.value, "names": names, "loud": loud}

    @dok.remote(plan="v100-32gb")
    def fails() -> None:
        raise ValueError("boom [red]x[/red]")

    @dok.remote
    def planless(number: int) -> int:
        return number

    if __name__ == "__main__":
        raise SystemExit("this is no program here")
    print("imported")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text("\n".join(line[4:] for line in SCRIPT.splitlines()))
    return path


def test_run_calls_a_function_with_what_stands_behind_it(place: Place, script: Path) -> None:
    words = ["3", "--kind", "blue", "--names", "a", "--names=b", "--loud"]
    done = place.dokrun("run", "--json", f"{script}:train", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"epochs": 3, "kind": "blue", "names": ["a", "b"], "loud": True}
    assert "\ntraining 3\n" in f"\n{done.stderr}"
    assert "dokrun: train has ended: ¥" in done.stderr
    broken = place.dokrun("run", f"{script}:fails")
    assert (broken.returncode, broken.stdout) == (4, "")
    assert broken.stderr.endswith("dokrun: fails raised ValueError: boom [red]x[/red]\n")
    assert f'File "{script}", line' in broken.stderr, "the remote traceback"
    left = place.dokrun("run", "--detach", "--plan", "v100-32gb", f"{script}:planless", "7")
    handle = left.stdout.strip()
    assert (left.returncode, keys.read_handle(handle) is not None) == (0, True), left.stderr
    assert place.dokrun("result", handle).stdout == "7\n"
    told = json.loads(place.dokrun("run", "-d", "--json", "--plan", "v100-32gb", f"{script}:planless", "8").stdout)
    assert told["short_handle"] == keys.shortened(told["handle"])
    assert place.dokrun("result", told["task"]).stdout == "8\n"
    assert place.posts() == 4


def test_nothing_is_sent_by_a_rehearsal_a_quote_or_a_mistake(place: Place, script: Path, tmp_path: Path) -> None:
    done = place.dokrun("run", "--rehearse", "-o", str(tmp_path / "value"), f"{script}:train", "--epochs=2")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "training 2\n" in done.stderr
    assert pickle.loads((tmp_path / "value").read_bytes())["epochs"] == 2
    nowhere = place.dokrun("run", "-o", str(tmp_path / "none" / "value"), f"{script}:train", "2")
    assert (nowhere.returncode, "a folder that is not there" in nowhere.stderr) == (2, True), nowhere.stderr
    broken = place.dokrun("run", "--rehearse", f"{script}:fails")
    assert (broken.returncode, "fails raised ValueError: boom" in broken.stderr) == (4, True)
    quoted = place.dokrun("quote", "--json", f"{script}:train", "2")
    assert "imported\n" in quoted.stderr
    assert json.loads(quoted.stdout)["plan"] == "v100-32gb"
    assert "--names" in place.dokrun("run", f"{script}:train", "--help").stdout
    for words, said in (
        (["two"], "--epochs of train cannot be 'two': write a whole number"),
        (["2", "--kind", "green"], "write one of red, blue"),
        (["2", "--nam", "a"], "train has no parameter 'nam'; did you mean 'names'?"),
        (["--epochs"], "--epochs of train has no value"),
        ([], "missing a required argument: 'epochs'"),
    ):
        wrong = place.dokrun("run", f"{script}:train", *words)
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert said in wrong.stderr
    assert place.dokrun("run", f"{script}:planless", "1").returncode == 2
    for option in ("--rehearse", f"--output={tmp_path / 'kept'}"):
        both = place.dokrun("run", "--detach", option, f"{script}:train", "2")
        assert (both.returncode, both.stdout, "--detach only sends the call" in both.stderr) == (2, "", True)
    assert (place.posts(), place.tasks()) == (0, [])


def test_without_an_account_a_run_takes_the_emulator_of_its_own_process(script: Path, tmp_path: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    command = [COMMAND, "run", f"{script}:train", "1"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout == "{'epochs': 1, 'kind': 'red', 'names': None, 'loud': False}\n", done.stderr
    assert "running on the local emulator, no GPU, no charge" in done.stderr
    detached = subprocess.run(
        [*command[:2], "-d", *command[2:]], env=environ, capture_output=True, text=True, check=False
    )
    assert (detached.returncode, detached.stdout) == (2, "")


def test_ctrl_c_leaves_what_is_only_watched_and_ends_what_was_run(place: Place, script: Path) -> None:
    handle = abandoned(place)
    for command in ("attach", "result"):
        watching = subprocess.Popen(
            [COMMAND, command, handle], env=straight(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if command == "attach":
            assert watching.stdout is not None
            assert watching.stdout.readline() == "at work\n"
        else:
            assert watching.stderr is not None
            while "dokrun: job: running" not in watching.stderr.readline():
                pass
        watching.send_signal(signal.SIGINT)
        _, told = watching.communicate(timeout=60)
        assert watching.returncode == 130
        assert f"to stop it: dokrun cancel {keys.shortened(handle)}" in told
        assert "Traceback" not in told
    assert not place.tasks()[0].ended
    place.gate.touch()
    assert place.dokrun("attach", handle, DOKRUN_API_URL=place.dok.api_url).stdout == "at work\n"


def test_while_dok_cannot_be_reached_it_is_said_what_is_waited_for_and_how_to_stop(place: Place) -> None:
    handle = abandoned(place)
    place.dok.faults.add(Fault("status", "GET", "/tasks/", None, status=503))
    watching = subprocess.Popen(
        [COMMAND, "result", handle], env=place.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert watching.stderr is not None
    told = sorted([watching.stderr.readline(), watching.stderr.readline()])
    assert told[0].startswith("dokrun: cannot see how the tasks are, and will ask again: ")
    assert told[1] == "dokrun: job: being looked for, Ctrl-C stops the waiting\n"
    place.dok.faults.clear()
    place.gate.touch()
    output, rest = watching.communicate(timeout=60)
    assert (watching.returncode, output) == (0, "42\n"), rest


def test_a_waiting_call_that_was_run_is_cancelled_by_ctrl_c(place: Place, tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    lines = ["import dokrun as dok, time", "@dok.remote(plan='v100-32gb')", "def slow():"]
    slow.write_text("\n".join([*lines, "    print('begun')", "    time.sleep(60)", ""]))
    running = subprocess.Popen(
        [COMMAND, "run", f"{slow}:slow"], env=straight(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    while running.stderr.readline() != "begun\n":
        pass
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert (running.returncode, "cancelled what had not finished: slow" in told) == (130, True), told
    wait_for(lambda: place.tasks()[0].status == "canceled")


def test_logs_of_what_runs_end_where_they_are_unless_they_are_followed(place: Place) -> None:
    handle = abandoned(place)
    now = place.dokrun("logs", handle, DOKRUN_API_URL=place.dok.api_url)
    assert (now.returncode, now.stdout) == (0, "at work\n")
    assert f"still runs; dokrun logs -f {keys.shortened(handle)} follows it" in now.stderr
    following = subprocess.Popen(
        [COMMAND, "logs", "-f", handle], env=straight(place), stdout=subprocess.PIPE, text=True
    )
    assert following.stdout is not None
    assert following.stdout.readline() == "at work\n"
    place.gate.touch()
    assert (following.wait(60), following.stdout.read()) == (0, "")
    following.stdout.close()


def test_a_job_whose_script_is_gone_is_found_by_client_and_command_alike(place: Place) -> None:
    handle = abandoned(place)
    with Client(place.dok.token, place.dok.secret, base_url=place.dok.api_url) as client:
        (task,) = client.tasks.iterate()
    assert json.loads(place.dokrun("show", "--json", task.id[:8]).stdout)["handle"] == handle
    assert JOB  # what it runs
