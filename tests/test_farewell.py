"""What a script says when it ends before its calls do: each of them by its name, and money only where there is some."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from places import JOB, Place, line, place, wait_for
from waiting import PATIENCE_S

from dokrun import config, keys
from dokrun.engine import farewell
from dokrun.jobstate import Progress
from dokrun.outcomes import Outcomes

__all__ = ["place"]

# As many calls as the third argument says. The fourth is "detach" or "", the fifth how many must have their task.
LEAVE = (
    JOB
    + """
    names = ["first", "second", "third", "fourth", "fifth"]
    futures = [job.options(name=name, detach=sys.argv[4] == "detach")(21, starts, gate)
               for name in names[:int(sys.argv[3])]]
    while sum(future.task_id is not None for future in futures) < int(sys.argv[5]): time.sleep(0.01)
    for future in futures[:int(sys.argv[5])]: print(future.handle, flush=True)
"""
)


# Where the price is known by then.
COSTS = r"cost ¥0\.96 a minute"


def left(place: Place, *arguments: object) -> tuple[list[str], str]:
    """Let a script end before its calls. Tells the handles that it printed, and its last words."""
    output, errors = place.start(LEAVE, *arguments).communicate(timeout=PATIENCE_S)
    return output.split(), errors


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_every_call_that_a_script_leaves_is_named_whether_it_was_sent_or_not(place: Place, bound: int) -> None:
    _, errors = left(place, 2, "", bound)
    task = r"( \(task [0-9a-f-]{36}\))?"
    assert re.search(rf"^dokrun: cancelled what had not finished: first{task}, second{task}$", errors, re.MULTILINE)
    assert errors.count("(task ") >= bound
    assert "Traceback" not in errors
    wait_for(lambda: all(task.ended for task in place.tasks()))
    assert {task.status for task in place.tasks()} <= {"canceled"}


def test_of_many_calls_a_few_are_named_and_the_others_counted(place: Place) -> None:
    _, errors = left(place, 5, "", 0)
    assert re.search(r"had not finished: first\b.*, second\b.*, third\b.*, and 2 more$", errors, re.MULTILINE), errors


def test_detached_calls_are_all_named_with_one_command_that_stops_them(place: Place) -> None:
    handles, errors = left(place, 2, "detach", 2)
    command = " ".join(["dokrun cancel", *map(keys.shortened, handles)])
    assert re.sub(COSTS, "cost money", errors) == (
        f"dokrun: first, second go on and may cost money; to stop them: {command}\n"
    )
    done = place.dokrun(*command.split()[1:])
    assert (done.returncode, done.stdout.count(": cancelled\n")) == (0, 2), done.stderr


def test_of_many_detached_calls_the_command_line_lists_the_others(place: Place) -> None:
    handles, errors = left(place, 5, "detach", 5)
    assert "first, second, third, and 2 more go on" in errors
    assert errors.endswith(f"{keys.shortened(handles[2])}; dokrun ls --running shows the others\n")
    place.dokrun("cancel", *handles)


def test_what_has_had_a_task_before_is_not_said_never_to_have_been_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def left_without_task(name: str, *, tried: bool) -> Any:
        calls = Outcomes("a" * 32, 1, name, Progress())
        return SimpleNamespace(name=name, task_id=None, calls=calls, tried=tried, costs="")

    runs = [left_without_task("first", tried=False), left_without_task("second", tried=True)]
    farewell.tell(config.load(environ={}, config_dir=tmp_path, home=tmp_path), [], runs)
    assert capsys.readouterr().err == (
        "dokrun: the script ended before these were submitted: first; call them again\n"
        "dokrun: the script ended before these were tried again: second; call them again\n"
    )


def test_a_second_ctrl_c_ends_the_script_at_once_and_says_what_may_be_left(place: Place) -> None:
    held = place.relay.hold("POST", "*/cancel/", "before")
    script = f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{textwrap.dedent(LEAVE)}"
    child = place.start(script, 1, "", 1)
    handle = line(child)
    held.reached()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=PATIENCE_S)
    stops = f"dokrun cancel {keys.shortened(handle)}"
    assert re.sub(COSTS, "cost money", errors) == (
        f"dokrun: interrupted; first may still run and may cost money; to stop it: {stops}\n"
    )
    held.drop()
    assert not place.tasks()[0].ended


# On the built-in profile.


@pytest.mark.parametrize("detach", ["", "detach"])
def test_the_built_in_profile_says_what_it_cancelled_and_nothing_of_money(tmp_path: Path, detach: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(LEAVE.replace("\n    ", "\n").strip())
    done = subprocess.run(
        [sys.executable, script, tmp_path / "starts", tmp_path / "gate", "2", detach, "1"],
        env={"PATH": "", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    first, *rest = done.stderr.splitlines()
    assert first == "dokrun: no DOK credentials: running on the local emulator, no GPU, no charge"
    why = "; on the profile local no call goes on without its process, detached or not" if detach else ""
    told = r"dokrun: cancelled what had not finished: first \(task [0-9a-f-]{36}\), second( \(task [0-9a-f-]{36}\))?"
    assert len(rest) == 1, done.stderr
    assert re.fullmatch(told + re.escape(why), rest[0])


DIE = """
import os
import dokrun as dok

@dok.remote(plan="v100-32gb")
def die() -> None:
    print("about to die")
    os._exit(3)

with dok.session(plan="v100-32gb"):
    futures = [die.options(session=None)(), die()]
for future in futures:
    print(future.exception())
    print("|".join(future.logs()))
"""


def test_an_error_on_the_built_in_profile_tells_what_shows_the_log_there(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(DIE)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env={"PATH": "", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines.count("  future.logs() tells its log") == 2, done.stdout + done.stderr
    assert lines.count("about to die") == 2
    assert "dokrun logs" not in done.stdout


ATTACH = """
import sys
import dokrun as dok
try:
    dok.attach(sys.argv[1])
except dok.OptionError as error:
    print(error)
"""


def test_what_another_process_called_on_the_built_in_profile_is_said_to_be_gone(tmp_path: Path) -> None:
    def run(*command: object) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": "", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "DOKRUN_PROFILE": "local"}
        return subprocess.run(
            [*map(str, command)], env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    for name, text in (("leave.py", textwrap.dedent(LEAVE)), ("attach.py", ATTACH)):
        (tmp_path / name).write_text(text)
    handle = run(sys.executable, tmp_path / "leave.py", "starts", "gate", "1", "", "1").stdout.strip()
    for told in (handle, keys.shortened(handle)):
        attached = run(sys.executable, tmp_path / "attach.py", told)
        assert f"the task of {told!r} is gone: on the profile local a call ends with the process" in attached.stdout
    for command in ("ls", "logs", "cancel"):
        arguments = [] if command == "ls" else [handle]
        done = run(Path(sys.executable).with_name("dokrun"), command, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("dokrun: on the profile local a script's tasks live in its own process")


def test_only_the_built_in_profile_ends_with_its_process_and_costs_nothing(tmp_path: Path) -> None:
    key = {"DOKRUN_ACCESS_TOKEN": "t", "DOKRUN_ACCESS_TOKEN_SECRET": "s"}
    for environ, expected in (({}, False), (key, True)):
        settings = config.load(environ=environ, config_dir=tmp_path, home=tmp_path)
        assert (settings.outlasts, settings.charges) == (expected, expected)
