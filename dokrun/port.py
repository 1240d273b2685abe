"""The http port of a container, as the user says it. A value."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dokrun.errors import OptionError

_LARGEST = 65535
# What a path holds as it travels: no query, no fragment, nothing that would have to be escaped first.
_PATH = re.compile(r"/[\w\-./~!$&'()*+,;=:@%]*", re.ASCII)


@dataclass(frozen=True)
class Http:
    """Opens a port of the container to the world, for a server of your own: `http=dok.Http(8888, path="/lab")`.

    Args:
        port: where the server listens in the container, on all of its addresses, with plain HTTP; outside it is https.
        path: where it is to be opened.

    Examples:
        >>> @dok.remote(plan="v100-32gb", http=dok.Http(18591, path="/"))
        ... def serve(folder: str) -> None:
        ...     import subprocess, sys
        ...     subprocess.run([sys.executable, "-m", "http.server", "18591", "--directory", folder])
        >>> future = serve("/tmp")
        >>> future.http_uri
        'http://127.0.0.1:.../'
        >>> future.cancel()
        True
    """

    port: int
    path: str = "/"

    def __post_init__(self) -> None:
        port, path = self._given()
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port <= _LARGEST:
            raise OptionError(f"port={port!r} must be a whole number from 1 to {_LARGEST}")
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise OptionError(f'path={path!r} must be a path that begins with /, without a query; as in path="/lab"')

    def _given(self) -> tuple[object, object]:
        """Tell what was given, which those who do not read types get wrong."""
        return self.port, self.path
