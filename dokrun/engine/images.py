"""From what the user says of the environment to what the task names: an image that is there, and who may pull it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from dokrun import errors
from dokrun.api import Client
from dokrun.config import Settings
from dokrun.engine.access import BRIEFLY_S, Access
from dokrun.engine.registries import credentials_of
from dokrun.engine.seen import Seen
from dokrun.image import build, context
from dokrun.image.credentials import DOCKER_HUB, Credentials
from dokrun.image.reference import Reference, host_of
from dokrun.image.registry import Registry
from dokrun.image.spec import Image

_log = logging.getLogger("dokrun.engine")

_OFFICIAL = "docker.io/library/python:"
NO_REGISTRY = (
    "no registry is configured to keep the image that has to be built: set DOKRUN_REGISTRY to HOST/NAMESPACE, or name "
    "under [registry] in config.toml, of a registry that you can push to"
)
_FINGERPRINT = 40
_TAG = f"[0-9a-f]{{{_FINGERPRINT}}}"


@dataclass(frozen=True)
class Ready:
    """An image that a task can name, DOK's id of the credentials that it takes to pull it, and its Python if known."""

    reference: str
    registry_id: str | None = None
    python: str | None = None


class Images:
    """Makes images ready, each once in the life of an engine.

    Args:
        settings: where built images are kept, and whether tasks use images at all.
        client: DOK, which knows the credentials of registries; None where nothing is to run there.
        environ: where Docker's own configuration is found.
        now: tells the seconds since 1970.
        registries: makes what asks registries.
        sleep: waits between the times that an image is pushed.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client | None,
        *,
        environ: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.time,
        registries: Callable[..., Registry] = Registry,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._registries = registries
        self._sleep = sleep
        self._access = None if client is None else Access(client, self._credentials, registries)
        self._seen = Seen(settings.state_dir, now)
        self._making = threading.Lock()
        self._ready: dict[Image | str, Ready] = {}
        # By the name to push, which stands for the contents of the files as well.
        self._made: dict[Reference, Ready] = {}

    def known(self, image: Image | str | None) -> Ready | None:
        """Tell an image that needs no look and no building, or None."""
        if not self._settings.uses_images:
            return Ready((image.base if isinstance(image, Image) else image) or default_image())
        if image is None:
            return Ready(str(self._official(default_image())), python=".".join(map(str, sys.version_info[:2])))
        return self._ready.get(image)

    def ready(self, image: Image | str | None, *, any_python: bool = False) -> Ready:
        """Make an image ready: look it up, build it if nobody has.

        Args:
            image: which.
            any_python: whether one that is used as it is may have whatever Python, or none.

        Raises:
            ImageError: it cannot be found, built, kept or pulled.
            VersionMismatch: its Python cannot read what this one pickles.
        """
        # One at a time; whoever comes second finds what the first has made.
        with self._making:
            known = self.known(image)
            if known is not None or image is None:
                return known or Ready(default_image())
            if isinstance(image, str):
                ready = self._as_it_is(image, Reference.parse(image), any_python=any_python)
            elif image.is_plain:
                base = self._official(image.base or "")
                ready = self._as_it_is(str(base), base, any_python=any_python)
            else:
                ready = self._built(image)
            if not any_python and (isinstance(image, str) or not _has_files(image)):
                self._ready[image] = ready
            return ready

    def _as_it_is(self, name: str, reference: Reference, *, any_python: bool) -> Ready:
        python = self._python(reference)
        if python is None and self._hides_nothing(reference):
            raise errors.ImageError(f"there is no image {reference}; check its name and tag")
        if not any_python:
            _check(name, python)
        try:
            registry_id = None if self._access is None else self._access.id_of(reference)
        except errors.RegistryError as error:
            # A broken helper of Docker's must not keep anybody from a public image.
            _log.warning("taking %s for a public image: %s", name, error)
            registry_id = None
        return Ready(name, registry_id, python or None)

    def _built(self, image: Image) -> Ready:
        if self._settings.registry is None:
            raise errors.ImageError(NO_REGISTRY)
        bases = {name: self._official(name) for name in context.bases(image)}
        with closing(self._registries(self._credentials)) as registry:
            digests = {name: self._base_digest(base, registry) for name, base in bases.items()}
            target = Reference.parse(f"{self._settings.registry.name}/dokrun:{_tag(image, digests)}")
            if target in self._made:
                return self._made[target]
            python = None
            if image.base is not None:
                base = bases[image.base]
                python = self._python(Reference.parse(base.pinned(digests[image.base])))
                _check(str(base), python)
            found = registry.digest(target)
        # Before anything is built: who builds for minutes shall not learn afterwards that DOK cannot pull it.
        registry_id = None if self._access is None else self._access.id_of(target, is_ours=True)
        if found is None:
            found = self._build(image, bases, digests, target)
        pinned = target.pinned(found)
        if image.base is None:
            # Whatever its bases have, a Dockerfile may bring another.
            python = self._python(Reference.parse(pinned))
            _check(str(target), python)
        self._made[target] = Ready(pinned, registry_id, python or None)
        return self._made[target]

    def _build(
        self, image: Image, bases: Mapping[str, Reference], digests: Mapping[str, str], target: Reference
    ) -> str:
        def check() -> None:
            # The name was made of what was read before, and others rely on it.
            if _tag(image, digests) != target.tag:
                raise errors.ImageError(f"a file of {image} changed while the image was being built; call again")

        try:
            return build.build_and_push(
                image,
                {
                    name: build.Base(base.pinned(digests[name]), self._credentials(base.host))
                    for name, base in bases.items()
                },
                str(target),
                auth=self._credentials(target.host),
                progress=_tell,
                check=check,
                sleep=self._sleep,
            )
        except errors.ImageError:
            for base in bases.values():
                # It may be that the registry no longer has what the name stood for.
                self._seen.forget_digest(str(base))
            raise

    def _official(self, name: str) -> Reference:
        """Read a base's name; a mirror stands in for Docker Hub where it is one of the official images of Python."""
        reference = Reference.parse(name)
        if self._settings.hub_mirror is None or not name.startswith(_OFFICIAL):
            return reference
        return replace(reference, host=host_of(self._settings.hub_mirror))

    def _base_digest(self, base: Reference, registry: Registry) -> str:
        digest = base.digest or self._seen.digest(str(base))
        if digest is None:
            digest = registry.digest(base)
            if digest is None:
                raise errors.ImageError(f"there is no image {base} to build on; check its name and tag")
            self._seen.keep_digest(str(base), digest)
        return digest

    def _python(self, reference: Reference) -> str | None:
        """Tell the version of Python in an image, "" where nothing tells it; None where the registry has no such image.

        No failure to look is one of the call.
        """
        pinned = reference.pinned(reference.digest) if reference.digest else None
        if pinned is not None and (kept := self._seen.python(pinned)) is not None:
            return kept
        try:
            with closing(self._registries(self._credentials, attempts=1, limit_s=BRIEFLY_S)) as registry:
                version = registry.python_version(reference)
        except Exception as error:  # noqa: BLE001 - whatever it is, the shim checks the version again
            _log.debug("the version of Python in %s is not known: %s", reference, error)
            return ""
        if pinned is not None and version is not None:
            self._seen.keep_python(pinned, version)
        return version

    def _hides_nothing(self, reference: Reference) -> bool:
        """Tell whether it is true when a registry says that there is no image: some say so of private ones."""
        return reference.loopback or reference.host == DOCKER_HUB or self._credentials(reference.host) is not None

    def _credentials(self, host: str) -> Credentials | None:
        return credentials_of(self._settings, host, self._environ)


def ready_image(settings: Settings, image: Image | str | None) -> Ready:
    """Make an image ready for the account of some settings: look it up, build and push it if nobody has.

    Raises:
        ImageError: it cannot be found, built, kept or pulled.
        VersionMismatch: its Python cannot read what this one pickles.
    """
    with Client(settings.access_token, settings.access_token_secret, base_url=settings.api_url) as client:
        return Images(settings, client).ready(image)


def built(settings: Settings) -> list[str]:
    """Tell the images that dokrun has built and pushed to the configured registry, by their names.

    Raises:
        ConfigError: none is configured.
        ImageError: it refused, or gave no answer.
    """
    if settings.registry is None:
        raise errors.ConfigError(NO_REGISTRY)
    reference = Reference.parse(f"{settings.registry.name}/dokrun")
    with closing(Registry(lambda host: credentials_of(settings, host))) as registry:
        tags = registry.tags(reference)
    return [f"{reference.host}/{reference.repository}:{tag}" for tag in tags if re.fullmatch(_TAG, tag)]


def default_image() -> str:
    """Tell the official slim image of this interpreter's own version, whose pickles it can read."""
    return f"{_OFFICIAL}{sys.version_info.major}.{sys.version_info.minor}-slim"


def _tag(image: Image, digests: Mapping[str, str]) -> str:
    """Tell what stands for all that an image holds, and for the digests of its bases."""
    return context.fingerprint(image, digests)[:_FINGERPRINT]


def _has_files(image: Image) -> bool:
    """Tell whether an image holds files of this machine, which may be others at the next call."""
    return image.recipe is not None or any(step.copied for step in image.steps)


def _check(name: str, python: str | None) -> None:
    """Refuse an image whose Python is another than the one that pickles."""
    found = re.match(r"(\d+)\.(\d+)", python or "")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if found is None or f"{found[1]}.{found[2]}" == here:
        return
    message = (
        f"{name} has Python {python}, and what is pickled here, by Python {here}, cannot be relied on there; "
        f'write image=dok.Image.debian_slim("{here}"), or run this with Python {found[1]}.{found[2]}'
    )
    raise errors.VersionMismatch(message, ran="no")


def _tell(line: str) -> None:
    # A build goes on though nobody listens any more, or a disk that the words go to is full.
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr)
