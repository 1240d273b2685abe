"""Credentials as Docker keeps them: in its file, and with helper programs, which here are real ones."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dokrun.errors import RegistryError
from dokrun.image.credentials import Credentials, docker_credentials
from dokrun.secret import Secret

SECRET = "hunter2-pass"
AUTH = base64.b64encode(f"ann:{SECRET}".encode()).decode()
ANN = Credentials("ann", Secret(SECRET))


class Docker:
    """A folder with Docker's configuration, and one with its helpers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = folder / "bin"
        self._bin.mkdir()
        self.environ = {"DOCKER_CONFIG": str(folder), "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}"}

    def configure(self, content: Any) -> None:
        (self._folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))

    def helper(
        self, name: str, answers: dict[str, Any], *, other: str = "credentials not found in native keychain"
    ) -> None:
        """Install a helper that knows some servers, and fails with a text for the others."""
        program = self._bin / f"docker-credential-{name}"
        program.write_text(
            f"#!{sys.executable}\nimport json, sys\nassert sys.argv[1:] == ['get']\nanswers = {answers!r}\n"
            "server = sys.stdin.read()\nif server not in answers:\n"
            f"    print({other!r})\n    sys.exit(1)\nanswer = answers[server]\n"
            "print(answer if isinstance(answer, str) else json.dumps(answer))\n"
        )
        program.chmod(0o755)

    def ask(self, host: str = "r.example") -> Credentials | None:
        return docker_credentials(host, self.environ)


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path)


def answer(username: str = "ann") -> dict[str, str]:
    return {"ServerURL": "any", "Username": username, "Secret": SECRET}


def test_without_a_file_there_are_none(docker: Docker) -> None:
    assert docker.ask() is None


@pytest.mark.parametrize("key", ["r.example", "https://r.example", "https://r.example/v1/", "r.example/v2/"])
def test_a_hosts_credentials_stand_under_its_name_or_its_address(key: str, docker: Docker) -> None:
    docker.configure({"auths": {"other.example": {"auth": "eDp5"}, key: {"auth": AUTH}}})
    assert docker.ask() == ANN
    assert docker.ask("r.example:5000") is None


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_a_name_of_its_own(host: str, docker: Docker) -> None:
    docker.configure({"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}})
    assert docker.ask(host) == ANN
    docker.configure({"credsStore": "keys"})
    docker.helper("keys", {"https://index.docker.io/v1/": answer()})
    assert docker.ask(host) == ANN


def test_the_file_of_the_home_folder_is_read_where_no_other_is_named(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {"r.example": {"auth": AUTH}}}))
    assert docker_credentials("r.example", {"HOME": str(tmp_path)}) == ANN


def test_a_hosts_own_helper_comes_before_the_store_and_the_store_before_the_file(docker: Docker) -> None:
    docker.helper("own", {"r.example": answer("own")})
    docker.helper("store", {"r.example": answer("store"), "s.example": answer("store")})
    docker.configure(
        {
            "credHelpers": {"r.example": "own"},
            "credsStore": "store",
            "auths": {host: {"auth": AUTH} for host in ("r.example", "s.example", "t.example")},
        }
    )
    found = [docker.ask(host) for host in ("r.example", "s.example", "t.example", "u.example")]
    assert [one and one.username for one in found] == ["own", "store", "ann", None]


def test_what_a_helper_does_not_know_is_none(docker: Docker) -> None:
    docker.configure({"credsStore": "keys"})
    docker.helper("keys", {})
    assert docker.ask() is None


def test_a_helper_that_is_not_installed_is_named(docker: Docker) -> None:
    docker.configure({"credsStore": "desktop"})
    with pytest.raises(RegistryError, match="docker-credential-desktop is not installed") as caught:
        docker.ask()
    assert caught.value.host == "r.example"


def test_a_helpers_name_is_no_path(docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "bin")
    docker.helper("keys", {"r.example": answer()})
    (tmp_path / "bin" / "docker-credential-x").mkdir()
    docker.configure({"credsStore": "x/../docker-credential-keys"})
    with pytest.raises(RegistryError, match="is not installed"):
        docker.ask()


@pytest.mark.parametrize(
    "told", [f"not json {SECRET}", [SECRET], {"Secret": SECRET}, {"Username": 1, "Secret": SECRET}]
)
def test_a_helpers_answer_that_is_none_is_not_shown(told: Any, docker: Docker) -> None:
    docker.configure({"credsStore": "keys"})
    docker.helper("keys", {"r.example": told})
    with pytest.raises(RegistryError, match="not a username and a secret") as caught:
        docker.ask()
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None, "the decoder's error carries the whole text"


def test_a_helper_that_fails_is_named_and_what_it_writes_is_not_shown(docker: Docker) -> None:
    docker.configure({"credsStore": "keys"})
    docker.helper("keys", {}, other=f"locked, {SECRET}")
    with pytest.raises(RegistryError, match="docker-credential-keys failed with exit status 1") as caught:
        docker.ask()
    assert SECRET not in str(caught.value)


def test_an_identity_token_is_said_to_be_of_no_use(docker: Docker) -> None:
    docker.configure({"auths": {"r.example": {"auth": "", "identitytoken": SECRET}}})
    with pytest.raises(RegistryError, match=r"identity token.*DOKRUN_REGISTRY_USERNAME") as in_file:
        docker.ask()
    docker.configure({"credsStore": "keys"})
    docker.helper("keys", {"r.example": answer("<token>")})
    with pytest.raises(RegistryError, match="identity token") as from_helper:
        docker.ask()
    assert SECRET not in f"{in_file.value}{from_helper.value}"


@pytest.mark.parametrize("content", [f'{{"auths": {SECRET}', "[]", "\udcff".encode("utf-8", "surrogateescape")])
def test_a_file_that_is_no_configuration_is_named_and_not_shown(
    content: str | bytes, docker: Docker, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RegistryError, match=r"config\.json is not a JSON object") as caught:
        docker.ask()
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("auth", ["%%%", "YW5u", "/w=="])
def test_an_entry_that_cannot_be_read_says_what_to_type(auth: str, docker: Docker) -> None:
    docker.configure({"auths": {"r.example": {"auth": auth}}})
    with pytest.raises(RegistryError, match=r"unreadable `auth` for r\.example; run: docker login r\.example"):
        docker.ask()


@pytest.mark.parametrize("entry", [{}, {"auth": ""}, {"email": "ann@r.example"}, None, {"username": "ann"}])
def test_an_entry_without_credentials_gives_none(entry: object, docker: Docker) -> None:
    docker.configure({"auths": {"r.example": entry}})
    assert docker.ask() is None


def test_a_password_may_have_colons(docker: Docker) -> None:
    docker.configure({"auths": {"r.example": {"auth": base64.b64encode(b"ann:a:b").decode()}}})
    assert docker.ask() == Credentials("ann", Secret("a:b"))


def test_credentials_do_not_show_their_password() -> None:
    assert SECRET not in repr(ANN)
