"""The whole road in real containers: the client here, the shim and the user's function in an image that has Python."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import contained
import contained_disk
import httpx
import pytest
from conftest import point_at
from containers import image_with, registry, slim_image

import dokrun as dok
from dokrun import engine
from dokrun.api import Client
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.archive import extract_own
from dokrun.image import container
from dokrun.payload import pyz, shim
from dokrun.shim import protocol

PATIENCE_S = 100.0
MEMORY_BYTES = 256 << 20
USER = 1000

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the image has Python 3.11, which reads no other version's pickles"
)


@pytest.fixture(scope="module")
def image() -> str:
    return slim_image()


@pytest.fixture(scope="module")
def ordinary_user(image: str) -> Iterator[str]:
    """An image in which everything runs as somebody who is not root and has no home."""
    with image_with(f"{registry()}/tests/ordinary-user", f"USER {USER}") as name:
        yield name


@pytest.fixture(scope="module")
def dok_in_docker(image: str) -> Iterator[Emulator]:
    with Emulator(behaviour=Behaviour(runtime="docker")) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def strict_dok(image: str) -> Iterator[Emulator]:
    """DOK whose containers have little memory and cannot write to their root."""
    behaviour = Behaviour(runtime="docker", memory_bytes=MEMORY_BYTES, read_only_root=True)
    with Emulator(behaviour=behaviour) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def small_disk(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """DOK whose containers share a disk of 1 MiB for their artifact folders."""
    disk = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(disk))
            emulator = Emulator(behaviour=Behaviour(runtime="docker"), data=tmp_path_factory.mktemp("data"))
        with emulator:
            yield emulator
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def small_road(
    small_disk: Emulator, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    point_at(monkeypatch, small_disk, store, tmp_path)
    yield
    engine.reset()


@pytest.fixture
def road(
    dok_in_docker: Emulator, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """An account of this DOK, with a bucket."""
    point_at(monkeypatch, dok_in_docker, store, tmp_path)
    yield monkeypatch
    engine.reset()


@pytest.fixture
def strict_road(
    strict_dok: Emulator, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    point_at(monkeypatch, strict_dok, store, tmp_path)
    yield
    engine.reset()


def failure(future: dok.Future[Any]) -> BaseException:
    error = future.exception(timeout=PATIENCE_S)
    assert error is not None
    return error


def test_a_value_comes_back_from_the_images_own_python(road: pytest.MonkeyPatch, image: str) -> None:
    version, _, artifact_dir = contained.whereabouts.options(image=image)().result(timeout=PATIENCE_S)
    assert version.startswith("3.11.")
    assert artifact_dir == "/opt/artifact"


def test_a_small_call_needs_no_bucket(road: pytest.MonkeyPatch, image: str) -> None:
    for name in ("DOKRUN_BUCKET", "DOKRUN_S3_ENDPOINT_URL", "DOKRUN_S3_ACCESS_KEY_ID", "DOKRUN_S3_SECRET_ACCESS_KEY"):
        road.delenv(name)
    assert contained.add.options(image=image)(2, 3).result(timeout=PATIENCE_S) == 5


def test_a_large_argument_and_result_travel(road: pytest.MonkeyPatch, image: str) -> None:
    data = bytes(range(256)) * (32 << 10)
    assert contained.double.options(image=image)(data).result(timeout=PATIENCE_S) == data + data


def test_a_result_of_a_gibibyte_comes_back(road: pytest.MonkeyPatch, image: str) -> None:
    data = contained_disk.large.options(image=image)(1 << 30).result(timeout=PATIENCE_S)
    view = memoryview(data)
    assert view.nbytes == 1 << 30
    assert bytes(view[-(1 << 20) :]) == bytes(range(256)) * 4096, "its digest was compared, so this is enough"


@pytest.mark.usefixtures("small_road")
def test_what_a_function_raises_when_it_has_filled_the_disk_is_told(image: str) -> None:
    error = failure(contained_disk.save_too_much.options(image=image)())
    assert isinstance(error, dok.ResultNotWritten)
    assert error.ran == "yes"
    assert "the function raised OSError: [Errno 28] No space left on device" in str(error)


@pytest.mark.usefixtures("small_road")
def test_a_result_for_which_the_disk_has_no_room_is_told_as_such(image: str) -> None:
    error = failure(contained_disk.return_on_a_full_disk.options(image=image)())
    assert isinstance(error, dok.ResultNotWritten)
    assert error.ran == "yes"
    assert "the function ended, but its result could not be written: No space left on device" in str(error)


@pytest.mark.usefixtures("small_road")
def test_a_function_that_makes_room_again_loses_nothing(image: str) -> None:
    assert contained_disk.make_room_again.options(image=image)().result(timeout=PATIENCE_S) == "done"


def test_an_exception_comes_back_as_itself(road: pytest.MonkeyPatch, image: str) -> None:
    error = failure(contained.refuse.options(image=image)(7))
    assert isinstance(error, contained.Refusal)
    assert error.code == 7
    assert "in refuse" in "".join(traceback.format_exception(error))


def test_what_is_printed_comes_in_order(road: pytest.MonkeyPatch, image: str, dok_in_docker: Emulator) -> None:
    future = contained.talk.options(image=image)()
    future.result(timeout=PATIENCE_S)
    with Client(dok_in_docker.token, dok_in_docker.secret, base_url=dok_in_docker.api_url) as client:
        output = httpx.get(client.tasks.output_url(str(future.task_id))).text
    assert "one\ntwo and three\nfour\nfive\n" in output


def test_sys_exit_is_told_as_an_exit(road: pytest.MonkeyPatch, image: str) -> None:
    error = failure(contained.exit_with.options(image=image)(3))
    assert isinstance(error, dok.WorkerDied)
    assert (error.ran, error.exit_code, error.signal) == ("yes", 3, None)


def test_a_crash_is_told_with_its_signal(road: pytest.MonkeyPatch, image: str) -> None:
    error = failure(contained.crash.options(image=image)())
    assert isinstance(error, dok.WorkerDied)
    assert (error.ran, error.exit_code, error.signal) == ("yes", None, signal.SIGSEGV)


@pytest.mark.parametrize("function", [contained.sleep, contained.keep_the_lock], ids=["sleeps", "keeps the GIL"])
def test_a_call_ends_at_its_timeout_which_may_be_shorter_than_doks(
    road: pytest.MonkeyPatch, image: str, function: Any
) -> None:
    error = failure(function.options(image=image, timeout=8)(600))
    assert isinstance(error, dok.CallTimeout)
    assert error.ran == "yes"


def test_files_come_back(road: pytest.MonkeyPatch, image: str, tmp_path: Path) -> None:
    future = contained.leave_files.options(image=image)()
    future.result(timeout=PATIENCE_S)
    assert sorted(file.name for file in future.files()) == ["deep/model.bin", "notes.txt"]
    future.download(tmp_path / "here")
    assert (tmp_path / "here" / "deep" / "model.bin").read_bytes() == b"weights"
    assert (tmp_path / "here" / "notes.txt").read_text() == "fine"


def test_an_ordinary_user_runs_a_call_and_leaves_files(
    road: pytest.MonkeyPatch, ordinary_user: str, tmp_path: Path
) -> None:
    assert contained.whereabouts.options(image=ordinary_user)().result(timeout=PATIENCE_S)[1] == USER
    future = contained.leave_files.options(image=ordinary_user)()
    future.result(timeout=PATIENCE_S)
    future.download(tmp_path / "here")
    assert (tmp_path / "here" / "notes.txt").read_text() == "fine"


@pytest.mark.usefixtures("strict_road")
@pytest.mark.parametrize("user", ["root", "ordinary"])
def test_with_a_read_only_root_a_call_runs_as_any_user(image: str, ordinary_user: str, user: str) -> None:
    function = contained.try_to_write.options(image=image if user == "root" else ordinary_user)
    assert function().result(timeout=PATIENCE_S) == {"/usr": False, "/tmp": True, "/opt/artifact": True}


@pytest.mark.usefixtures("strict_road")
def test_want_of_memory_is_told_as_such(image: str) -> None:
    error = failure(contained.use_memory.options(image=image)(4 * MEMORY_BYTES))
    assert isinstance(error, dok.OutOfMemory)
    assert (error.ran, error.signal) == ("yes", signal.SIGKILL)


@pytest.mark.usefixtures("strict_road")
def test_a_kill_for_another_reason_is_not_taken_for_want_of_memory(image: str) -> None:
    error = failure(contained.kill_myself.options(image=image)())
    assert type(error) is dok.WorkerDied
    assert (error.ran, error.signal) == ("yes", signal.SIGKILL)


def test_an_image_is_built_once_pinned_by_digest_and_found_again_without_an_engine(
    road: pytest.MonkeyPatch, dok_in_docker: Emulator, image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    road.setenv("DOKRUN_REGISTRY", f"{registry()}/tests")
    (tmp_path / "data.txt").write_text(f"from {tmp_path}")  # another content for each run, so that it is built
    built = dok.Image.from_registry(image).env(MADE="in the image").copy(tmp_path / "data.txt", "/srv/")
    first = contained.read.options(image=built)("/srv/data.txt")
    assert first.result(PATIENCE_S) == (f"from {tmp_path}", "in the image")
    assert "Step 1/" in capfd.readouterr().err, "whoever waits for a build sees it"
    engine.reset()
    road.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    again = contained.read.options(image=built)("/srv/data.txt")
    assert again.result(PATIENCE_S) == (f"from {tmp_path}", "in the image")
    with Client(dok_in_docker.token, dok_in_docker.secret, base_url=dok_in_docker.api_url) as client:
        used = {client.tasks.get(str(future.task_id)).containers[0].image for future in (first, again)}
    assert len(used) == 1
    assert used.pop().startswith(f"{registry()}/tests/dokrun@sha256:")


@pytest.mark.usefixtures("road")
def test_an_image_that_tells_of_another_python_is_refused_before_anything_is_submitted(dok_in_docker: Emulator) -> None:
    with (
        image_with(f"{registry()}/tests/other-python:1", "ENV PYTHON_VERSION=3.9.1") as name,
        Client(dok_in_docker.token, dok_in_docker.secret, base_url=dok_in_docker.api_url) as client,
    ):
        before = client.tasks.list().meta.count
        with pytest.raises(dok.VersionMismatch, match=r"has Python 3\.9\.1.*debian_slim\(\"3\.11\"\)") as caught:
            contained.add.options(image=name)(1, 2).result(PATIENCE_S)
        assert caught.value.ran == "no"
        assert client.tasks.list().meta.count == before


@pytest.mark.parametrize("baked", [True, False], ids=["the same bytes", "another version's"])
def test_a_baked_shim_is_used_if_it_is_the_right_one_and_passed_over_if_not(
    image: str, tmp_path: Path, *, baked: bool
) -> None:
    data = pyz.build(with_code=True).data
    # What the command would have to fetch is not there, so it can only run what the image has.
    status = container.run(
        image,
        entrypoint=shim.ENTRYPOINT,
        command=shim.command("no payload", {"shim": "http://127.0.0.1:1/shim"}),
        environment={"SAKURA_ARTIFACT_DIR": "/opt/artifact"},
        given={shim.BAKED_PATH: data if baked else data[:-1]},
        left="/opt/artifact",
        archive=tmp_path / "artifact.tar.gz",
        progress=print,
    )
    (tmp_path / "out").mkdir()
    with (tmp_path / "artifact.tar.gz").open("rb") as archive:
        extract_own(archive, tmp_path / "out")
    assert (status == 0) is baked
    assert (tmp_path / "out" / protocol.MANIFEST).exists() is baked


@pytest.mark.usefixtures("road")
def test_an_image_without_python_is_told_as_such() -> None:
    with (
        image_with(f"{registry()}/tests/no-python:1", "RUN rm -f /usr/bin/python3*") as name,
        pytest.raises(dok.TaskFailed, match=r"exit status 127.*its image has no Python") as caught,
    ):
        contained.add.options(image=name)(1, 2).result(PATIENCE_S)
    assert caught.value.ran == "no"
