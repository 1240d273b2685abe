"""Who may read a registry, as Docker knows it: its configuration file and its credential helpers."""

from __future__ import annotations

import base64
import binascii
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dokrun.errors import RegistryError
from dokrun.secret import Secret

DOCKER_HUB = "docker.io"

# Docker's own name for its registry, in its file and towards its helpers.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_DOCKER_HUB_HOSTS = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
# What a helper gives in place of a username where its secret is an identity token.
_IDENTITY_TOKEN = "<token>"  # noqa: S105 - a name
_HELPER_S = 20.0


@dataclass(frozen=True)
class Credentials:
    """A username and a password for one registry."""

    username: str
    password: Secret


def canonical_host(host: str) -> str:
    """Tell the one name of a registry that has several, as Docker Hub has."""
    return DOCKER_HUB if host in _DOCKER_HUB_HOSTS else host


def docker_credentials(host: str, environ: Mapping[str, str]) -> Credentials | None:
    """Tell the credentials that Docker has for a registry, or None.

    Args:
        host: the registry's host, with its port if it has one; `docker.io` is Docker Hub.
        environ: where `DOCKER_CONFIG`, `HOME` and `PATH` stand.

    Raises:
        RegistryError: the file or a helper is broken, or what it gives is an identity token.
    """
    host = canonical_host(host)
    path = _path(environ)
    config = _read(path, host)
    helper = _of_host(config.get("credHelpers"), host) or config.get("credsStore")
    if helper:
        found = _from_helper(str(helper), host, environ)
        if found is not None:
            return found
    entry = _of_host(config.get("auths"), host)
    return _from_entry(entry, host, path) if isinstance(entry, dict) else None


def _path(environ: Mapping[str, str]) -> Path:
    if environ.get("DOCKER_CONFIG"):
        return Path(environ["DOCKER_CONFIG"]) / "config.json"
    home = environ.get("HOME") or environ.get("USERPROFILE")
    return (Path(home) if home else Path.home()) / ".docker" / "config.json"


def _read(path: Path, host: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise RegistryError(f"{path} cannot be read: {error.strerror}", host=host) from error
    except (ValueError, RecursionError):
        content = None
    # Outside the handler: the decoder's error, which holds the whole text, would stay attached as the context.
    if not isinstance(content, dict):
        raise RegistryError(f"{path} is not a JSON object; mend it, or run: docker login {host}", host=host)
    return content


def _of_host(table: object, host: str) -> Any:
    """Find a host's entry, whose key may be an address as well: https://HOST/v1/."""
    if not isinstance(table, dict):
        return None
    for key, value in table.items():
        if canonical_host(key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]) == host:
            return value
    return None


def _from_helper(name: str, host: str, environ: Mapping[str, str]) -> Credentials | None:
    program = f"docker-credential-{name}"
    failure = _Failure(program, host)
    # A name with a slash would name any program.
    path = shutil.which(program, path=environ.get("PATH")) if re.fullmatch(r"[\w.-]+", name) else None
    if path is None:
        raise failure("is not installed; install it, or take it out of Docker's config.json")
    server = _DOCKER_HUB_KEY if host == DOCKER_HUB else host
    done = None
    problem = "cannot be run"
    try:
        done = subprocess.run(  # noqa: S603 - the program that the user's own Docker runs
            [path, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_S,
            env=dict(environ),
            check=False,
        )
    except subprocess.TimeoutExpired:
        problem = f"gave no answer within {_HELPER_S:g} s; unlock the keychain that it reads"
    except OSError as error:
        problem = f"cannot be run: {error.strerror}"
    # Nothing that a helper writes is shown: it may be the secret.
    if done is None:
        raise failure(problem)
    if done.returncode != 0:
        if b"credentials not found" in done.stdout + done.stderr:
            return None
        raise failure(f"failed with exit status {done.returncode}; run: docker login {host}")
    return _from_answer(done.stdout, failure)


class _Failure:
    """Makes the error of a helper that failed."""

    def __init__(self, program: str, host: str) -> None:
        self._program = program
        self.host = host

    def __call__(self, problem: str) -> RegistryError:
        return RegistryError(f"no credentials for {self.host}: {self._program} {problem}", host=self.host)


def _from_answer(output: bytes, failure: _Failure) -> Credentials | None:
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not all(isinstance(answer.get(key), str) for key in ("Username", "Secret")):
        raise failure("gave an answer that is not a username and a secret")
    if answer["Username"] == _IDENTITY_TOKEN:
        raise failure(_no_identity_tokens())
    return Credentials(answer["Username"], Secret(answer["Secret"])) if answer["Secret"] else None


def _from_entry(entry: dict[str, Any], host: str, path: Path) -> Credentials | None:
    if entry.get("identitytoken"):
        raise RegistryError(f"no credentials for {host}: {path} {_no_identity_tokens()}", host=host)
    username, password = entry.get("username"), entry.get("password")
    if entry.get("auth"):
        try:
            text = base64.b64decode(str(entry["auth"]), validate=True).decode()
        except (binascii.Error, ValueError):
            text = ""
        username, colon, password = text.partition(":")
        # Docker pads what it writes with zero bytes.
        password = password.strip("\0")
        if not colon:
            raise RegistryError(f"{path} has an unreadable `auth` for {host}; run: docker login {host}", host=host)
    return Credentials(str(username), Secret(str(password))) if username and password else None


def _no_identity_tokens() -> str:
    return (
        "has an identity token, which dokrun cannot use; set DOKRUN_REGISTRY_USERNAME and DOKRUN_REGISTRY_PASSWORD, "
        "or log in with an access token as the password"
    )
