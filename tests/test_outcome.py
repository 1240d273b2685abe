"""The writing of an outcome: the function has all but ended, and what it made is neither lost nor told twice."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from attempts import Attempt, job_of, main_process
from clocks import ManualClock
from disks import small_disk
from proxied import Use, faulty, starts, tasks, use
from storefaults import FaultyStore, StoreFault
from waiting import wait_for

import dokrun as dok
from dokrun import engine
from dokrun.api import Client
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.faults import Fault
from dokrun.errors import CallTimeout, ResultNotWritten, TaskFailed, VersionMismatch, WorkerDied
from dokrun.shim import protocol

__all__ = ["faulty", "use"]

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Slow:
    """A result whose writing begins, and goes on when a gate is opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> Any:
        (self._folder / "writing").touch()
        (self._folder / "gate").read_bytes()
        return str, ("written",)


@dok.remote(plan="v100-32gb", timeout=60)
def end_slowly(folder: Path) -> Any:
    (folder / f"started-{dok.current().task_id}").touch()
    return Slow(folder)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "gate")
    return tmp_path


def wait_for_writing(folder: Path) -> None:
    wait_for((folder / "writing").exists)


# The disk.


@dok.remote(plan="v100-32gb")
def return_too_much(folder: Path) -> bytes:
    (folder / f"started-{dok.current().task_id}").touch()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    return b"x" * 5000


def test_cell_write_df_a_result_that_the_containers_disk_does_not_take_is_told_as_such(
    use: Use, dok: Emulator, tmp_path: Path
) -> None:
    use(dok)
    error = return_too_much(tmp_path).exception(timeout=60)
    assert isinstance(error, ResultNotWritten)
    assert error.ran == "yes"
    assert "File too large" in str(error)
    assert starts(tmp_path) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that is full after four mebibytes."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        yield disk


def test_cell_write_df_a_function_that_has_filled_the_whole_disk_still_has_an_outcome(
    disk: Path, faulty: FaultyStore
) -> None:
    def fill() -> bytes:
        with (dok.artifact_dir() / "everything").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        return b"x" * 50_000

    attempt = Attempt(disk, faulty, fill)
    container = attempt.container()
    assert container.end() == 0, container.output
    failure = container.failed()
    assert (failure["reason"], failure["ran"]) == (protocol.NOT_WRITTEN, "yes")
    assert "No space left on device" in failure["message"]
    assert container.reports() == {}


# Deaths.


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_cell_write_oo_a_container_that_the_kernel_kills_while_the_result_is_written_did_run_it(
    use: Use, dok: Emulator, gate: Path
) -> None:
    use(dok)
    future = end_slowly(gate)
    wait_for_writing(gate)
    os.kill(main_process(job_of(future)), signal.SIGKILL)
    error = future.exception(timeout=60)
    assert isinstance(error, TaskFailed)
    assert (error.ran, "exit status 137" in str(error)) == ("yes", True)
    assert starts(gate) == 1


@dok.remote(plan="v100-32gb")
def die_as_it_is_written(folder: Path) -> Any:
    (folder / f"started-{dok.current().task_id}").touch()
    return Dying()


class Dying:
    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        return str, ()


def test_cell_write_oo_a_process_that_the_kernel_kills_while_the_result_is_written_did_run_it(
    use: Use, dok: Emulator, tmp_path: Path
) -> None:
    use(dok)
    error = die_as_it_is_written(tmp_path).exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert (error.ran, error.signal) == ("yes", signal.SIGKILL)
    assert starts(tmp_path) == 1


def test_cell_write_tl_a_result_that_takes_longer_to_write_than_the_call_may_take(
    use: Use, dok: Emulator, gate: Path
) -> None:
    use(dok)
    error = end_slowly.options(timeout=8)(gate).exception(timeout=60)
    assert (gate / "writing").exists(), "it got so far"
    assert isinstance(error, CallTimeout)
    assert error.ran == "yes"
    assert starts(gate) == 1


def test_cell_write_tl_a_time_limit_of_the_services_that_comes_while_the_result_is_written(
    use: Use, gate: Path
) -> None:
    clock = ManualClock()
    with Emulator(clock=clock) as emulator:
        use(emulator)
        future = end_slowly(gate)
        wait_for_writing(gate)
        ((task_id, task),) = tasks(emulator).items()
        assert task.execution_time_limit_sec is not None
        clock.wait_for_sleeper(task.execution_time_limit_sec)
        clock.pass_time(task.execution_time_limit_sec)
        error = future.exception(timeout=60)
        assert tasks(emulator)[task_id].status == "aborted"
        assert isinstance(error, TaskFailed)
        assert (error.ran, error.status) == ("yes", "aborted")
        assert starts(gate) == 1
        engine.reset()


def test_cell_write_cx_a_task_that_somebody_cancels_while_the_result_is_written_did_run(
    use: Use, dok: Emulator, gate: Path
) -> None:
    use(dok)
    future = end_slowly(gate)
    wait_for_writing(gate)
    with Client(dok.token, dok.secret, base_url=dok.api_url) as client:
        client.tasks.cancel(str(future.task_id))
    error = future.exception(timeout=60)
    assert isinstance(error, TaskFailed)
    assert (error.ran, error.status) == ("yes", "canceled")
    assert starts(gate) == 1


SCRIPT = """
    import sys
    from pathlib import Path

    import dokrun as dok

    class Slow:
        def __init__(self, folder):
            self.folder = folder

        def __reduce__(self):
            (self.folder / "writing").touch()
            (self.folder / "gate").read_bytes()
            return str, ("written",)

    @dok.remote(plan="v100-32gb")
    def end_slowly(folder):
        (folder / f"started-{dok.current().task_id}").touch()
        return Slow(folder)

    future = end_slowly(Path(sys.argv[1]))
    print(future.handle, flush=True)
    future.result()
"""


def test_cell_write_k9_a_client_that_is_killed_while_the_result_is_written_loses_nothing(
    use: Use, dok: Emulator, gate: Path
) -> None:
    use(dok)
    (gate / "script.py").write_text(textwrap.dedent(SCRIPT))
    child = subprocess.Popen([sys.executable, gate / "script.py", gate], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    handle = child.stdout.readline().strip()
    wait_for_writing(gate)
    child.kill()
    child.communicate(timeout=60)
    (gate / "gate").write_bytes(b"go")
    assert sys.modules["dokrun"].attach(handle).result(timeout=60) == "written"
    assert starts(gate) == 1


@dok.remote(plan="v100-32gb")
def count(folder: Path) -> str | None:
    (folder / f"started-{dok.current().task_id}").touch()
    return dok.current().task_id


def test_cell_write_du_of_one_call_that_the_service_takes_twice_there_is_one_outcome(use: Use, tmp_path: Path) -> None:
    with Emulator(behaviour=Behaviour(slots=2)) as emulator:
        use(emulator)
        emulator.faults.add(Fault("duplicate", method="POST", path="/tasks/", phase="after"))
        future = count(tmp_path)
        holder = future.result(timeout=60)
        assert len(emulator.faults.injected) == 1
        wait_for(lambda: all(task.ended for task in tasks(emulator).values()))
        ended = {task.id: task for task in tasks(emulator).values()}
        assert len(ended) == 2
        (other,) = [task for task in ended.values() if task.id != holder]
        assert other.status == "canceled" or other.containers[0].exit_code == protocol.CLAIM_LOST
        assert starts(tmp_path) == 1
        engine.reset()


@dok.remote(plan="v100-32gb", retries=1)
def save_and_end(folder: Path) -> str:
    (folder / f"started-{dok.current().task_id}").touch()
    (dok.checkpoint_dir() / "epoch").write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_cell_write_ue_a_checkpoint_whose_address_has_expired_costs_the_checkpoint_and_not_the_outcome(
    use: Use, dok: Emulator, faulty: FaultyStore, tmp_path: Path
) -> None:
    use(dok)
    faulty.add(StoreFault("status", "PUT", "*/checkpoints/*", None, status=403, code="ExpiredToken"))
    error = save_and_end(tmp_path).exception(timeout=60)
    assert faulty.injected
    assert isinstance(error, WorkerDied)
    assert (error.ran, error.attempt, starts(tmp_path)) == ("yes", 2, 2)
    # Whoever attaches hears the same.
    again = sys.modules["dokrun"].attach(error.handle).exception(timeout=60)
    assert (type(again), getattr(again, "ran", "")) == (WorkerDied, "yes")


@dok.remote(plan="v100-32gb")
def speak_another_format(folder: Path) -> int:
    (folder / f"started-{dok.current().task_id}").touch()
    sys.modules["dokrun_shim.protocol"].FORMAT = 9  # type: ignore[attr-defined]
    return 1


def test_cell_write_vm_a_result_of_another_format_is_told_as_another_version(
    use: Use, dok: Emulator, tmp_path: Path
) -> None:
    use(dok)
    error = speak_another_format(tmp_path).exception(timeout=60)
    assert isinstance(error, VersionMismatch)
    assert error.ran == "yes"
    assert "format 9" in str(error)
    assert starts(tmp_path) == 1
