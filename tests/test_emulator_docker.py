"""The emulator's runtime `docker`: tasks are real containers, and nothing of them stays behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from clocks import ManualClock
from containers import PASSWORD, USERNAME, CuttingEngine, image_with, private_registry, registry, slim_image
from emulated import STAYS, Lines, end_of, lines, request, send
from test_emulator import artifact_of, exit_code
from waiting import PATIENCE_S

from dokrun.api import Client, models
from dokrun.emulator import Behaviour, Emulator, reaper
from dokrun.errors import ConfigError

__all__ = ["lines"]


@pytest.fixture(scope="module")
def image() -> str:
    return slim_image()


@pytest.fixture(scope="module")
def talkative(image: str) -> Iterator[str]:
    """An image that has a program of its own."""
    own_program = ['ENTRYPOINT ["echo", "own entrypoint"]', 'CMD ["own command"]']
    with image_with(f"{registry()}/tests/talkative:1", *own_program) as name:
        yield name


@pytest.fixture(scope="module")
def dok(image: str) -> Iterator[Emulator]:
    with Emulator(behaviour=Behaviour(runtime="docker")) as dok:
        yield dok


def run(client: Client, code: str, image: str, **container: Any) -> models.Task:
    return end_of(client, client.tasks.create(request(code, image=image, **container)))


def output_of(client: Client, task: models.Task) -> bytes:
    return httpx.get(client.tasks.output_url(task.id)).content


def containers(label: str = "dokrun.emulator") -> list[str]:
    listed = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label={label}"], capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


def test_output_is_in_the_log_in_order_byte_by_byte(client: Client, image: str) -> None:
    code = "import os\nfor n in range(2000): os.write(1, b'%d\\n' % n)\nos.write(1, b'\\xff no end of line')"
    task = run(client, code, image)
    assert (task.status, exit_code(task)) == ("done", 0)
    expected = b"".join(b"%d\n" % n for n in range(2000)) + b"\xff no end of line"
    assert output_of(client, task) == expected


def test_standard_error_is_in_the_log_too(client: Client, image: str) -> None:
    assert output_of(client, run(client, "import os; os.write(2, b'oh')", image)) == b"oh"


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [("exit(3)", "error", 3), ("import ctypes; ctypes.string_at(0)", "error", 128 + signal.SIGSEGV)],
)
def test_the_exit_status_is_the_main_processs(
    client: Client, image: str, code: str, status: str, expected: int
) -> None:
    task = run(client, code, image)
    assert (task.status, exit_code(task)) == (status, expected)


def test_a_task_sees_its_image_and_its_own_environment(client: Client, image: str) -> None:
    code = "import json, os, pathlib; print(json.dumps([dict(os.environ), os.getcwd()]))"
    task = run(client, code, image, environment={"ONE": "1"})
    environment, folder = json.loads(output_of(client, task))
    assert environment["ONE"] == "1"
    assert environment["SAKURA_TASK_ID"] == task.id
    assert environment["SAKURA_ARTIFACT_DIR"] == "/opt/artifact"
    assert environment["PYTHON_VERSION"].startswith("3.11.")
    assert "DOCKER_HOST" not in environment
    assert folder == "/"


@pytest.mark.parametrize(
    ("entrypoint", "command", "expected"),
    [
        ([], [], "own entrypoint own command"),
        ([], ["given"], "own entrypoint given"),
        (["echo", "given"], ["too"], "given too"),
    ],
)
def test_where_no_program_is_named_the_images_own_runs(
    client: Client, talkative: str, entrypoint: list[str], command: list[str], expected: str
) -> None:
    task = run(client, "", talkative, entrypoint=entrypoint, command=command)
    assert output_of(client, task).decode().strip() == expected


def test_a_task_that_has_ended_leaves_no_container(client: Client, image: str) -> None:
    before = containers()
    run(client, "", image)
    assert containers() == before


def test_what_is_in_the_artifact_folder_comes_back(client: Client, image: str) -> None:
    code = "import os; open(os.environ['SAKURA_ARTIFACT_DIR'] + '/model', 'w').write('weights')"
    assert artifact_of(client, run(client, code, image)) == {"./model": b"weights"}


def test_an_image_that_cannot_be_pulled_is_an_error_and_costs_nothing(client: Client, image: str) -> None:
    task = run(client, "", image.replace("python", "no-such-image"))
    container = task.containers[0]
    assert (task.status, container.exit_code) == ("error", None)
    assert (container.start_at, container.execution_seconds) == (None, None)
    assert "the image cannot be pulled" in (task.error_message or "")


@pytest.fixture
def silent_registry() -> Iterator[socket.socket]:
    """A registry that takes requests and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        yield server


def test_a_task_that_is_cancelled_while_its_image_is_pulled_ends_at_once(
    client: Client, image: str, silent_registry: socket.socket
) -> None:
    host, port = silent_registry.getsockname()
    task = client.tasks.create(request(image=f"{host}:{port}/image:1"))
    with silent_registry.accept()[0]:
        client.tasks.cancel(task.id)
        ended = end_of(client, task)
    assert (ended.status, exit_code(ended), ended.containers[0].start_at) == ("canceled", None, None)


def test_an_emulator_that_is_closed_while_an_image_is_pulled_does_not_wait_for_it(
    image: str, silent_registry: socket.socket
) -> None:
    host, port = silent_registry.getsockname()
    dok = Emulator(behaviour=Behaviour(runtime="docker")).start()
    with Client(dok.token, dok.secret, base_url=dok.api_url) as own:
        own.tasks.create(request(image=f"{host}:{port}/image:1"))
    with silent_registry.accept()[0]:
        dok.close()


def test_a_program_that_is_not_in_the_image_is_an_error_that_names_it(client: Client, image: str) -> None:
    task = run(client, "", image, entrypoint=["/no/such/program"])
    assert (task.status, exit_code(task)) == ("error", 127)
    assert "/no/such/program" in (task.error_message or "")
    assert task.containers[0].execution_seconds is None


def test_cancelling_a_task_ends_its_container_with_all_its_processes(client: Client, image: str, lines: Lines) -> None:
    main, child = lines(STAYS), lines(STAYS)
    code = f"import os\nif os.fork(): exec({main.code!r})\nelse: os.setsid(); exec({child.code!r})"
    task = client.tasks.create(request(code, image=image))
    assert (main.hear(), child.hear()) == ("R", "R")
    client.tasks.cancel(task.id)
    assert (main.hear(), child.hear()) == ("", "")
    ended = end_of(client, task)
    assert (ended.status, exit_code(ended)) == ("canceled", 128 + signal.SIGKILL)


@pytest.mark.parametrize("heeds", [True, False])
def test_a_task_beyond_its_time_limit_is_asked_to_end_and_then_killed(image: str, lines: Lines, heeds: bool) -> None:  # noqa: FBT001 - pytest names it
    clock = ManualClock()
    # A container's main process hears only the signals that it has handlers for.
    handler = "line.sendall(b'T'); os._exit(7)" if heeds else "line.sendall(b'T')"
    line = lines(
        f"signal.signal(15, lambda *_: exec({handler!r}, globals())); line.sendall(b'R')\nwhile True: signal.pause()"
    )
    behaviour = Behaviour(runtime="docker")
    with Emulator(clock=clock, behaviour=behaviour) as dok, Client(dok.token, dok.secret, base_url=dok.api_url) as own:
        task = own.tasks.create(request(line.code, image=image))
        assert line.hear() == "R"
        clock.wait_for_sleeper(600)
        clock.pass_time(600)
        assert line.hear() == "T"
        if not heeds:
            clock.wait_for_sleeper(10)
            clock.pass_time(10)
        assert line.hear() == ""
        ended = end_of(own, task)
    assert (ended.status, exit_code(ended)) == ("aborted", 7 if heeds else 128 + signal.SIGKILL)


def test_a_closed_emulator_has_removed_its_containers(image: str, lines: Lines) -> None:
    before = containers()
    line = lines(STAYS)
    behaviour = Behaviour(runtime="docker")
    with Emulator(behaviour=behaviour) as dok, Client(dok.token, dok.secret, base_url=dok.api_url) as own:
        own.tasks.create(request(line.code, image=image))
        assert line.hear() == "R"
        assert len(containers()) == len(before) + 1
    assert line.hear() == ""
    assert containers() == before


HOST = """
import os, signal
from dokrun.api import Client, models
from dokrun.emulator import Behaviour, Emulator

dok = Emulator(behaviour=Behaviour(runtime="docker")).start()
container = models.ContainerRequest(os.environ["IMAGE"], ["-c", os.environ["CODE"]], ["python3"], "v100-32gb")
request = models.CreateTaskRequest("test", [container], [], None)
Client(dok.token, dok.secret, base_url=dok.api_url).tasks.create(request)
signal.pause()
"""


def test_nothing_is_left_of_an_emulator_whose_process_is_killed(image: str, lines: Lines, tmp_path: Path) -> None:
    before = containers()
    line = lines(STAYS)
    environment = {**os.environ, "CODE": line.code, "IMAGE": image, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", HOST], env=environment, stdout=subprocess.PIPE) as host:
        try:
            assert line.hear() == "R"
            assert len(containers()) == len(before) + 1
        finally:
            host.kill()
        assert line.hear() == ""
        host.communicate(timeout=PATIENCE_S)  # the helper holds the output as well, so this waits for both
    assert containers() == before
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cutting_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttingEngine]:
    engine = CuttingEngine()
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    yield engine
    engine.close()


@pytest.mark.usefixtures("cutting_engine")
def test_a_pull_that_is_cut_midway_is_an_error_of_the_task() -> None:
    behaviour = Behaviour(runtime="docker")
    with Emulator(behaviour=behaviour) as dok, Client(dok.token, dok.secret, base_url=dok.api_url) as own:
        task = run(own, "", "registry.invalid/image:1")
    assert task.status == "error"
    assert "the image cannot be pulled" in (task.error_message or "")


@pytest.fixture(scope="module")
def private_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with private_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="module")
def private_image(private_host: str) -> Iterator[str]:
    with image_with(f"{private_host}/team/app:1", auth={"username": USERNAME, "password": PASSWORD}) as name:
        yield name


def registered(client: Client, hostname: str, password: str = PASSWORD) -> str:
    return client.registries.create(models.RegistryRequest(hostname, USERNAME, password)).id


def test_a_private_image_is_pulled_with_what_the_account_has_registered(
    client: Client, private_host: str, private_image: str
) -> None:
    task = run(client, "print('fine')", private_image, registry=registered(client, private_host))
    assert (task.status, output_of(client, task)) == ("done", b"fine\n")


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_private_image_is_not_pulled_without_its_password_or_with_a_wrong_one(
    client: Client, private_host: str, private_image: str, password: str | None
) -> None:
    registry = None if password is None else registered(client, private_host, password)
    task = run(client, "", private_image, registry=registry)
    assert (task.status, exit_code(task)) == ("error", None)
    assert "the image cannot be pulled" in (task.error_message or "")
    assert "wrong" not in (task.error_message or "")


@pytest.mark.parametrize(
    ("hostname", "image", "knows"),
    [
        ("r.example", "r.example/app:1", True),
        ("docker.io", "team/app", True),
        ("r.example", "other.example/app:1", False),
        (None, "r.example/app:1", False),
    ],
)
def test_a_registry_is_told_only_what_was_registered_for_it_and_nothing_of_this_machines_login(
    cutting_engine: CuttingEngine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    hostname: str | None,
    image: str,
    *,
    knows: bool,
) -> None:
    login = {"auths": {"r.example": {"auth": "bG9jYWw6bG9naW4="}, "other.example": {"auth": "bG9jYWw6bG9naW4="}}}
    (tmp_path / "config.json").write_text(json.dumps(login))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    behaviour = Behaviour(runtime="docker")
    with Emulator(behaviour=behaviour) as dok, Client(dok.token, dok.secret, base_url=dok.api_url) as own:
        run(own, "", image, registry=None if hostname is None else registered(own, hostname))
    assert cutting_engine.told == [{"username": USERNAME, "password": PASSWORD} if knows else {}]


def test_a_registrys_password_is_in_no_answer_and_no_file_and_gone_after_a_restart(
    cutting_engine: CuttingEngine, tmp_path: Path
) -> None:
    behaviour = Behaviour(runtime="docker")
    with Emulator(data=tmp_path, behaviour=behaviour) as dok:
        with Client(dok.token, dok.secret, base_url=dok.api_url) as own:
            identity = registered(own, "r.example")
        listed = send(dok, "GET", "/registries/").text + send(dok, "GET", f"/registries/{identity}/").text
    assert USERNAME in listed
    assert PASSWORD not in listed
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert USERNAME.encode() in kept
    assert PASSWORD.encode() not in kept
    with (
        Emulator(data=tmp_path, behaviour=behaviour) as dok,
        Client(dok.token, dok.secret, base_url=dok.api_url) as own,
    ):
        task = run(own, "", "r.example/app:1", registry=identity)
        assert "keeps passwords only while it runs; register it again" in (task.error_message or "")
        own.registries.update(identity, models.RegistryRequest("r.example", USERNAME, "another"))
        run(own, "", "r.example/app:1", registry=identity)
    assert cutting_engine.told == [{"username": USERNAME, "password": "another"}]


def test_the_helper_removes_the_folder_whatever_the_engine_answers(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "engine"))
        engine.listen()
        engine.settimeout(PATIENCE_S)
        with subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, str(folder), f"unix://{tmp_path}/engine", "label=1"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as helper:
            assert helper.stdin is not None
            helper.stdin.close()
            with engine.accept()[0] as connection:
                connection.sendall(b"no HTTP\r\n\r\n")
                helper.wait(PATIENCE_S)
    assert not folder.exists()


def test_without_an_engine_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(ConfigError, match=r"no Docker engine answers at .*start Docker or set DOCKER_HOST"):
        Emulator(behaviour=Behaviour(runtime="docker"))


def test_the_command_without_an_engine_is_a_line_with_its_page_and_status_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("dokrun"), "emulator", "--runtime", "docker"],
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/docker.sock"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 2  # the second names the page
    assert "no Docker engine answers" in done.stderr


def test_a_wrong_runtime_names_both() -> None:
    with pytest.raises(ValueError, match="'podman' is not one of process, docker"):
        Behaviour(runtime="podman")
    with pytest.raises(ValueError, match="are for runtime='docker'"):
        Behaviour(memory_bytes=1 << 30)
