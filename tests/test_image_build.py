"""Images are built by a real engine and pushed to a real registry; then a container tells what it has."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker  # type: ignore[import-untyped]
import httpx
import pytest
from containers import registry, slim_image

from dokrun.errors import BuildFailed, ImageError, RegistryError
from dokrun.image.build import Base, build_and_push
from dokrun.image.credentials import Credentials
from dokrun.image.spec import Image
from dokrun.secret import Secret

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture
def slim() -> Image:
    return Image.from_registry(slim_image())


@pytest.fixture
def tag() -> Iterator[str]:
    """A name in the registry that nobody has; what the engine has under it goes away."""
    name = f"{registry()}/tests/image:{uuid.uuid4().hex}"
    yield name
    client = docker.from_env()
    for image in client.images.list(name.partition(":")[0]) and client.images.list(name):
        client.images.remove(image.id, force=True)
    client.close()


def digest_of(name: str) -> str:
    """Ask the registry itself."""
    host, _, rest = name.partition("/")
    repository, _, version = rest.rpartition(":")
    answer = httpx.head(f"http://{host}/v2/{repository}/manifests/{version}", headers={"Accept": MANIFEST})
    assert answer.status_code == 200
    return answer.headers["Docker-Content-Digest"]


def said(image: str, command: str) -> str:
    """Tell what a shell command says in a container of an image."""
    client = docker.from_env()
    try:
        return str(client.containers.run(image, ["/bin/sh", "-c", command], remove=True).decode())
    finally:
        client.close()


def test_an_image_holds_what_its_steps_say_and_its_digest_is_the_registrys(
    slim: Image, tag: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "program").write_text("#!/bin/sh\necho it runs\n")
    (folder / "program").chmod(0o755)
    (folder / "sub" / "link").symlink_to("../program")
    (folder / "sub" / "out").symlink_to("../../../secret")
    (tmp_path / "secret").write_text("not to be seen")
    image = (
        slim.run("echo hi > /x", "set -e\necho 'two lines' >> /x")
        .copy(folder, "/data")
        .copy(folder / "program", "/a $b 'c'/")
        .env({"A": 'it\'s "$HOME" \\ `x`', "B": "2"})
        .workdir("/work $here")
    )
    name, _, _ = slim_image().rpartition(":")
    lines: list[str] = []

    base = Base(f"{name}@{digest_of(slim_image())}")
    digest = build_and_push(image, {slim_image(): base}, tag, progress=lines.append)

    assert digest == digest_of(tag)
    assert any(line.startswith("Step 2/") and line.endswith("RUN echo hi > /x") for line in lines)
    assert "it's" not in "".join(lines)
    pushed = f"{tag.rpartition(':')[0]}@{digest}"
    assert said(pushed, "cat /x") == "hi\ntwo lines\n"
    assert said(pushed, "/data/sub/link; \"/a \\$b 'c'/program\"") == "it runs\nit runs\n"
    assert said(pushed, "readlink /data/sub/link /data/sub/out") == "../program\n../../../secret\n"
    assert said(pushed, "stat -c '%a %u' /data/program; stat -c %a /data/sub") == "755 0\n755\n"
    assert said(pushed, 'printf "%s|" "$A" "$B" "$PWD"; echo') == 'it\'s "$HOME" \\ `x`|2|/work $here|\n'
    client = docker.from_env()
    assert (client.images.get(pushed).attrs["Os"], client.images.get(pushed).attrs["Architecture"]) == (
        "linux",
        "amd64",
    )
    client.close()


def test_a_step_that_fails_is_named_with_the_end_of_its_log_and_leaves_no_container(slim: Image, tag: str) -> None:
    mark = uuid.uuid4().hex
    image = slim.env(TOKEN="s3cret").run("true").run(f"seq 100 >&2; echo {mark} >&2; exit 3").run("echo never")
    with pytest.raises(BuildFailed, match="returned a non-zero code: 3") as caught:
        build_and_push(image, {}, tag)
    error = caught.value
    assert error.step == f"RUN seq 100 >&2; echo {mark} >&2; exit 3"
    lines = error.log.splitlines()
    assert mark in lines
    assert "100" in lines
    assert len(lines) == 40
    assert error.step in str(error)
    assert error.log in str(error)
    assert "s3cret" not in str(error)
    client = docker.from_env()
    assert not [c for c in client.containers.list(all=True) if mark in str(c.attrs["Args"])]
    client.close()


def test_no_value_of_a_variable_or_an_argument_is_in_the_log(tag: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {slim_image()}\nARG KEY\nENV TOKEN='s3cret x'\nRUN echo $KEY; exit 1\n")
    image = Image.from_dockerfile(tmp_path / "Dockerfile", build_args={"KEY": "very-s3cret"})
    lines: list[str] = []
    with pytest.raises(BuildFailed) as caught:
        build_and_push(image, {}, tag, progress=lines.append)
    assert "…" in lines
    assert "s3cret" not in str(caught.value) + caught.value.log + "".join(lines)


def test_a_line_that_the_engine_cannot_read_is_named(tag: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {slim_image()}\nFETCH true\n")
    with pytest.raises(BuildFailed, match="unknown instruction") as caught:
        build_and_push(Image.from_dockerfile(tmp_path / "Dockerfile"), {}, tag)
    assert caught.value.step == "FETCH true"


def test_a_base_that_is_not_there_is_named(tag: str) -> None:
    image = Image.from_registry(f"{registry()}/no/such:image").run("true")
    with pytest.raises(BuildFailed, match=r"not found|unknown") as caught:
        build_and_push(image, {}, tag)
    assert caught.value.step == f"FROM {registry()}/no/such:image"


def test_a_dockerfile_is_built_with_its_arguments_and_without_what_is_ignored(tag: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    (context / "logs").mkdir(parents=True)
    (context / "Dockerfile").write_text(
        f"FROM {slim_image()}\nARG WORD=none\nRUN echo $WORD > /word\nCOPY . /x\nRUN test ! -e /x/big"
    )
    for name in ("big", "logs/a.log", "logs/keep.log", "main.py"):
        (context / name).write_text(name)
    (context / ".dockerignore").write_text("big\n**/*.log\n!logs/keep.log\n.dockerignore\n")
    image = Image.from_dockerfile(context / "Dockerfile", build_args={"WORD": "spoken"}).run("touch /added")
    digest = build_and_push(image, {}, tag)
    found = said(f"{tag.rpartition(':')[0]}@{digest}", "cd /x; cat /word; ls /added; find . -type f | sort")
    assert found.split() == ["spoken", "/added", "./Dockerfile", "./logs/keep.log", "./main.py"]


def test_a_dockerfile_may_lie_outside_of_its_context(tag: str, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "file").write_text("here")
    (tmp_path / "gpu.Dockerfile").write_text(f"FROM {slim_image()}\nCOPY . /x\n")
    (tmp_path / "gpu.Dockerfile.dockerignore").write_text("other\n")
    (tmp_path / "context" / "other").write_text("not here")
    image = Image.from_dockerfile(tmp_path / "gpu.Dockerfile", context=tmp_path / "context")
    digest = build_and_push(image, {}, tag)
    assert said(f"{tag.rpartition(':')[0]}@{digest}", "ls -A /x").split() == ["file"]


def test_a_base_can_be_pulled_with_a_name_and_a_password_of_its_own(slim: Image, tag: str) -> None:
    name, _, _ = slim_image().rpartition(":")
    lines: list[str] = []
    pinned = f"{name}@{digest_of(slim_image())}"
    base = Base(pinned, Credentials("me", Secret("p4ssw0rd")))
    build_and_push(slim.run("true"), {slim_image(): base}, tag, progress=lines.append)
    assert any(re.match(r"Digest: sha256:|Status: ", line) for line in lines)
    gone = Base(f"{registry()}/no/such@sha256:{'1' * 64}", Credentials("me", Secret("p4ssw0rd")))
    with pytest.raises(RegistryError, match=r"could not pull .*/no/such@sha256") as caught:
        build_and_push(slim.run("true"), {slim_image(): gone}, tag)
    assert caught.value.host == registry()
    assert "p4ssw0rd" not in str(caught.value)


def test_a_registry_that_does_not_answer_is_named(slim: Image) -> None:
    with pytest.raises(RegistryError, match=r"could not push 127\.0\.0\.1:1/x:y") as caught:
        build_and_push(slim.run("true"), {}, "127.0.0.1:1/x:y", auth=Credentials("me", Secret("p4ssw0rd")))
    assert caught.value.host == "127.0.0.1:1"
    assert "p4ssw0rd" not in str(caught.value)


def test_without_an_engine_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(ImageError, match=r"no Docker engine answers.* start Docker .*DOCKER_HOST.*must be built"):
        build_and_push(Image.debian_slim().run("true"), {}, "127.0.0.1:1/x:y")
