"""What an image is: said step by step, shown as a Dockerfile, told apart by its content. Nothing is built here."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dokrun.errors import ImageError, OptionError
from dokrun.image.context import DOCKERFILE, fingerprint, write_context
from dokrun.image.spec import Image

SLIM = Image.debian_slim("3.11")
SLIM_NAME = "docker.io/library/python:3.11-slim"
APT = (
    "RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ffmpeg g++ "
    "&& rm -rf /var/lib/apt/lists/*"
)
PIP = (
    "RUN python3 -m pip install --no-cache-dir --index-url https://example.org/simple "
    "-r /tmp/dokrun-requirements-0.txt 'torch==2.8.*' 'polars>=1'"
)
DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a program, a link to it and a file below."""
    folder = tmp_path / "data"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "text").write_text("text")
    (folder / "program").write_text("#!/bin/sh\necho it runs\n")
    (folder / "program").chmod(0o755)
    (folder / "link").symlink_to("program")
    return folder


def members(image: Image) -> dict[str, tarfile.TarInfo]:
    return {member.name: member for member in tarfile.open(fileobj=io.BytesIO(written(image, {}))).getmembers()}


def written(image: Image, pins: dict[str, str]) -> bytes:
    file = io.BytesIO()
    write_context(image, pins, file)
    return file.getvalue()


def content(image: Image, name: str, pins: dict[str, str]) -> str:
    with tarfile.open(fileobj=io.BytesIO(written(image, pins))) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read().decode()


def test_each_method_makes_a_new_image_and_the_dockerfile_shows_the_steps_in_order(folder: Path) -> None:
    (folder / "requirements.txt").write_text("polars\n")
    image = (
        SLIM.apt_install("ffmpeg", "g++")
        .pip_install(
            "torch==2.8.*", "polars>=1", file=folder / "requirements.txt", index_url="https://example.org/simple"
        )
        .run("echo $HOME 'a b'", "make")
        .env({"A": 'say "$HOME" \\'}, B="it's")
        .workdir("/a b")
        .copy(folder, "/data")
        .copy(folder / "program", "/bin/")
    )
    assert SLIM.dockerfile == "FROM docker.io/library/python:3.11-slim\n"
    assert image.dockerfile.splitlines() == [
        "FROM docker.io/library/python:3.11-slim",
        APT,
        'COPY [".dokrun-copy/0/requirements.txt", "/tmp/dokrun-requirements-0.txt"]',
        PIP,
        "RUN echo $HOME 'a b'",
        "RUN make",
        r'ENV A="say \"\$HOME\" \\"',
        """ENV B="it's\"""",
        "WORKDIR /a b",
        'COPY [".dokrun-copy/1/content", "/data"]',
        'COPY [".dokrun-copy/2/content", "/bin/program"]',
    ]


def test_a_command_that_a_line_cannot_carry_becomes_a_list() -> None:
    assert SLIM.run("set -e\nls").dockerfile.endswith('RUN ["/bin/sh", "-c", "set -e\\nls"]\n')
    assert SLIM.run("ls \\").dockerfile.endswith('RUN ["/bin/sh", "-c", "ls \\\\"]\n')


def test_an_image_without_steps_is_plain_and_tells_its_base(folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch")
    assert SLIM.is_plain
    assert SLIM.base == "docker.io/library/python:3.11-slim"
    assert Image.debian_slim().base == f"docker.io/library/python:3.{sys.version_info.minor}-slim"
    assert not SLIM.run("true").is_plain
    written_by_hand = Image.from_dockerfile(folder / "Dockerfile")
    assert written_by_hand.base is None
    assert not written_by_hand.is_plain
    assert written_by_hand.run("true").dockerfile == "FROM scratch\nRUN true\n"


def test_images_that_say_the_same_are_equal_and_survive_pickling(folder: Path) -> None:
    image = SLIM.copy(folder, "/data").env(A="1")
    assert {image, SLIM.copy(folder, "/data").env(A="1")} == {image}
    assert pickle.loads(pickle.dumps(image)) == image
    assert image != SLIM.env(A="1").copy(folder, "/data")


def test_no_value_of_a_variable_is_in_an_images_repr(folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch")
    image = Image.from_dockerfile(folder / "Dockerfile", build_args={"A": "s3cret"}).env(B="s3cret")
    assert "s3cret" not in repr(image) + repr(image.steps) + repr(image.recipe)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda: Image.debian_slim("three"), 'like "3.11"'),
        (lambda: Image.debian_slim(3.11), 'like "3.11"'),  # type: ignore[arg-type]
        (lambda: Image.from_registry("https://me:s3cret@host/name"), r"from_registry\(…\): no image .* HOST/NAME:TAG"),
        (lambda: Image.from_registry("Foo/Bar"), "'Foo/Bar'.*small letters"),
        (lambda: Image.from_registry("a b"), "no image can have that name"),
        (lambda: Image.from_registry("python:"), "no image can have that name"),
        (lambda: Image.from_registry("python:3.11 slim"), "no image can have that name"),
        (lambda: Image.from_registry("host.example:65536/a"), "no image can have that name"),
        (lambda: Image.from_registry("a_b.example/c"), "no image can have that name"),
        (lambda: Image.from_registry("python@sha256:12"), "no image can have that name"),
        (lambda: Image.from_registry(""), "not empty"),
        (lambda: Image.from_dockerfile("no-such-file"), "there is no file"),
        (lambda: Image.from_dockerfile(__file__, context="no-such-folder"), "there is no folder"),
        (lambda: Image.from_dockerfile(__file__, build_args="A=1"), "map names to texts"),  # type: ignore[arg-type]
        (SLIM.pip_install, "needs what to install"),
        (lambda: SLIM.pip_install(["a"]), r"pip_install\(\*…\)"),  # type: ignore[arg-type]
        (lambda: SLIM.pip_install("a\nb"), "more than one line"),
        (lambda: SLIM.pip_install("--pre", "a"), "index_url="),
        (lambda: SLIM.pip_install("a", index_url="https://s3cret@host/simple"), "has a password"),
        (lambda: SLIM.pip_install("a @ https://me:s3cret@host/a.whl"), "has a password"),
        (lambda: SLIM.pip_install(file="no-such-file"), "there is no file"),
        (SLIM.apt_install, "needs what to install"),
        (lambda: SLIM.apt_install("ffmpeg git"), "no package's name"),
        (lambda: SLIM.apt_install("-y"), "no package's name"),
        (SLIM.run, "needs a command"),
        (lambda: SLIM.run(" "), "not empty"),
        (SLIM.env, "needs variables"),
        (lambda: SLIM.env("A=s3cret"), "map names to texts"),  # type: ignore[arg-type]
        (lambda: SLIM.env({"A\n": "1"}), "no variable's name"),
        (lambda: SLIM.env(A="s3cret\n"), "on one line"),
        (lambda: SLIM.env(A=1), 'A must be a string, such as A="1"'),  # type: ignore[arg-type]
        (lambda: SLIM.workdir(""), "not empty"),
        (lambda: SLIM.copy("no-such-file", "/x"), "there is no file or folder .*; a relative path begins at"),
        (lambda: SLIM.copy(__file__, ""), "not empty"),
    ],
)
def test_what_is_wrong_is_refused_where_it_is_written(wrong: Callable[[], Image], hint: str) -> None:
    with pytest.raises(OptionError, match=hint) as caught:
        wrong()
    assert "s3cret" not in str(caught.value)


def test_in_a_container_the_clients_files_are_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOKRUN_CALL_ID", "call-1")
    image = SLIM.copy("no-such-file", "/x").pip_install(file="no-such-file")
    assert Image.from_dockerfile("no-such-file") != image


def test_saying_what_an_image_is_loads_no_heavy_library() -> None:
    heavy = "{'docker', 'httpx', 'hashlib', 'subprocess', 'tarfile'}"
    code = f"import sys, dokrun.image.spec; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_paths_are_relative_to_where_they_were_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    image = SLIM.copy("program", "/x")
    monkeypatch.chdir("/")
    assert ".dokrun-copy/0/content" in members(image)


def test_the_fingerprint_changes_with_every_thing_that_counts_and_with_nothing_else(folder: Path) -> None:
    image = SLIM.copy(folder, "/data").env(A="1")
    seen = [fingerprint(image, {SLIM_NAME: DIGEST})]
    assert len(seen[0]) == 64

    os.utime(folder / "program", (1, 1))
    twin = folder.rename(folder.with_name("moved"))
    assert fingerprint(SLIM.copy(twin, "/data").env(A="1"), {SLIM_NAME: DIGEST}) == seen[0]
    twin.rename(folder)
    other_name = Image.from_registry("mirror.example.org/python:3").copy(folder, "/data").env(A="1")
    assert fingerprint(other_name, {"mirror.example.org/python:3": DIGEST}) == seen[0]

    def changed(image: Image = image, digest: str = DIGEST) -> None:
        seen.append(fingerprint(image, {SLIM_NAME: digest}))
        assert len(set(seen)) == len(seen), seen

    changed(digest="sha256:" + "2" * 64)
    changed(SLIM.env(A="1").copy(folder, "/data"))
    changed(SLIM.copy(folder, "/data").env(A="2"))
    (folder / "program").chmod(0o700)
    changed()
    (folder / "below" / "text").write_text("TEXT")
    changed()
    (folder / "link").unlink()
    (folder / "link").symlink_to("below")
    changed()
    (folder / "empty").mkdir()
    changed()


def test_a_requirements_files_content_counts(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("polars==1.0")
    image = SLIM.pip_install(file=tmp_path / "requirements.txt")
    before = fingerprint(image, {})
    (tmp_path / "requirements.txt").write_text("polars==1.1")
    assert fingerprint(image, {}) != before


def test_a_dockerfiles_text_its_arguments_and_the_files_that_are_not_ignored_count(folder: Path) -> None:
    file = folder / "Dockerfile"
    file.write_text("FROM scratch\nCOPY . /x\n")
    (folder / ".dockerignore").write_text("below\n")

    def now(**build_args: str) -> str:
        return fingerprint(Image.from_dockerfile(file, build_args=build_args), {})

    before = now()
    (folder / "below" / "text").write_text("TEXT")
    assert now() == before
    assert now(A="1") != before
    (folder / "program").write_text("")
    after = now()
    assert after != before
    file.write_text("FROM scratch\nCOPY . /y\n")
    assert now() != after


def test_the_archive_keeps_modes_and_links_and_tells_no_owner_and_no_time(folder: Path) -> None:
    image = SLIM.copy(folder, "/data")
    found = members(image)
    assert found[".dokrun-copy/0/content/program"].mode == 0o755
    assert found[".dokrun-copy/0/content/link"].linkname == "program"
    assert {(member.uid, member.gid, member.uname) for member in found.values()} == {(0, 0, "")}
    before = written(image, {})
    os.utime(folder / "program", (1, 1))
    assert written(image, {}) == before


def test_the_base_is_pinned_where_its_digest_is_known(folder: Path) -> None:
    image = SLIM.copy(folder, "/data")
    assert content(image, DOCKERFILE, {}) == image.dockerfile
    pinned = content(image, DOCKERFILE, {SLIM_NAME: f"mirror/python@{DIGEST}"})
    assert pinned == image.dockerfile.replace("docker.io/library/python:3.11-slim", f"mirror/python@{DIGEST}")


def test_a_link_is_never_followed_and_one_out_of_the_context_is_refused(folder: Path) -> None:
    (folder / "outside").symlink_to("/etc")
    (folder / "loop").symlink_to(".")
    found = members(SLIM.copy(folder, "/data"))
    assert found[".dokrun-copy/0/content/outside"].linkname == "/etc"
    assert not any(name.startswith(".dokrun-copy/0/content/outside/") for name in found)
    (folder / "Dockerfile").write_text("FROM scratch")
    (folder / "up").symlink_to("../elsewhere")
    with pytest.raises(ImageError, match=r"up is a link that leads out of .*; name it in \.dockerignore"):
        written(Image.from_dockerfile(folder / "Dockerfile"), {})


def test_a_file_that_is_gone_is_named(folder: Path) -> None:
    image = SLIM.copy(folder / "program", "/x")
    (folder / "program").unlink()
    with pytest.raises(ImageError, match="program cannot be read: No such file"):
        fingerprint(image, {})


@pytest.mark.parametrize(
    ("ignore", "kept"),
    [
        ("", "a.md a.py b/a.md b/c/a.md b/c/keep.py"),
        ("# *.md\n\n  *.md  \n", "a.py b/a.md b/c/a.md b/c/keep.py"),
        ("**/*.md", "a.py b/c/keep.py"),
        ("/b/", "a.md a.py"),
        ("*/c", "a.md a.py b/a.md"),
        ("b/*\n!b/a.md", "a.md a.py b/a.md"),
        ("**\n!**/keep.*", "b/c/keep.py"),
        ("!a.md\n*.md", "a.py b/a.md b/c/a.md b/c/keep.py"),
        ("?.[a-m]d", "a.py b/a.md b/c/a.md b/c/keep.py"),
        ("./x/../a.md", "a.py b/a.md b/c/a.md b/c/keep.py"),
        (".", "a.md a.py b/a.md b/c/a.md b/c/keep.py"),
        ("b/**/a.md", "a.md a.py b/c/keep.py"),
    ],
)
def test_dockerignore_means_what_docker_takes_it_for(tmp_path: Path, ignore: str, kept: str) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("a.md", "a.py", "b/a.md", "b/c/a.md", "b/c/keep.py"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text(f"{ignore}\n")
    prefix = ".dokrun-copy/0/content/"
    found = members(SLIM.copy(tmp_path, "/x"))
    files = {name.removeprefix(prefix) for name, member in found.items() if member.isfile() and name.startswith(prefix)}
    assert files - {".dockerignore"} == set(kept.split())
