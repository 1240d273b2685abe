"""What a container registry says of an image: the digest, and the version of Python in it."""

from __future__ import annotations

import hashlib
from http import HTTPStatus

import msgspec

from dokrun.errors import ImageError
from dokrun.image.connection import Connection, broken, decode
from dokrun.image.reference import DIGEST, Reference

# DOK's machines have no other.
_PLATFORM = ("linux", "amd64")


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""


class _Descriptor(msgspec.Struct):
    digest: str
    platform: _Platform | None = None


class _Manifest(msgspec.Struct):
    config: _Descriptor | None = None
    manifests: list[_Descriptor] | None = None


class _Environment(msgspec.Struct):
    variables: list[str] | None = msgspec.field(default=None, name="Env")


class _Configuration(msgspec.Struct):
    config: _Environment | None = None


class Registry(Connection):
    """Asks registries about images."""

    def digest(self, reference: Reference) -> str | None:
        """Tell the digest of what a name stands for now, in one request; None where there is no such image.

        Raises:
            RegistryError: the registry refused, or gave no answer.
        """
        self.begin()
        answer = self.ask("HEAD", reference, _manifest_path(reference))
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        told = answer.headers.get("Docker-Content-Digest", "")
        if DIGEST.fullmatch(told):
            if reference.digest not in (None, told):
                raise broken(reference, "it names another digest than the one asked for")
            return told
        manifest = self._get(reference, _manifest_path(reference), reference.digest)
        return None if manifest is None else _sha256(manifest)

    def python_version(self, reference: Reference) -> str | None:
        """Tell the version of Python, such as 3.11.9, that the image's configuration names; "" where it names none.

        None where there is no such image.

        Raises:
            RegistryError: the registry refused, gave no answer, or what it gave is broken.
            ImageError: there is no variant of the image for DOK's machines.
        """
        self.begin()
        content = self._get(reference, _manifest_path(reference), reference.digest)
        if content is None:
            return None
        manifest = decode(content, _Manifest, reference)
        if manifest.manifests is not None:
            digest = _variant(manifest.manifests, reference)
            content = self._get(reference, f"manifests/{digest}", digest)
            manifest = decode(content or b"", _Manifest, reference)
        if manifest.config is None or not DIGEST.fullmatch(manifest.config.digest):
            raise broken(reference, "its manifest names no configuration")
        blob = self._get(reference, f"blobs/{manifest.config.digest}", manifest.config.digest)
        environment = decode(blob or b"", _Configuration, reference).config or _Environment()
        variables = dict(variable.partition("=")[::2] for variable in environment.variables or [])
        return variables.get("PYTHON_VERSION", "")

    def _get(self, reference: Reference, path: str, digest: str | None) -> bytes | None:
        """Fetch a manifest or a blob, and compare it with its digest."""
        answer = self.ask("GET", reference, path)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if digest is not None and _sha256(answer.body) != digest:
            raise broken(reference, "what came does not match its digest")
        return answer.body


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


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
