"""What a container registry says of an image: the digest, and the version of Python in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from dokrun.errors import ImageError
from dokrun.image.connection import Answer, Connection, broken, decode
from dokrun.image.reference import DIGEST, Reference

# DOK's machines have no other.
_PLATFORM = ("linux", "amd64")

# As many as most registries tell at once.
_TAGS_AT_ONCE = 100

T = TypeVar("T")


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""


class _Descriptor(msgspec.Struct):
    digest: str
    platform: _Platform | None = None


class _Manifest(msgspec.Struct):
    config: _Descriptor | None = None
    manifests: list[_Descriptor] | None = None


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class _Environment(msgspec.Struct):
    variables: list[str] | None = msgspec.field(default=None, name="Env")


class _Configuration(msgspec.Struct):
    config: _Environment | None = None


@dataclass(frozen=True)
class _Found(Generic[T]):
    """What came, and the digest of its bytes."""

    digest: str
    content: T


class Registry(Connection):
    """Asks registries about images."""

    def digest(self, reference: Reference) -> str | None:
        """Tell the digest of what a name stands for now, in one request; None where there is no such image.

        Raises:
            RegistryError: the registry refused, or gave no answer.
        """
        self.begin()

        def told(answer: Answer) -> str:
            digest = answer.headers.get("Docker-Content-Digest", "")
            if DIGEST.fullmatch(digest) and reference.digest not in (None, digest):
                raise broken(reference, "it names another digest than the one asked for")
            return digest

        digest = self.ask("HEAD", reference, _manifest_path(reference), told)
        if digest is None or DIGEST.fullmatch(digest):
            return digest
        found = self._get(reference, _manifest_path(reference), reference.digest, _Manifest)
        return None if found is None else found.digest

    def python_version(self, reference: Reference) -> str | None:
        """Tell the version of Python, such as 3.11.9, that the image's configuration names; "" where it names none.

        None where there is no such image.

        Raises:
            RegistryError: the registry refused, gave no answer, or what it gave is broken.
            ImageError: there is no variant of the image for DOK's machines.
        """
        self.begin()
        found = self._get(reference, _manifest_path(reference), reference.digest, _Manifest)
        if found is None:
            return None
        manifest: _Manifest | None = found.content
        if found.content.manifests is not None:
            manifest = self._content(reference, "manifests", _variant(found.content.manifests, reference), _Manifest)
        if manifest is None or manifest.config is None or not DIGEST.fullmatch(manifest.config.digest):
            raise broken(reference, "its manifest names no configuration")
        configuration = self._content(reference, "blobs", manifest.config.digest, _Configuration)
        if configuration is None:
            raise broken(reference, "it does not have the configuration that its manifest names")
        variables = (configuration.config or _Environment()).variables or []
        return dict(variable.partition("=")[::2] for variable in variables).get("PYTHON_VERSION", "")

    def tags(self, reference: Reference) -> list[str]:
        """Tell the tags of an image's repository; none where there is no such repository.

        Raises:
            RegistryError: the registry refused, or gave no answer.
        """
        self.begin()
        found: dict[str, None] = {}
        last = ""
        while True:
            path = f"tags/list?n={_TAGS_AT_ONCE}" + (f"&last={last}" if last else "")
            page = self.ask("GET", reference, path, lambda answer: _page(answer, reference))
            fresh = [] if page is None else [tag for tag in page.tags if tag not in found]
            found.update(dict.fromkeys(fresh))
            if page is None or not page.goes_on or not fresh:
                return list(found)
            last = fresh[-1]

    def _content(self, reference: Reference, kind: str, digest: str, type_: type[T]) -> T | None:
        found = self._get(reference, f"{kind}/{digest}", digest, type_)
        return None if found is None else found.content

    def _get(self, reference: Reference, path: str, digest: str | None, type_: type[T]) -> _Found[T] | None:
        """Fetch a manifest or a blob, compare it with its digest and read it."""

        def read(answer: Answer) -> _Found[T]:
            found = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
            if digest not in (None, found):
                raise broken(reference, "what came does not match its digest")
            return _Found(found, decode(answer.body, type_, reference))

        return self.ask("GET", reference, path, read)


@dataclass(frozen=True)
class _Page:
    """Some tags, and whether more follow."""

    tags: list[str]
    goes_on: bool


def _page(answer: Answer, reference: Reference) -> _Page:
    return _Page(decode(answer.body, _Tags, reference).tags or [], "Link" in answer.headers)


def _manifest_path(reference: Reference) -> str:
    return f"manifests/{reference.digest or reference.tag}"


def _variant(manifests: list[_Descriptor], reference: Reference) -> str:
    for one in manifests:
        platform = one.platform or _Platform()
        if (platform.os, platform.architecture) == _PLATFORM and DIGEST.fullmatch(one.digest):
            return one.digest
    raise ImageError(
        f"{reference} has no variant for {'/'.join(_PLATFORM)}, which DOK's machines are; name another image"
    )
