"""A rehearsal finds here, for nothing, what would fail on a GPU: the import, the pickle, the exception."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import sysconfig
import textwrap
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker  # type: ignore[import-untyped]
import pytest
from containers import registry, slim_image

import dokrun as dok
from dokrun.api import Client

pytestmark = pytest.mark.usefixtures("account")


@dok.remote(plan="h100-80gb", env={"TOLD": "by the call"})
def look(value: Any) -> tuple[Any, str, str, str | None]:
    print("looking", flush=True)
    return value, str(Path.cwd()), os.environ["TOLD"], os.environ.get("DOKRUN_BUCKET")


@dok.remote(plan="h100-80gb")
def fail(message: str) -> None:
    raise LookupError(message)


@dok.remote(plan="h100-80gb")
def exit_with(status: int) -> None:
    os._exit(status)


@dok.remote(plan="h100-80gb", timeout=0.5)
def stay() -> None:
    threading.Event().wait()


def test_a_rehearsal_returns_the_value_prints_here_and_creates_no_task(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    before = client.tasks.list().meta.count
    value, folder, told, bucket = look.rehearse({"large": bytes(3_000_000)})
    assert value == {"large": bytes(3_000_000)}
    assert folder != str(Path.cwd())
    assert (told, bucket) == ("by the call", None), "the client's own environment stays here"
    assert capsys.readouterr().out == "looking\n"
    assert client.tasks.list().meta.count == before


def test_a_rehearsal_raises_what_the_function_raises_with_the_traceback_there() -> None:
    with pytest.raises(LookupError, match="missing") as caught:
        fail.rehearse("missing")
    assert "in fail" in str(caught.value.__cause__)


def test_a_rehearsal_that_dies_or_stays_too_long_is_told_as_on_a_gpu() -> None:
    with pytest.raises(dok.WorkerDied, match="exit status 7"):
        exit_with.rehearse(7)
    with pytest.raises(dok.CallTimeout):
        stay.rehearse()


@dok.remote(plan="h100-80gb")
def kill_the_supervisor() -> None:
    supervisor = os.getppid()
    os.kill(supervisor, signal.SIGKILL)
    while os.getppid() == supervisor:
        pass


def test_a_rehearsal_without_an_outcome_may_have_run() -> None:
    with pytest.raises(dok.TaskFailed, match="exit status -9") as caught:
        kill_the_supervisor.rehearse()
    assert caught.value.ran == "maybe"


@dok.remote(plan="h100-80gb")
def leave_a_daemon(pipe: str) -> int:
    print("leaving", flush=True)
    return subprocess.Popen(["/bin/cat", pipe], start_new_session=True).pid


def test_a_rehearsal_does_not_wait_for_a_daemon_that_holds_its_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    daemon = leave_a_daemon.rehearse(str(tmp_path / "pipe"))
    os.kill(daemon, signal.SIGKILL)
    assert capsys.readouterr().out == "leaving\n"


def test_arguments_that_do_not_fit_or_cannot_be_pickled_are_refused_before_anything_runs() -> None:
    with pytest.raises(dok.OptionError, match="missing a required argument"):
        look.rehearse()  # type: ignore[call-arg]
    with pytest.raises(dok.NotSerializable, match="argument value"):
        look.rehearse(threading.Lock())


def test_a_rehearsal_finds_what_is_imported_from_a_folder_that_does_not_travel(tmp_path: Path) -> None:
    (tmp_path / "hidden.py").write_text("ONE = 1\n")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import importlib
            import dokrun as dok

            @dok.remote(plan="v100-32gb", profile="local")
            def work():
                return importlib.import_module("hid" + "den").ONE

            assert work.local() == 1
            try:
                work.rehearse()
            except ModuleNotFoundError as error:
                print(error)
        """)
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "No module named 'hidden'\n", done.stderr


def test_a_rehearsal_finds_what_the_user_has_installed_for_themselves(tmp_path: Path) -> None:
    # The one below the virtual environment, which has no such folder.
    interpreter = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(Path(dok.__file__).parents[1]), sysconfig.get_path("platlib")]),
    }
    ask = [interpreter, "-c", "import site; print(site.getusersitepackages())"]
    folder = Path(subprocess.run(ask, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    folder.mkdir(parents=True)
    (folder / "installed.py").write_text("ONE = 1\n")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import importlib
            import dokrun as dok

            @dok.remote(plan="v100-32gb", profile="local")
            def work():
                return importlib.import_module("installed").ONE

            print(work.rehearse())
        """)
    )
    done = subprocess.run(
        [interpreter, str(script)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "1\n", done.stderr


def where() -> tuple[str, int, bool]:
    """Say where this runs; it travels by value, since its module imports what a bare image has not."""
    print("in the container", flush=True)
    (dok.artifact_dir() / "left").write_text("anybody may")
    return platform.python_version(), os.getuid(), Path("/opt/dokrun-payload").exists()


def by_value(image: str) -> dok.RemoteFunction[[], tuple[str, int, bool]]:
    copied = types.FunctionType(where.__code__, {"dok": dok, "os": os, "platform": platform, "Path": Path}, "where")
    copied.__module__ = "__main__"
    return dok.remote(plan="h100-80gb", image=image)(copied)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="Debian's Python, which the image has, is 3.11")
def test_a_rehearsal_in_a_container_runs_in_the_calls_own_image(capsys: pytest.CaptureFixture[str]) -> None:
    version, user, contained = by_value(slim_image()).rehearse.in_container()
    assert version.startswith("3.11.")
    assert (user, contained) == (0, True)
    assert capsys.readouterr().out == "in the container\n"
    assert not Path("/opt/dokrun-payload").exists(), "nothing of it is on this machine"


def test_a_rehearsal_in_a_container_of_another_image_says_so() -> None:
    with pytest.raises(dok.ImageError, match="no-such-image"):
        by_value(f"{registry()}/no-such-image:1").rehearse.in_container()


def test_a_rehearsal_in_a_container_asks_nothing_of_dok_and_says_that_it_needs_an_engine(
    account: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"r.invalid": {"auth": "YW5uOmh1bnRlcjI="}}}')
    account.setenv("DOCKER_CONFIG", str(tmp_path))
    account.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    account.setenv("DOKRUN_API_URL", "http://127.0.0.1:1")
    with pytest.raises(dok.ImageError, match=r"no Docker engine answers: start Docker .*rehearse\(…\).* needs none"):
        by_value("r.invalid/app:1").rehearse.in_container()


STAYING = """
    import socket, threading
    import dokrun as dok

    @dok.remote(plan="v100-32gb", profile="local", image={image!r})
    def stay():
        print("staying in " + socket.gethostname() + "\\n", end="", flush=True)
        threading.Event().wait()

    try:
        stay.rehearse.in_container()
    except dok.ImageError as error:
        print(error)
"""


@contextlib.contextmanager
def staying(folder: Path, engine: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a client whose call stays in its container; tell the client and the container, which must go away."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(STAYING.format(image=slim_image())))
    environment = {**os.environ, "DOCKER_HOST": engine or os.environ["DOCKER_HOST"]}
    with (
        contextlib.closing(docker.from_env().api) as api,
        subprocess.Popen(
            [sys.executable, "-u", str(script)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as client,
    ):
        assert client.stdout is not None
        container = client.stdout.readline().split()[-1]
        yield client, container
        with contextlib.suppress(docker.errors.NotFound):
            api.wait(container, condition="removed", timeout=30)
        with pytest.raises(docker.errors.NotFound):
            api.inspect_container(container)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="Debian's Python, which the image has, is 3.11")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_container_of_a_rehearsal_outlives_the_client(number: signal.Signals, tmp_path: Path) -> None:
    with staying(tmp_path) as (client, container), contextlib.closing(docker.from_env().api) as api:
        assert api.inspect_container(container)["State"]["Running"]
        client.send_signal(number)


class Proxy:
    """Stands before the engine, and hangs up on everybody when the engine says a word."""

    def __init__(self, path: Path, engine: str, word: bytes) -> None:
        self._engine = engine.removeprefix("unix://")
        self._word = word
        self._lock = threading.Lock()
        self._ended = False
        self._open: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self.address = f"unix://{path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                with self._lock:
                    if self._ended:
                        client.close()
                        return
                    engine = socket.socket(socket.AF_UNIX)
                    engine.connect(self._engine)
                    self._open += [client, engine]
                for source, target, word in ((client, engine, None), (engine, client, self._word)):
                    threading.Thread(target=self._pump, args=(source, target, word), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, word: bytes | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                if word is not None and word in data:
                    self.close()
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with self._lock:
            self._ended = True
            for one in (self._server, *self._open):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="Debian's Python, which the image has, is 3.11")
def test_an_engine_that_is_lost_while_a_rehearsal_runs_is_told_as_that_and_leaves_no_container(tmp_path: Path) -> None:
    image = slim_image()
    proxy = Proxy(tmp_path / "socket", os.environ["DOCKER_HOST"], b"staying in ")
    with contextlib.closing(proxy), staying(tmp_path, proxy.address) as (client, _):
        assert client.stdout is not None
        told = client.stdout.read()
        assert f"{image} was lost while it ran: the Docker engine" in told
        assert "docker info" in told
