"""dokrun in processes of its own, on the built-in profile: what they print, how they end, what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from waiting import wait_for


def start(tmp_path: Path, script: str, **environment: str) -> subprocess.Popen[str]:
    """Start a script as a user would, on a machine without credentials, with a temporary folder of its own."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    (tmp_path / "tmp").mkdir(exist_ok=True)
    own = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        "XDG_CONFIG_HOME": str(tmp_path),
        "PYTHONWARNINGS": "error",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-u", str(path)],
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tmp_path: Path, script: str, **environment: str) -> tuple[str, str, int]:
    process = start(tmp_path, script, **environment)
    output, errors = process.communicate(timeout=90)
    return output, errors, process.returncode


ADD = """
    import dokrun as dok

    @dok.remote(plan="v100-32gb")
    def add(a, b):
        return a + b
"""


def test_without_credentials_it_runs_on_the_emulator_says_so_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    output, errors, status = run(tmp_path, ADD + "    print(add(1, 2).result())\n")
    assert (output, status) == ("3\n", 0)
    assert errors == "dokrun: no DOK credentials: running on the local emulator, no GPU, no charge\n"
    assert not list((tmp_path / "tmp").iterdir())


HELD = """
    import dokrun as dok, os, signal, sys, time

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it

    @dok.remote(plan="v100-32gb")
    def hold(path):
        with open(path, "wb") as file:
            file.write(b"1")
            file.flush()
            time.sleep(600)

    path = sys.argv[1] if len(sys.argv) > 1 else os.environ["HELD"]
"""


class Held:
    """A pipe that a remote function holds open as long as its process lives."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "held"
        os.mkfifo(self.path)
        self._begun = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        with self.path.open("rb") as file:
            file.read(1)
            self._begun.set()
            file.read()
        self._ended.set()

    def begun(self) -> bool:
        return self._begun.wait(60)

    def ended(self) -> bool:
        return self._ended.wait(60)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path)


def test_a_script_that_ends_cancels_what_is_unfinished_and_says_so(tmp_path: Path, held: Held) -> None:
    over = tmp_path / "over"
    script = (
        HELD
        + "    f = hold(path)\n    while not os.path.exists(os.environ['OVER']): time.sleep(0.01)\n    sys.exit(3)\n"
    )
    process = start(tmp_path, script, HELD=str(held.path), OVER=str(over))
    assert held.begun()
    over.touch()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert held.ended()
    assert "dokrun: cancelled what had not finished: hold (task " in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("inspect", ["", "1"], ids=["script", "prompt"])
@pytest.mark.parametrize("wait", ["hold(path).result()", "next(hold.map([path, path]))"], ids=["call", "map"])
def test_ctrl_c_says_what_goes_on_if_somebody_can_type_on_and_the_end_of_the_script_cancels_it(
    tmp_path: Path, held: Held, wait: str, inspect: str
) -> None:
    process = start(tmp_path, f"{HELD}    {wait}\n", HELD=str(held.path), PYTHONINSPECT=inspect)
    assert held.begun()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert held.ended()
    called = "hold(path)" in wait
    goes_on = (
        "hold goes on (running); future.cancel() stops it" if called else "hold.map goes on; its cancel() stops it"
    )
    assert (f"dokrun: {goes_on}\n" in errors) == (inspect == "1")
    assert (" goes on" in errors) == (inspect == "1")
    assert "dokrun: cancelled what had not finished: hold" in errors
    assert not list((tmp_path / "tmp").iterdir())


def test_ctrl_c_in_a_sessions_block_ends_it_and_says_so(tmp_path: Path, held: Held) -> None:
    script = HELD + "    with dok.session(plan='v100-32gb'):\n        hold(path).result()\n"
    process = start(tmp_path, script, HELD=str(held.path))
    assert held.begun()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert held.ended()
    said = [line for line in errors.splitlines() if line.startswith("dokrun: ")]
    assert not any("goes on" in line for line in said)
    assert "dokrun: ended the session, and 1 call that has no result" in said


def test_a_process_that_is_killed_leaves_no_task_and_no_folder(tmp_path: Path, held: Held) -> None:
    process = start(tmp_path, HELD + "    hold(path).result()\n", HELD=str(held.path))
    assert held.begun()
    process.kill()
    process.communicate(timeout=60)
    assert held.ended(), "the task's process is gone with the emulator that started it"
    wait_for(lambda: not list((tmp_path / "tmp").iterdir()))


def test_a_forked_child_has_an_engine_of_its_own(tmp_path: Path) -> None:
    script = (
        ADD
        + """
    import os
    print(add(1, 1).result(), flush=True)
    if os.fork() == 0:
        print(add(2, 2).result(), flush=True)
        os._exit(0)
    os.wait()
    print(add(3, 3).result(), flush=True)
    """
    )
    output, errors, status = run(tmp_path, script)
    assert (output, status) == ("2\n4\n6\n", 0), errors


def test_a_script_that_is_read_from_standard_input_works(tmp_path: Path) -> None:
    script = textwrap.dedent(ADD) + "print(add(20, 22).result())\n"
    done = subprocess.run(
        [sys.executable, "-"],
        input=script,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr


def test_importing_dokrun_loads_no_heavy_library_and_prints_nothing(tmp_path: Path) -> None:
    script = """
        import sys
        import dokrun
        heavy = {"boto3", "docker", "httpx", "moto", "starlette", "rich", "typer", "cloudpickle", "msgspec", "asyncio"}
        print(sorted(heavy & set(sys.modules)))
    """
    assert run(tmp_path, script) == ("[]\n", "", 0)


def test_every_public_name_can_be_had_and_is_listed(tmp_path: Path) -> None:
    script = """
        import dokrun
        assert set(dokrun.__all__) == set(dir(dokrun)), "no other names"
        for name in dokrun.__all__:
            assert getattr(dokrun, name) is not None, name
        try:
            dokrun.remot
        except AttributeError as error:
            print(error)
    """
    assert run(tmp_path, script) == ("module 'dokrun' has no attribute 'remot'\n", "", 0)


@pytest.mark.parametrize(
    ("arguments", "expected", "status"),
    [
        (["--version"], "0.1.0", 0),
        (["plans"], "h100-80gb", 0),
        (["config", "show"], "nothing else is configured", 0),
        (["plans", "--profile", "wrk"], "there is no profile 'wrk' (profile=); known are local", 2),
    ],
)
def test_the_command_line_tells_plans_and_settings(
    tmp_path: Path, arguments: list[str], expected: str, status: int
) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("dokrun"), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_thread_that_outlives_the_script_still_gets_its_result_or_an_error(tmp_path: Path) -> None:
    script = (
        ADD
        + """
    import concurrent.futures, threading
    first = add(1, 1)
    first.result()

    def late():
        try:
            print(add(2, 2).result())
        except BaseException as error:
            print(type(error).__name__)

    threading.Thread(target=late).start()
    """
    )
    output, errors, status = run(tmp_path, script)
    assert (output, status) in (("4\n", 0), ("CancelledError\n", 0)), errors


def test_a_proxy_in_the_environment_does_not_stand_before_this_machine(tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9"
    output, errors, status = run(
        tmp_path, ADD + "    print(add(1, 2).result())\n", HTTP_PROXY=proxy, HTTPS_PROXY=proxy, http_proxy=proxy
    )
    assert (output, status) == ("3\n", 0), errors


def test_functions_of_a_main_module_with_caches_and_relative_imports_travel(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "beside.py").write_text("THREE = 3\n")
    (package / "__main__.py").write_text(
        textwrap.dedent("""
            import functools
            import dokrun as dok

            @functools.cache
            def model():
                return object()

            @dok.remote(plan="v100-32gb", profile="local")
            def work():
                from . import beside
                return beside.THREE, model() is model()

            @dok.remote(plan="v100-32gb", profile="local")
            @functools.lru_cache(maxsize=2)
            def cached(number):
                return number

            print(work().result(), cached(7).result())
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "package"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout == "(3, True) 7\n", done.stderr


def test_a_process_that_multiprocessing_spawned_can_call_too(tmp_path: Path) -> None:
    script = (
        ADD
        + """
    import multiprocessing

    def child():
        print(add(3, 4).result(), flush=True)

    if __name__ == "__main__":
        process = multiprocessing.get_context("spawn").Process(target=child)
        process.start()
        process.join()
    """
    )
    output, errors, status = run(tmp_path, script)
    assert (output, status) == ("7\n", 0), errors
