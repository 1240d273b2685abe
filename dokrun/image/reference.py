"""The name of an image, read as Docker reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dokrun.errors import ImageError
from dokrun.image.credentials import DOCKER_HUB, canonical_host
from dokrun.image.spec import HOST, REFERENCE

_DOCKER_HUB_API = "registry-1.docker.io"

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """The name of an image: `host/repository:tag`, `host/repository@sha256:…`, or both."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a name as Docker does: without a host it is Docker Hub's, without tag and digest it is `latest`.

        Raises:
            ImageError: it is not the name of an image.
        """
        found = REFERENCE.fullmatch(text)
        if found is None:
            # What stands before an @ may be a password.
            shown = "that" if "@" in text else repr(text)
            raise ImageError(
                f"{shown} is not the name of an image; write one as HOST/NAME:TAG, such as python:3.11-slim"
            )
        host = canonical_host((found["host"] or DOCKER_HUB).lower())
        repository, tag, digest = found["repository"], found["tag"], found["digest"]
        if host == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return cls(host, repository, tag or (None if digest else "latest"), digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def loopback(self) -> bool:
        """Whether the registry is on this machine, where it needs no TLS."""
        return re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?", self.host) is not None

    @property
    def base_url(self) -> str:
        """The address below which the registry tells of this image."""
        host = _DOCKER_HUB_API if self.host == DOCKER_HUB else self.host
        return f"{'http' if self.loopback else 'https'}://{host}/v2/{self.repository}"

    def pinned(self, digest: str) -> str:
        """Tell the name that stands for one content for ever."""
        return f"{self.host}/{self.repository}@{digest}"


def host_of(text: str) -> str:
    """Read a registry's host, with its port if it has one, as references name it.

    Raises:
        ImageError: it is not a host alone.
    """
    host = canonical_host(text.lower())
    if not re.fullmatch(HOST, host):
        shown = "that" if "@" in text else repr(text)
        raise ImageError(f"{shown} is not a registry's host; write it alone, such as docker.io or localhost:5000")
    return host
