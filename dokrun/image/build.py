"""Build an image with the local Docker engine and push it; and what else here talks to that engine shares."""

from __future__ import annotations

import errno
import math
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, TypeAlias, TypeVar

from dokrun.errors import BuildFailed, ImageError, RegistryError
from dokrun.image.context import DOCKERFILE, FULL, PLATFORM, write_context
from dokrun.image.credentials import Credentials
from dokrun.image.reference import DIGEST
from dokrun.image.spec import Image
from dokrun.secret import HIDDEN, Secret

Progress: TypeAlias = Callable[[str], None]
T = TypeVar("T")

LOG_LINES = 40
# Between the times that the engine is told to pull or push: what is there already is not sent again.
_PAUSES_S = (1.0, 4.0)

_STEP = re.compile(r"Step \d+/\d+ : (.*)")
# The engine shows these lines with their values.
_VALUES = re.compile(r"^((?:Step \d+/\d+ : )?(?:ENV|ARG|LABEL)\s+[^\s=]+)[\s=].*", re.IGNORECASE)
# The engine paints red whatever a step writes to its standard error.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LINE = re.compile(r"\bline (\d+)")
_QUERY = re.compile(r"(\bhttps?://[^\s\"'?]*)\?[^\s\"']*")
_USER = re.compile(r"(\b[a-z+]+://)[^\s/@\"']*@")
_BROKE_OFF = "the Docker engine's answer broke off"
# What a registry says for good, through the engine.
_FOR_GOOD = re.compile(r"unauthori[sz]ed|denied|forbidden|authentication|credentials|not found|unknown", re.IGNORECASE)
_TO_BUILD = 'this image must be built first; one that is in a registry already needs no building: image="name:tag"'
# A shorter value of a build argument is a version or a flag, and blanking it would only blur the log.
_SHORTEST_SECRET = 8


@dataclass(frozen=True)
class Limits:
    """How long the engine may say nothing, and how long all of a build and its push may take, in seconds."""

    # It may say nothing for minutes while a registry takes a large layer.
    silence_s: float = 900.0
    longest_s: float = 4 * 3600.0


@dataclass(frozen=True)
class Base:
    """What an image is built on, with its digest, `name@sha256:…`; without `auth`, Docker's own credentials pull it."""

    pinned: str
    auth: Credentials | None = None


def build_and_push(
    image: Image,
    bases: Mapping[str, Base],
    tag: str,
    *,
    auth: Credentials | None = None,
    progress: Progress = lambda _line: None,
    check: Callable[[], None] = lambda: None,
    limits: Limits = Limits(),
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Build an image for linux/amd64 and push it to its registry.

    Args:
        image: what to build.
        bases: of the names that it is built on; those that are not among them are taken as they are written.
        tag: the whole name to push, `host/name:tag`.
        auth: for the push; without it, what Docker's own configuration has for that host.
        progress: is given each line that the engine writes.
        check: is called when the image is built; what it raises keeps the image from being pushed.
        limits: after which the engine's work counts as failed.
        sleep: waits between the times that a base is pulled, or the image is pushed.

    Returns:
        The pushed manifest's digest, `sha256:…`.

    Raises:
        BuildFailed: a step failed; has it, and the end of the log.
        RegistryError: the registry did not take the image, or did not give the base.
        ImageError: no Docker engine answers, or a file cannot be read.
    """
    arguments = image.recipe.build_args if image.recipe else ()
    secrets = [Secret(value) for _, value in arguments if len(value) >= _SHORTEST_SECRET]
    secrets += [given.password for given in (auth, *(base.auth for base in bases.values())) if given and given.password]
    transcript = Transcript(progress, secrets, time.monotonic() + limits.longest_s)
    with engine(_TO_BUILD, limits.silence_s) as client:
        for base in bases.values():
            if base.auth is not None:
                _again(partial(pull, client, base.pinned, base.auth, transcript), transcript, sleep)
        pins = {name: base.pinned for name, base in bases.items()}
        _again(partial(_build, client, image, pins, tag, transcript), transcript, sleep)
        check()
        return _again(partial(_push, client, tag, auth, transcript), transcript, sleep)


def _again(step: Callable[[], T], transcript: Transcript, sleep: Callable[[float], object]) -> T:
    """Pull, build or push, again where that may help: what has a digest is the same each time."""
    for pause_s in _PAUSES_S:
        try:
            return step()
        except (BuildFailed, RegistryError) as error:
            if _is_final(error) or time.monotonic() > transcript.ends_at:
                raise
            transcript.progress(f"{str(error).splitlines()[0]}; trying again")
        sleep(pause_s)
    return step()


def _is_final(error: ImageError) -> bool:
    """Tell what stays as it is: that a step fails, and what a registry says for good."""
    text = str(error)
    return _BROKE_OFF not in text if isinstance(error, BuildFailed) else _FOR_GOOD.search(text) is not None


@dataclass
class Transcript:
    """What the engine writes: whole lines, without secrets, and the step that they belong to; and when it must end."""

    progress: Progress
    secrets: list[Secret]
    # On the clock that only goes forwards.
    ends_at: float = math.inf
    step: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    _rest: str = ""

    def clean(self, text: str) -> str:
        """Blank the secrets of a text."""
        for secret in self.secrets:
            text = text.replace(secret.reveal(), HIDDEN)
        return _VALUES.sub(r"\1=…", _USER.sub(r"\1", _QUERY.sub(r"\1", text)))

    def write(self, message: dict[str, Any]) -> None:
        """Take a message of the engine's; those that only move a bar are left out."""
        if message.get("status") and not message.get("progressDetail"):
            layer = f"{message['id']}: " if message.get("id") else ""
            self._line(f"{layer}{message['status']}")
        *whole, self._rest = (self._rest + message.get("stream", "")).replace("\r\n", "\n").split("\n")
        for line in whole:
            self._line(line)

    def end(self) -> None:
        """Take what is left without its line's end."""
        rest, self._rest = self._rest, ""
        self._line(rest)

    def _line(self, text: str) -> None:
        line = self.clean(_COLOUR.sub("", text).rstrip())
        if not line:
            return
        if found := _STEP.match(line):
            self.step = found[1]
        self.lines.append(line)
        self.progress(line)


@contextmanager
def engine(what_for: str, silence_s: float = Limits.silence_s) -> Iterator[Any]:
    """Open the local Docker engine, as its SDK's low-level client.

    Args:
        what_for: why there must be one, and what does without; it ends the error's sentence.
        silence_s: how long it may say nothing, in seconds.

    Raises:
        ImageError: none answers.
    """
    import docker  # type: ignore[import-untyped]

    try:
        client = docker.from_env(timeout=silence_s)
    except (docker.errors.DockerException, OSError, ValueError):
        # The error's own text may hold an address with a user in it.
        raise ImageError(
            f"no Docker engine answers: start Docker here (`docker info` tells), or set DOCKER_HOST; {what_for}"
        ) from None
    try:
        yield client.api
    finally:
        client.close()


def _messages(
    begin: Callable[[], Iterator[dict[str, Any]]], transcript: Transcript, failure: Callable[[str], ImageError]
) -> Iterator[dict[str, Any]]:
    """Yield the engine's messages, to be written down; whatever goes wrong on the way becomes a failure of ours."""
    problem = ""
    try:
        for message in begin():
            yield message
            problem = str(message.get("error", problem))
            if time.monotonic() > transcript.ends_at:
                problem = "it takes too long"
                break
    except failures() as error:
        problem = told(error)
    transcript.end()
    if problem:
        raise failure(transcript.clean(problem))


def failures() -> tuple[type[Exception], ...]:
    """List what the SDK raises: errors of its own, and those of the connection."""
    import docker
    import urllib3

    return (docker.errors.DockerException, docker.errors.StreamParseError, OSError, urllib3.exceptions.HTTPError)


def told(error: Exception) -> str:
    """Tell what the engine said, or that it is lost."""
    import docker

    if isinstance(error, docker.errors.APIError):
        return str(error.explanation or f"status {error.status_code}")
    if isinstance(error, docker.errors.DockerException):
        return str(error)
    return f"{_BROKE_OFF} ({type(error).__name__})"


def pull(client: Any, base: str, auth: Credentials | None, transcript: Transcript) -> None:
    """Pull an image for linux/amd64; without `auth`, with what Docker's own configuration has. Raises RegistryError."""
    name, _, digest = base.partition("@")

    def begin() -> Any:
        return client.pull(
            name, tag=digest, stream=True, decode=True, platform=PLATFORM, auth_config=_credentials(auth)
        )

    for message in _messages(begin, transcript, _refused(f"pull {base}", name)):
        transcript.write(message)


def _build(client: Any, image: Image, pins: Mapping[str, str], tag: str, transcript: Transcript) -> None:
    with _temporary_file() as context:
        write_context(image, pins, context)
        context.seek(0)

        def begin() -> Any:
            return client.build(
                fileobj=context,
                custom_context=True,
                dockerfile=DOCKERFILE,
                tag=tag,
                platform=PLATFORM,
                buildargs=dict(image.recipe.build_args) if image.recipe else {},
                # The SDK's default for a build alone is none at all.
                timeout=max(0.0, transcript.ends_at - time.monotonic()),
                rm=True,
                forcerm=True,
                decode=True,
            )

        def failed(problem: str) -> BuildFailed:
            step, log = transcript.step or _named_line(problem, image), "\n".join(transcript.lines)
            message = f"the image could not be built: {problem}\nthe step that failed: {step or 'none was begun'}"
            end = f"\nthe end of its log:\n{log}" if log else ""
            return BuildFailed(f"{message}{end}\nmend that step, and call again", step=step, log=log)

        for message in _messages(begin, transcript, failed):
            transcript.write(message)


@contextmanager
def _temporary_file() -> Iterator[IO[bytes]]:
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        # Python's own word for no folder with room is that there is none.
        if error.errno not in (*FULL, errno.ENOENT):
            raise
        raise ImageError(
            f"the image was not built, since this machine cannot write what it is built from: {error.strerror}; make "
            "room where temporary files lie, or set TMPDIR to a folder that has some, and call again"
        ) from None


def _named_line(problem: str, image: Image) -> str:
    """Tell the line of the Dockerfile that the engine names where it cannot even read it."""
    lines = image.dockerfile.splitlines()
    found = _LINE.search(problem)
    return _VALUES.sub(r"\1=…", lines[int(found[1]) - 1]) if found and 0 < int(found[1]) <= len(lines) else ""


def _push(client: Any, tag: str, auth: Credentials | None, transcript: Transcript) -> str:
    repository, _, version = tag.rpartition(":")

    def begin() -> Any:
        return client.push(repository, tag=version, stream=True, decode=True, auth_config=_credentials(auth))

    digest = ""
    for message in _messages(begin, transcript, _refused(f"push {tag}", repository)):
        transcript.write(message)
        digest = (message.get("aux") or {}).get("Digest", digest)
    if not DIGEST.fullmatch(str(digest)):
        raise _refused(f"push {tag}", repository)("the engine did not tell the digest of what it pushed")
    return str(digest)


def _credentials(auth: Credentials | None) -> dict[str, str] | None:
    return None if auth is None else {"username": auth.username, "password": auth.password.reveal()}


def _refused(action: str, repository: str) -> Callable[[str], RegistryError]:
    host = _host(repository)

    def failure(problem: str) -> RegistryError:
        return RegistryError(
            f"could not {action}: {problem}; look whether {host} can be reached and `docker login {host}` allows it",
            host=host,
        )

    return failure


def _host(repository: str) -> str:
    first = repository.partition("/")[0]
    return first if "." in first or ":" in first or first == "localhost" else "docker.io"
