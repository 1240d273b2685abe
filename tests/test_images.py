"""From an image to what a task names: what is looked up, what is built, and who may pull it."""

from __future__ import annotations

import base64
import inspect
import io
import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from containers import registry as real_registry
from containers import slim_image
from registries import Answer, FakeRegistry, sha256
from typer.testing import CliRunner

from dokrun import errors
from dokrun.api import Client
from dokrun.api.models import RegistryRequest
from dokrun.cli.registry import registry as command
from dokrun.config import RegistrySettings, Settings
from dokrun.emulator import Emulator
from dokrun.emulator.faults import Fault
from dokrun.engine.engine import Engine
from dokrun.engine.images import Images, default_image
from dokrun.engine.target import Target
from dokrun.image.context import fingerprint
from dokrun.image.reference import Reference
from dokrun.image.registry import Registry
from dokrun.image.spec import Image
from dokrun.options import Options
from dokrun.secret import Secret

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
SECRET = "hunter2-pass"
DAY_S = 86400.0


def published(python: str = f"{HERE}.1") -> tuple[bytes, bytes]:
    """Make the manifest and the configuration of an image that has a Python."""
    configuration = json.dumps({"config": {"Env": [f"PYTHON_VERSION={python}"]}}).encode()
    return json.dumps({"config": {"digest": sha256(configuration)}}).encode(), configuration


def publish(fake: FakeRegistry, name: str, tag: str, python: str = f"{HERE}.1") -> str:
    manifest, configuration = published(python)
    digest = sha256(manifest)
    answer = Answer(body=manifest, headers={"Docker-Content-Digest": digest})
    fake.answers[f"/v2/{name}/manifests/{tag}"] = fake.answers[f"/v2/{name}/manifests/{digest}"] = answer
    fake.answers[f"/v2/{name}/blobs/{sha256(configuration)}"] = Answer(body=configuration)
    return digest


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    fake = FakeRegistry()
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def docker_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep Docker's configuration of whoever runs the tests out of them."""
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the container engine away."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")


def settings_of(folder: Path, **values: Any) -> Settings:
    return Settings("test", state_dir=folder / "state", **values)


def kept_at(host: str, **values: Any) -> RegistrySettings:
    return RegistrySettings(f"{host}/team", **values)


# --- what needs no look


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        (None, default_image()),
        ("r.invalid/a:1", "r.invalid/a:1"),
        (Image.from_registry("r.invalid/a").run("x"), "r.invalid/a"),
    ],
)
def test_where_tasks_are_processes_no_image_is_looked_at(
    image: Image | str | None, reference: str, client: Client, tmp_path: Path
) -> None:
    known = Images(settings_of(tmp_path, uses_images=False), client).known(image)
    assert known is not None
    assert (known.reference, known.registry_id) == (reference, None)


def test_the_default_image_needs_no_look_and_comes_from_the_mirror_where_there_is_one(
    client: Client, tmp_path: Path
) -> None:
    plain = Images(settings_of(tmp_path), client).known(None)
    mirrored = Images(settings_of(tmp_path, hub_mirror="127.0.0.1:1"), client).known(None)
    assert plain is not None
    assert mirrored is not None
    assert plain.reference == f"docker.io/library/python:{HERE}-slim"
    assert mirrored.reference == f"127.0.0.1:1/library/python:{HERE}-slim"


# --- used as it is


def test_a_plain_image_is_used_as_it_is_and_looked_at_once(
    fake: FakeRegistry, client: Client, tmp_path: Path, no_engine: None
) -> None:
    publish(fake, "team/app", "1")
    images = Images(settings_of(tmp_path), client)
    name = f"{fake.host}/team/app:1"
    assert images.known(name) is None
    ready = images.ready(name)
    assert (ready.reference, ready.registry_id, ready.python) == (name, None, f"{HERE}.1")
    asked = len(fake.asked)
    assert images.known(name) is images.ready(name) is ready
    assert len(fake.asked) == asked > 0


def test_the_official_image_comes_from_the_mirror_and_nobody_elses_does(
    fake: FakeRegistry, client: Client, tmp_path: Path
) -> None:
    publish(fake, "library/python", f"{HERE}-slim")
    images = Images(settings_of(tmp_path, hub_mirror=fake.host), client)
    assert images.ready(Image.debian_slim()).reference == f"{fake.host}/library/python:{HERE}-slim"
    other = Image.from_registry("127.0.0.1:1/library/python:3.11-slim")
    assert images.ready(other).reference == "127.0.0.1:1/library/python:3.11-slim"


def test_a_look_that_fails_does_not_fail_the_call(fake: FakeRegistry, client: Client, tmp_path: Path) -> None:
    fake.answers["/v2/team/app/manifests/1"] = Answer(500)
    ready = Images(settings_of(tmp_path), client).ready(f"{fake.host}/team/app:1")
    assert ready.python is None
    assert len(fake.asked) == 1


def test_what_is_no_images_name_is_refused(client: Client, tmp_path: Path) -> None:
    with pytest.raises(errors.ImageError, match="not the name of an image"):
        Images(settings_of(tmp_path), client).ready("No Image")


@pytest.mark.parametrize("name", ["team/none:1", "team/app:none"])
def test_a_plain_image_that_its_registry_does_not_have_is_refused(
    name: str, fake: FakeRegistry, client: Client, tmp_path: Path
) -> None:
    publish(fake, "team/app", "1")
    images = Images(settings_of(tmp_path), client)
    for image in (f"{fake.host}/{name}", Image.from_registry(f"{fake.host}/{name}")):
        with pytest.raises(errors.ImageError, match=f"there is no image {fake.host}/{name}; check its name and tag"):
            images.ready(image)


def test_docker_hubs_word_that_there_is_no_image_is_taken_though_dok_has_credentials(
    account: Client, tmp_path: Path
) -> None:
    account.registries.create(RegistryRequest("docker.io", "ann", SECRET))
    images = Images(settings_of(tmp_path), account, registries=registries(lambda _: httpx.Response(404)))
    with pytest.raises(errors.ImageError, match=rf"no image docker\.io/library/python:{HERE}\.99-slim; check its name"):
        images.ready(Image.debian_slim(f"{HERE}.99"))


def test_an_image_that_is_not_there_with_our_credentials_is_not_there(
    account: Client, tmp_path: Path, docker_folder: Path
) -> None:
    log_in(docker_folder, "r.example")
    account.registries.create(RegistryRequest("r.example", "ann", SECRET))

    def missing(request: httpx.Request) -> httpx.Response:
        answer = private(request)
        return answer if answer.status_code == 401 else httpx.Response(404)

    images = Images(settings_of(tmp_path), account, registries=registries(missing))
    with pytest.raises(errors.ImageError, match=r"there is no image r\.example/app:1; check its name and tag"):
        images.ready("r.example/app:1")


@pytest.mark.parametrize(
    "steps", [pytest.param([], id="cell_image_vm-plain"), pytest.param(["true"], id="cell_image_vm-built")]
)
def test_another_python_is_refused_with_both_versions_and_the_line_to_change(
    steps: list[str], fake: FakeRegistry, client: Client, tmp_path: Path
) -> None:
    publish(fake, "team/app", "1", python="3.7.4")
    images = Images(settings_of(tmp_path, registry=kept_at(fake.host)), client)
    name = f"{fake.host}/team/app:1"
    image = Image.from_registry(name).run(*steps) if steps else name
    for _ in range(2):
        with pytest.raises(errors.VersionMismatch) as caught:
            images.ready(image)
        assert caught.value.ran == "no"
        for word in ("3.7.4", f'image=dok.Image.debian_slim("{HERE}")', name):
            assert word in str(caught.value)


def test_whoever_pickles_nothing_may_have_any_python_and_others_still_may_not(
    fake: FakeRegistry, client: Client, tmp_path: Path
) -> None:
    publish(fake, "team/app", "1", python="3.7.4")
    images, name = Images(settings_of(tmp_path), client), f"{fake.host}/team/app:1"
    assert images.ready(name, any_python=True).reference == name
    with pytest.raises(errors.VersionMismatch):
        images.ready(name)


# --- built


def built_already(fake: FakeRegistry, image: Image, base_digest: str) -> str:
    return publish(fake, "team/dokrun", fingerprint(image, {image.base or "": base_digest})[:40])


def test_an_image_that_is_there_is_pinned_without_an_engine(
    fake: FakeRegistry, client: Client, tmp_path: Path, no_engine: None
) -> None:
    image = Image.debian_slim().env(A="1")
    base = publish(fake, "library/python", f"{HERE}-slim")
    digest = built_already(fake, image, base)
    settings = settings_of(tmp_path, registry=kept_at(fake.host), hub_mirror=fake.host)
    ready = Images(settings, client).ready(image)
    assert ready.reference == f"{fake.host}/team/dokrun@{digest}"
    assert ready.python == f"{HERE}.1"


def test_that_an_image_is_there_takes_one_request_for_a_day(
    fake: FakeRegistry, client: Client, tmp_path: Path, no_engine: None
) -> None:
    image = Image.debian_slim().env(A="1")
    built_already(fake, image, publish(fake, "library/python", f"{HERE}-slim"))
    settings = settings_of(tmp_path, registry=kept_at(fake.host), hub_mirror=fake.host)
    counts = []
    for now in (0.0, DAY_S - 1, DAY_S):
        fake.asked.clear()
        Images(settings, client, now=iter([1e9 + now] * 9).__next__).ready(image)
        counts.append([asked.path.split("/")[-3] for asked in fake.asked if asked.method == "HEAD"])
        if now == DAY_S - 1:
            assert len(fake.asked) == 1
    assert counts == [["python", "dokrun"], ["dokrun"], ["python", "dokrun"]]
    kept = tmp_path / "state" / "images.json"
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(content, id=f"cell_image_to-{number}")
        for number, content in enumerate(("", "[]", '{"digests": 3}', '{"digests": {"a": 1}}', "[" * 100_000))
    ],
)
def test_what_was_kept_and_cannot_be_read_is_looked_up_again(
    content: str, fake: FakeRegistry, client: Client, tmp_path: Path, no_engine: None
) -> None:
    image = Image.debian_slim().env(A="1")
    built_already(fake, image, publish(fake, "library/python", f"{HERE}-slim"))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "images.json").write_text(content)
    settings = settings_of(tmp_path, registry=kept_at(fake.host), hub_mirror=fake.host)
    assert "@sha256:" in Images(settings, client).ready(image).reference


def test_an_image_to_build_needs_a_registry_to_keep_it(client: Client, tmp_path: Path) -> None:
    with pytest.raises(errors.ImageError, match=r"DOKRUN_REGISTRY.*\[registry\]"):
        Images(settings_of(tmp_path), client).ready(Image.debian_slim().run("true"))


def test_a_base_that_does_not_exist_is_named(fake: FakeRegistry, client: Client, tmp_path: Path) -> None:
    images = Images(settings_of(tmp_path, registry=kept_at(fake.host)), client)
    with pytest.raises(errors.ImageError, match=rf"there is no image {fake.host}/none:1 to build on"):
        images.ready(Image.from_registry(f"{fake.host}/none:1").run("true"))


def from_text(folder: Path, text: str) -> Image:
    folder.mkdir()
    (folder / "Dockerfile").write_text(text)
    return Image.from_dockerfile(folder / "Dockerfile")


def test_a_dockerfiles_own_bases_are_in_the_images_name_by_what_they_are_today(
    fake: FakeRegistry, client: Client, tmp_path: Path, no_engine: None
) -> None:
    image = from_text(
        tmp_path / "folder", f"FROM {fake.host}/base:1 AS a\nFROM a\nCOPY --from={fake.host}/tools:1 /a /\n"
    )
    settings = settings_of(tmp_path, registry=kept_at(fake.host))
    named: list[str] = []
    for python in ("3.1.1", "3.1.2"):
        digests = {f"{fake.host}/{name}:1": publish(fake, name, "1", python) for name in ("base", "tools")}
        named.append(publish(fake, "team/dokrun", fingerprint(image, digests)[:40], f"{HERE}.{len(named)}"))
        (tmp_path / "state" / "images.json").unlink(missing_ok=True)
        assert Images(settings, client).ready(image).reference == f"{fake.host}/team/dokrun@{named[-1]}"
    assert len(set(named)) == 2
    publish(fake, "tools", "1", "3.1.3")
    (tmp_path / "state" / "images.json").unlink()
    with pytest.raises(errors.ImageError, match="no Docker engine"):
        Images(settings, client).ready(image)


def test_a_dockerfiles_base_that_does_not_exist_is_named(fake: FakeRegistry, client: Client, tmp_path: Path) -> None:
    image = from_text(tmp_path / "folder", f"FROM {fake.host}/none:1\n")
    images = Images(settings_of(tmp_path, registry=kept_at(fake.host)), client)
    with pytest.raises(
        errors.ImageError, match=rf"there is no image {fake.host}/none:1 to build on; check its name and"
    ):
        images.ready(image)


def test_a_dockerfile_for_buildkit_is_refused_before_anything_is_asked(
    fake: FakeRegistry, client: Client, tmp_path: Path
) -> None:
    image = from_text(tmp_path / "folder", f"FROM {fake.host}/base:1\nRUN --mount=type=cache,target=/x true\n")
    images = Images(settings_of(tmp_path, registry=kept_at(fake.host)), client)
    with pytest.raises(errors.ImageError, match=r"RUN --mount, which only BuildKit .*`docker build.*from_registry"):
        images.ready(image)
    assert fake.asked == []


def test_a_build_that_failed_is_tried_again_with_the_base_looked_up_anew(
    fake: FakeRegistry, client: Client, tmp_path: Path, no_engine: None
) -> None:
    publish(fake, "library/python", f"{HERE}-slim")
    settings = settings_of(tmp_path, registry=kept_at(fake.host), hub_mirror=fake.host)
    image = Image.debian_slim().env(A="1")
    for _ in range(2):
        fake.asked.clear()
        with pytest.raises(errors.ImageError, match="no Docker engine"):
            Images(settings, client).ready(image)
        assert [asked.method for asked in fake.asked].count("HEAD") == 2


def test_cell_image_du_a_real_image_is_built_once_and_then_found_whoever_asks(client: Client, tmp_path: Path) -> None:
    host = real_registry()
    settings = settings_of(tmp_path, registry=RegistrySettings(f"{host}/images-{secrets.token_hex(4)}"))
    recipe = tmp_path / "Dockerfile"
    recipe.write_text(f"FROM {slim_image()}\nENV PYTHON_VERSION={HERE}.0 UNIQUE={secrets.token_hex(4)}\n")
    image = Image.from_dockerfile(recipe)
    images = Images(settings, client)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(images.ready(image).reference)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 2
    registry = Registry(lambda _: None)
    assert registry.digest(Reference.parse(found[0])) == found[0].partition("@")[2]
    registry.close()
    assert Images(settings, client).ready(image).reference == found[0]


def test_cell_image_du_real_clients_that_build_one_image_at_once_each_name_what_is_there(
    client: Client, tmp_path: Path
) -> None:
    kept = RegistrySettings(f"{real_registry()}/images-{secrets.token_hex(4)}")
    text = f"FROM {slim_image()}\nENV PYTHON_VERSION={HERE}.0 UNIQUE={secrets.token_hex(4)}\n"
    image = from_text(tmp_path / "folder", text)
    both = threading.Barrier(2, timeout=60)

    def together(*arguments: Any, **options: Any) -> Registry:
        registry = Registry(*arguments, **options)
        if "attempts" not in options:
            both.wait()
        return registry

    def make(number: int) -> str:
        settings = settings_of(tmp_path / str(number), registry=kept)
        return Images(settings, client, registries=together).ready(image).reference

    with ThreadPoolExecutor(2) as pool, redirect_stderr(io.StringIO()) as said:
        found = list(pool.map(make, range(2)))
    assert said.getvalue().count("Step 1/2") == 2
    with closing(Registry(lambda _: None)) as registry:
        assert [registry.digest(Reference.parse(name)) for name in found] == [name.partition("@")[2] for name in found]
    assert Images(settings_of(tmp_path, registry=kept), client).ready(image).reference in found


@pytest.mark.skipif(HERE != "3.11", reason="the base that is there has Python 3.11")
def test_a_step_on_the_real_slim_image_is_in_what_a_task_names(client: Client, tmp_path: Path) -> None:
    host = real_registry()
    word = secrets.token_hex(8)
    kept = RegistrySettings(f"{host}/images-{secrets.token_hex(4)}")
    settings = settings_of(tmp_path, registry=kept, hub_mirror=host)
    ready = Images(settings, client).ready(Image.debian_slim("3.11").run(f"echo {word} > /word"))
    output = subprocess.run(
        ["docker", "run", "--rm", "--network=none", ready.reference, "cat", "/word"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output == f"{word}\n"
    assert (ready.python or "").startswith("3.11.")


class _Editor(io.StringIO):
    """Takes what is written, and with it edits a file once."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file: Path | None = file

    def write(self, text: str, /) -> int:
        if self._file is not None and "Step 1" in text:
            self._file.write_text("new")
            self._file = None
        return super().write(text)


def from_folder(folder: Path) -> Image:
    """Make an image of a folder with one file, whose content is what a test changes."""
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {slim_image()}\nENV PYTHON_VERSION={HERE}.0\nCOPY word /word\n")
    (folder / "word").write_text("old")
    return Image.from_dockerfile(folder / "Dockerfile")


def test_cell_image_to_what_changed_while_it_was_built_is_not_pushed(client: Client, tmp_path: Path) -> None:
    kept = RegistrySettings(f"{real_registry()}/images-{secrets.token_hex(4)}")
    image = from_folder(tmp_path / "folder")
    with closing(Registry(lambda _: None)) as registry:
        digest = registry.digest(Reference.parse(slim_image()))
    assert digest is not None
    target = Reference.parse(f"{kept.name}/dokrun:{fingerprint(image, {slim_image(): digest})[:40]}")
    images = Images(settings_of(tmp_path, registry=kept), client)
    with (
        redirect_stderr(_Editor(tmp_path / "folder" / "word")),
        pytest.raises(errors.ImageError, match=r"changed while.*call again"),
    ):
        images.ready(image)
    with closing(Registry(lambda _: None)) as registry:
        assert registry.digest(target) is None
    assert "@sha256:" in images.ready(image).reference


def test_an_image_with_files_is_looked_at_for_each_call(
    fake: FakeRegistry, client: Client, tmp_path: Path, no_engine: None
) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("a")
    image = Image.debian_slim().pip_install(file=file)
    base = publish(fake, "library/python", f"{HERE}-slim")
    built_already(fake, image, base)
    settings = settings_of(tmp_path, registry=kept_at(fake.host), hub_mirror=fake.host)
    images = Images(settings, client)
    first = images.ready(image)
    asked = len(fake.asked)
    assert images.known(image) is None
    assert images.ready(image) is first
    assert len(fake.asked) == asked
    file.write_text("b")
    with pytest.raises(errors.ImageError, match="no Docker engine"):
        images.ready(image)


def test_the_end_of_a_process_does_not_wait_for_what_is_being_made_ready(
    fresh: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(
        tmp_path, api_url=fresh.api_url, access_token=fresh.token, access_token_secret=Secret(fresh.secret)
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name = f"127.0.0.1:{silent.getsockname()[1]}/team/app:1"
        engine = Engine(settings)
        target = Target(published, inspect.signature(published), "published")
        future = engine.call(target, (), {}, Options(plan="v100-32gb", image=name))
        connection, _ = silent.accept()
        with connection:
            began = time.monotonic()
            engine.close()
            assert time.monotonic() - began < 5
    assert future.cancelled()
    assert "whether a task was created" not in capsys.readouterr().err


# --- private images


def private(request: httpx.Request, *, public: bool = False) -> httpx.Response:
    """Answer as a registry that nobody can reach without credentials, or anybody."""
    public = public or request.url.path.startswith("/v2/library/")
    if not public and request.headers.get("Authorization") is None:
        return httpx.Response(401, headers={"WWW-Authenticate": 'Basic realm="r"'})
    manifest, configuration = published()
    body = configuration if "/blobs/" in request.url.path else manifest
    headers = {"Docker-Content-Digest": sha256(manifest)} if "/manifests/" in request.url.path else {}
    return httpx.Response(200, content=body, headers=headers)


def registries(answer: Callable[[httpx.Request], httpx.Response]) -> Callable[..., Registry]:
    return partial(Registry, transport=httpx.MockTransport(answer), sleep=lambda _: None)


def log_in(folder: Path, host: str, username: str = "ann") -> None:
    auth = base64.b64encode(f"{username}:{SECRET}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


@pytest.fixture
def fresh() -> Iterator[Emulator]:
    """DOK, of an account that has registered nothing."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def account(fresh: Emulator) -> Iterator[Client]:
    with Client(fresh.token, fresh.secret, base_url=fresh.api_url) as client:
        yield client


def test_a_task_for_a_private_image_names_doks_credentials_of_the_same_user(
    account: Client, tmp_path: Path, docker_folder: Path
) -> None:
    log_in(docker_folder, "r.example")
    for hostname, username in (("r.example", "bob"), ("other.example", "ann")):
        account.registries.create(RegistryRequest(hostname, username, SECRET))
    mine = account.registries.create(RegistryRequest("r.example", "ann", SECRET))
    images = Images(settings_of(tmp_path), account, registries=registries(private))
    assert images.ready("r.example/app:1").registry_id == mine.id


def test_a_private_image_whose_registry_dok_does_not_know_says_what_to_type(
    account: Client, tmp_path: Path, docker_folder: Path
) -> None:
    log_in(docker_folder, "r.example")
    images = Images(settings_of(tmp_path), account, registries=registries(private))
    for _ in range(2):
        with pytest.raises(
            errors.ImageError, match=r"DOK does not know.*run: dokrun registry add r\.example"
        ) as caught:
            images.ready("r.example/app:1")
        assert SECRET not in str(caught.value)


def test_a_built_image_in_a_private_registry_is_checked_before_it_is_built(
    account: Client, tmp_path: Path, no_engine: None
) -> None:
    settings = settings_of(tmp_path, registry=kept_at("r.example", username="ann", password=Secret(SECRET)))

    def empty(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404) if "/team/dokrun/" in request.url.path else private(request)

    image = Image.debian_slim().env(A="1")
    with pytest.raises(errors.ImageError, match=r"dokrun registry add r\.example"):
        Images(settings, account, registries=registries(empty)).ready(image)
    known = account.registries.create(RegistryRequest("r.example", "ann", SECRET))
    with pytest.raises(errors.ImageError, match="no Docker engine"):
        Images(settings, account, registries=registries(empty)).ready(image)
    ready = Images(settings, account, registries=registries(private)).ready(image)
    assert ready.registry_id == known.id
    assert ready.reference == f"r.example/team/dokrun@{sha256(published()[0])}"


def test_a_public_image_takes_no_credentials_though_docker_has_some(
    account: Client, tmp_path: Path, docker_folder: Path
) -> None:
    log_in(docker_folder, "https://index.docker.io/v1/")
    images = Images(settings_of(tmp_path), account, registries=registries(partial(private, public=True)))
    assert images.ready("pytorch/pytorch:2.8").registry_id is None


@pytest.mark.parametrize("status", [429, 503])
def test_a_registry_that_does_not_answer_makes_no_image_private(
    status: int, account: Client, tmp_path: Path, docker_folder: Path
) -> None:
    log_in(docker_folder, "https://index.docker.io/v1/")
    images = Images(settings_of(tmp_path), account, registries=registries(lambda _: httpx.Response(status)))
    assert images.ready("pytorch/pytorch:2.8").registry_id is None


@pytest.mark.parametrize("status", [401, 403, 404])
def test_without_credentials_here_a_private_image_takes_the_only_ones_that_dok_has(
    status: int, account: Client, tmp_path: Path
) -> None:
    refusing = registries(lambda _: httpx.Response(status))
    images = Images(settings_of(tmp_path), account, registries=refusing)
    with pytest.raises(errors.ImageError, match=r"DOK does not know.*run: dokrun registry add r\.example"):
        images.ready("r.example/app:1")
    account.registries.create(RegistryRequest("other.example", "bob", SECRET))
    only = account.registries.create(RegistryRequest("r.example", "ann", SECRET))
    assert images.ready("r.example/app:1").registry_id == only.id
    account.registries.create(RegistryRequest("r.example", "bob", SECRET))
    with pytest.raises(errors.ImageError, match=r"ann, bob.*docker login r\.example"):
        images.ready("r.example/app:2")


@pytest.mark.parametrize("status", [200, 503])
def test_without_credentials_here_an_image_that_is_not_refused_takes_none(
    status: int, account: Client, tmp_path: Path
) -> None:
    account.registries.create(RegistryRequest("r.example", "ann", SECRET))
    images = Images(settings_of(tmp_path), account, registries=registries(lambda _: httpx.Response(status)))
    assert images.ready("r.example/app:1").registry_id is None


def test_a_broken_helper_keeps_nobody_from_a_public_image(account: Client, tmp_path: Path, docker_folder: Path) -> None:
    (docker_folder / "config.json").write_text('{"credsStore": "not-installed"}')
    images = Images(settings_of(tmp_path), account, registries=registries(partial(private, public=True)))
    assert images.ready("pytorch/pytorch:2.8").registry_id is None


def test_a_service_that_does_not_tell_its_registries_leaves_no_doubt_that_nothing_ran(
    tmp_path: Path, docker_folder: Path
) -> None:
    log_in(docker_folder, "r.example")
    refusing = httpx.MockTransport(lambda _: httpx.Response(403))
    with (
        Client("token", "secret", transport=refusing) as client,
        pytest.raises(errors.ImageError, match="DOK did not tell which registries"),
    ):
        Images(settings_of(tmp_path), client, registries=registries(private)).ready("r.example/app:1")


def test_where_nothing_is_to_run_on_dok_it_is_not_asked_for_credentials(tmp_path: Path, docker_folder: Path) -> None:
    log_in(docker_folder, "r.example")
    images = Images(settings_of(tmp_path), None, registries=registries(private))
    assert images.ready("r.example/app:1").registry_id is None


# --- the commands


@pytest.fixture
def told(fresh: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An account, told by the environment."""
    for name, value in {
        "DOKRUN_ACCESS_TOKEN": fresh.token,
        "DOKRUN_ACCESS_TOKEN_SECRET": fresh.secret,
        "DOKRUN_API_URL": fresh.api_url,
        "DOKRUN_STATE_DIR": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def run(*arguments: str, stdin: str = "") -> str:
    result = CliRunner().invoke(command, arguments, input=stdin)
    if result.exception is not None:
        raise result.exception
    assert SECRET not in result.output
    return result.output


def entries(client: Client) -> list[tuple[str, str]]:
    return [(one.hostname, one.username) for one in client.registries.iterate()]


def test_credentials_are_typed_or_piped_where_none_are_configured(told: pytest.MonkeyPatch, account: Client) -> None:
    assert "ann" in run("add", "r.example", stdin=f"ann\n{SECRET}\n")
    assert "bob" in run("add", "r.example", "--username=bob", "--password-stdin", stdin=f"{SECRET}\n")
    assert sorted(entries(account)) == [("r.example", "ann"), ("r.example", "bob")]
    listed = run("list")
    for word in ("r.example", "ann", "bob"):
        assert word in listed
    asked = subprocess.run(
        [sys.executable, "-c", "from dokrun.cli import main; main()", "registry", "add", "s.example", "--json"],
        input=f"eve\n{SECRET}\n",
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert (json.loads(asked.stdout)["username"], asked.stderr) == ("eve", "")


def test_configured_credentials_are_taken_without_asking(
    told: pytest.MonkeyPatch, account: Client, docker_folder: Path
) -> None:
    log_in(docker_folder, "r.example", "docker-user")
    told.setenv("DOKRUN_REGISTRY", "kept.example/team")
    told.setenv("DOKRUN_REGISTRY_USERNAME", "settings-user")
    told.setenv("DOKRUN_REGISTRY_PASSWORD", SECRET)
    run("add", "r.example")
    run("add", "kept.example")
    assert sorted(entries(account)) == [("kept.example", "settings-user"), ("r.example", "docker-user")]


def test_adding_again_replaces_the_password_and_makes_no_second_entry(
    told: pytest.MonkeyPatch, account: Client
) -> None:
    run("add", "r.example", "--username=ann", "--password-stdin", stdin=f"{SECRET}\n")
    (first,) = account.registries.iterate()
    said = run("add", "R.example", "--username=ann", "--password-stdin", stdin=f"{SECRET}2\n")
    (second,) = account.registries.iterate()
    assert second.id == first.id in said
    assert second.updated_at != first.updated_at


@pytest.mark.parametrize("host", ["r.example/team", "https://r.example", "", "ann:hunter2@r.example"])
def test_what_is_no_host_is_refused(host: str, told: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.ImageError, match="not a registry's host") as caught:
        run("add", host, stdin=f"ann\n{SECRET}\n")
    assert "hunter2" not in str(caught.value)


def test_a_password_that_did_not_come_is_not_stored(told: pytest.MonkeyPatch, account: Client) -> None:
    with pytest.raises(errors.OptionError, match="no password"):
        run("add", "r.example", "--username=ann", "--password-stdin")
    with pytest.raises(errors.OptionError, match="add --username"):
        run("add", "r.example", "--password-stdin", stdin=f"{SECRET}\n")
    assert entries(account) == []


@pytest.mark.parametrize("options", [[], ["--username=ann"]])
def test_without_a_terminal_it_is_said_how_to_pipe_the_password(told: pytest.MonkeyPatch, options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from dokrun.cli import main; main()", "registry", "add", "r.example", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dokrun: there is no terminal"), "nothing was asked for before"
    assert "dokrun registry add r.example --username NAME --password-stdin" in done.stderr
    assert "Aborted" not in done.stdout + done.stderr


@pytest.mark.parametrize("what", ["reset", "status", "garbage"])
def test_after_an_answer_that_was_lost_dok_is_asked_what_it_has(
    what: Any, told: pytest.MonkeyPatch, fresh: Emulator, account: Client
) -> None:
    fresh.faults.add(Fault(what, method="POST", path="/registries/", phase="after"))
    run("add", "r.example", "--username=ann", "--password-stdin", stdin=f"{SECRET}\n")
    assert len(fresh.faults.injected) == 1
    assert entries(account) == [("r.example", "ann")]


@pytest.mark.parametrize("what", ["reset", "status", "garbage"])
def test_what_dok_does_not_have_after_that_is_an_error_and_is_not_sent_twice(
    what: Any, told: pytest.MonkeyPatch, fresh: Emulator, account: Client
) -> None:
    fresh.faults.add(Fault(what, method="POST", path="/registries/"))
    with pytest.raises(errors.ImageError, match=r"does not list r\.example.*dokrun registry list") as caught:
        run("add", "r.example", "--username=ann", "--password-stdin", stdin=f"{SECRET}\n")
    assert SECRET not in str(caught.value)
    assert len(fresh.faults.injected) == 1
    assert entries(account) == []
