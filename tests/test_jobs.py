"""The end of a process whose calls go on, and the command line that finds them: `dokrun ls`, `logs`, `cancel`."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from emulated import request
from places import JOB, Place, abandoned, failure, place, wait_for

import dokrun as dok
from dokrun import keys
from dokrun.api import Client
from dokrun.emulator import Fault

__all__ = ["place"]

# The end of the process.

LEAVE = (
    JOB
    + """
    future = job.options(detach=bool(sys.argv[3:]))(21, starts, gate)
    print(future.handle, flush=True)
    while not (os.path.exists(starts) and os.path.getsize(starts)): time.sleep(0.01)
"""
)


def test_a_detached_call_outlives_its_process_which_says_so(place: Place) -> None:
    child = place.start(LEAVE, "detach")
    output, errors = child.communicate(timeout=60)
    handle = output.strip()
    assert child.returncode == 0
    stops = f"dokrun cancel {keys.shortened(handle)}"
    # The price is told where it is known by then.
    assert re.search(rf"job goes on and may cost (money|¥0\.96 a minute); to stop it: {stops}\n", errors)
    place.gate.touch()
    place.here()
    assert dok.attach(handle).result(timeout=60) == 42
    assert (place.posts(), place.started()) == (1, 1)


def test_a_call_that_is_not_detached_ends_with_its_process(place: Place) -> None:
    child = place.start(LEAVE)
    output, errors = child.communicate(timeout=60)
    assert "cancelled what had not finished: job (task " in errors
    wait_for(lambda: place.tasks()[0].status == "canceled")
    place.here()
    error = failure(dok.attach(output.strip()))
    assert isinstance(error, dok.TaskFailed)
    assert error.status == "canceled"
    assert error.ran in ("maybe", "yes")
    assert (place.posts(), place.started()) == (1, 1)


# The command line.


def test_of_two_tasks_that_the_service_made_of_one_request_the_one_that_runs_is_meant_and_both_are_ended(
    place: Place,
) -> None:
    place.dok.faults.add(Fault("duplicate", method="POST", path="/tasks/", phase="after"))
    handle = abandoned(place)
    first, second = reversed(place.tasks())
    with Client(place.dok.token, place.dok.secret, base_url=place.dok.api_url) as client:
        for task in (first, second):
            if task.status == "waiting":
                client.tasks.cancel(task.id)
    wait_for(lambda: {task.status for task in place.tasks()} == {"running", "canceled"})
    shown = place.dokrun("cancel", handle)
    assert (shown.returncode, shown.stdout.endswith(": cancelled\n")) == (0, True), shown.stderr
    wait_for(lambda: all(task.ended for task in place.tasks()))
    assert len(place.dok.faults.injected) == 1


def test_ls_tells_whole_lines_in_a_pipe_whoever_made_the_tasks(place: Place) -> None:
    handle = abandoned(place)
    state = str(place.folder / "elsewhere")
    shown = place.dokrun("ls", DOKRUN_STATE_DIR=state)
    assert shown.returncode == 0, shown.stderr
    task = place.tasks()[0]
    lines = [text for text in shown.stdout.splitlines() if task.id in text]
    assert len(lines) == 1, shown.stdout
    assert handle[: len("job-") + 12] in lines[0]
    assert "running" in lines[0]
    assert task.id in place.dokrun("ls", "--running").stdout
    place.gate.touch()
    wait_for(lambda: place.tasks()[0].ended)
    assert task.id not in place.dokrun("ls", "--running").stdout
    told = re.search(r"job-[0-9a-f]+", shown.stdout)
    assert told is not None
    place.here()
    assert dok.attach(told[0]).result(timeout=60) == 42


def test_logs_and_cancel_take_a_beginning_a_whole_handle_or_a_tasks_id_without_the_journal(place: Place) -> None:
    handle = abandoned(place)
    straight = {"DOKRUN_API_URL": place.dok.api_url, "DOKRUN_STATE_DIR": str(place.folder / "elsewhere")}
    wait_for(place.starts.exists)
    assert "cancelled" in place.dokrun("cancel", handle[:9], **straight).stdout
    wait_for(lambda: place.tasks()[0].status == "canceled")
    assert "it had ended before" in place.dokrun("cancel", handle, **straight).stdout
    for meant in (handle[:9], handle, place.tasks()[0].id):
        shown = place.dokrun("logs", meant, **straight)
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, "at work\n", "")


def test_cancel_takes_several_and_ends_none_where_one_is_not_found(place: Place) -> None:
    handles = [abandoned(place), abandoned(place, until=lambda: len(place.tasks()) == 2)]
    missed = place.dokrun("cancel", handles[0], "job-9999")
    assert (missed.returncode, missed.stdout) == (3, "")
    assert [task.ended for task in place.tasks()] == [False, False]
    done = place.dokrun("cancel", *map(keys.shortened, handles))
    assert (done.returncode, done.stdout.count(": cancelled\n")) == (0, 2), done.stderr
    wait_for(lambda: [task.status for task in place.tasks()] == ["canceled"] * 2)


def test_ls_tells_the_time_of_here(place: Place) -> None:
    abandoned(place)
    created = place.tasks()[0].created_at
    assert created is not None
    for zone, hours in (("UTC", 0), ("Asia/Tokyo", 9)):
        there = created.astimezone(timezone(timedelta(hours=hours)))
        assert there.strftime("\t%Y-%m-%d %H:%M\t") in place.dokrun("ls", TZ=zone).stdout


@pytest.mark.parametrize("command", ["logs", "cancel"])
def test_what_no_task_or_several_bear_is_told_in_a_line(place: Place, command: str) -> None:
    with Client(place.dok.token, place.dok.secret, base_url=place.dok.api_url) as client:
        for character in "01":
            tags = [keys.OURS, keys.job_tag("abcd" + character * 28)]
            client.tasks.create(msgspec.structs.replace(request("pass"), tags=tags, name="job-abcd"))
    for meant, status, told in (
        ("job-9999", 3, "there is no task 'job-9999' of dokrun's; dokrun ls tells which there are\n"),
        ("job", 3, "; a handle takes four digits of a job's id at least, as in train-7f3a"),
        ("abcd", 2, "'abcd' is the beginning of several"),
    ):
        done = place.dokrun(command, meant)
        assert done.returncode == status
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_logs_end_quietly_when_nobody_reads_on(place: Place) -> None:
    script = JOB.replace("return number * 2", "print('x' * 100000); return 1") + "    job(1, starts, gate).result()\n"
    place.gate.touch()
    assert place.start(script).wait(60) == 0
    command = f"{Path(sys.executable).with_name('dokrun')} logs {place.tasks()[0].id} | head -c 10"
    environ = {**place.environ, "DOKRUN_API_URL": place.dok.api_url}
    done = subprocess.run(["/bin/sh", "-c", command], env=environ, capture_output=True, text=True, check=False)
    assert len(done.stdout) == 10
    assert done.stderr == ""
