"""A real registry that shows nothing without a password: looked at, pushed to and pulled from with our credentials."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import docker  # type: ignore[import-untyped]
import pytest
from containers import registry as registry_of_the_engine
from registries import CREDENTIALS, SECRET, GuardedRegistry

from dokrun.errors import BuildFailed, RegistryError
from dokrun.image.build import Base, build_and_push
from dokrun.image.credentials import Credentials, docker_credentials
from dokrun.image.registry import Registry
from dokrun.image.spec import Image
from dokrun.secret import Secret

ANN = Credentials("ann", Secret(SECRET))


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedRegistry]:
    """A registry, and a Docker that has no credentials for it."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with closing(GuardedRegistry(tmp_path)) as guarded:
        yield guarded


def test_a_look_takes_the_credentials_that_the_registry_wants(guarded: GuardedRegistry, tmp_path: Path) -> None:
    guarded.put_image()
    auth = base64.b64encode(f"ann:{SECRET}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {guarded.host: {"auth": auth}}}))
    with closing(Registry(lambda host: docker_credentials(host, {"DOCKER_CONFIG": str(tmp_path)}))) as registry:
        assert (registry.digest(guarded.reference()) or "").startswith("sha256:")
        assert registry.python_version(guarded.reference()) == "3.11.9"


@pytest.mark.parametrize("credentials", [None, Credentials("ann", Secret("wrong")), Credentials("bob", Secret(SECRET))])
def test_a_look_without_them_is_refused(guarded: GuardedRegistry, credentials: Credentials | None) -> None:
    guarded.put_image()
    with (
        closing(Registry(lambda _: credentials)) as registry,
        pytest.raises(RegistryError, match=rf"HTTP status 401.*docker login {guarded.host}"),
    ):
        registry.digest(guarded.reference())


def test_an_image_is_pushed_and_built_upon_with_them_and_not_without(guarded: GuardedRegistry, tmp_path: Path) -> None:
    registry_of_the_engine()
    tag = str(guarded.reference())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    small = Image.from_dockerfile(tmp_path / "folder" / "Dockerfile")
    client = docker.from_env()
    try:
        with pytest.raises(RegistryError, match=rf"could not push {tag}.*docker login {guarded.host}"):
            build_and_push(small, {}, tag)
        digest = build_and_push(small, {}, tag, auth=ANN)
        with closing(Registry(lambda _: CREDENTIALS)) as registry:
            assert registry.digest(guarded.reference()) == digest
        client.images.remove(tag)
        pinned = guarded.reference().pinned(digest)
        above = Image.from_registry(tag).env(B="2")
        with pytest.raises(BuildFailed, match=r"credentials|unauthorized"):
            build_and_push(above, {tag: Base(pinned)}, f"{guarded.host}/team/app:2", auth=ANN)
        assert build_and_push(above, {tag: Base(pinned, ANN)}, f"{guarded.host}/team/app:2", auth=ANN) != digest
    finally:
        # The child first.
        for name in (f"{guarded.host}/team/app:2", *client.images.list(f"{guarded.host}/team/app")):
            with suppress(docker.errors.ImageNotFound):
                client.images.remove(getattr(name, "id", name), force=True)
        client.close()
