"""Who may pull an image: DOK's id of the credentials that a task takes for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing

from dokrun import errors
from dokrun.api import Client
from dokrun.api.models import Registry as KnownRegistry
from dokrun.engine.registries import known_of
from dokrun.image.credentials import Credentials
from dokrun.image.reference import Reference
from dokrun.image.registry import Registry

# What is only good to know is asked for once, and not waited for any longer.
BRIEFLY_S = 10.0
# What a registry says of an image that not everybody may pull, or that is not there.
_REFUSED = re.compile(r"\(HTTP status 40[134]\)")


class Access:
    """Finds the credentials that DOK keeps.

    Args:
        client: DOK.
        credentials: tells those that are found here for a host, or None.
        registries: makes what asks registries.
    """

    def __init__(
        self,
        client: Client,
        credentials: Callable[[str], Credentials | None],
        registries: Callable[..., Registry],
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._registries = registries

    def id_of(self, reference: Reference, *, is_ours: bool = False) -> str | None:
        """Tell DOK's id of the credentials for an image; None where it takes none.

        Args:
            reference: the image.
            is_ours: whether it is one that dokrun builds, whose registry has answered by now.

        Raises:
            ImageError: DOK has none that would do, or does not tell.
            RegistryError: Docker's file or helper is broken.
        """
        if reference.loopback:
            return None
        credentials = self._credentials(reference.host)
        if credentials is None:
            # Of what is ours, the registry has told by now without credentials.
            return None if is_ours or self._is_public(reference) is not False else self._only_id(reference)
        for one in self._known(reference.host):
            if one.username == credentials.username:
                return one.id
        public = self._is_public(reference)
        if public or (public is None and not is_ours):
            return None
        raise errors.ImageError(
            f"DOK does not know the registry {reference.host}; run: dokrun registry add {reference.host}"
        )

    def _only_id(self, reference: Reference) -> str:
        """Tell DOK's id of the credentials for a registry that only DOK has some for."""
        host = reference.host
        known = self._known(host)
        if not known:
            raise errors.ImageError(
                f"{reference} is not there for everybody to pull, and DOK does not know the registry {host}; check its "
                f"name and tag, or, if it is private, run: dokrun registry add {host}"
            )
        if len(known) > 1:
            raise errors.ImageError(
                f"DOK knows several users of the registry {host}, {', '.join(sorted(one.username for one in known))}; "
                f"to say which, run: docker login {host}"
            )
        return known[0].id

    def _known(self, host: str) -> list[KnownRegistry]:
        try:
            return known_of(self._client, host)
        except errors.ApiError as error:
            raise errors.ImageError(f"DOK did not tell which registries it knows: {error}") from error

    def _is_public(self, reference: Reference) -> bool | None:
        """Tell whether anybody may pull an image; None where the registry does not say."""
        with closing(self._registries(lambda _: None, attempts=1, limit_s=BRIEFLY_S)) as registry:
            try:
                return registry.digest(reference) is not None
            except errors.RegistryError as error:
                return False if _REFUSED.search(str(error)) else None
