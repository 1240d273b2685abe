"""What registries have said before, kept in the state folder, so that one request tells whether an image is there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dokrun import state
from dokrun.errors import ConfigError

_DAY_S = 86400.0
_MOST = 500
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Seen:
    """Digests of bases, good for a day, and versions of Python in images that are named by their digest, good for ever.

    It is a help and no more: a file that cannot be read or written is as good as none, and so is one that somebody
    else may have written.

    Args:
        folder: the state folder.
        now: tells the seconds since 1970.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._path = folder / "images.json"
        self._now = now

    def digest(self, reference: str) -> str | None:
        """Tell the digest that a name stood for within the last day."""
        entry = self._read("digests").get(reference)
        if not isinstance(entry, dict):
            return None
        digest, at = entry.get("digest"), entry.get("at")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(at, (int, float)):
            return None
        # A clock that was set back must not make it good for longer.
        return digest if 0 <= self._now() - at < _DAY_S else None

    def python(self, pinned: str) -> str | None:
        """Tell the version of Python in an image that is named by its digest."""
        version = self._read("pythons").get(pinned)
        return version if isinstance(version, str) else None

    def keep_digest(self, reference: str, digest: str) -> None:
        """Note what a name stands for now."""
        self._keep("digests", reference, {"digest": digest, "at": self._now()})

    def keep_python(self, pinned: str, version: str) -> None:
        """Note a version of Python."""
        self._keep("pythons", pinned, version)

    def forget_digest(self, reference: str) -> None:
        """Look again the next time."""
        self._keep("digests", reference, None)

    def _read(self, table: str) -> dict[str, Any]:
        try:
            state.check_file(self._path)
            with os.fdopen(os.open(self._path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
                found = json.load(file)[table]
        except (ConfigError, OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _keep(self, table: str, key: str, value: object) -> None:
        tables = {name: self._read(name) for name in ("digests", "pythons")}
        tables[table].pop(key, None)
        if value is not None:
            tables[table][key] = value
        # The oldest go first.
        tables[table] = dict(list(tables[table].items())[-_MOST:])
        aside = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}.part")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                json.dump(tables, file)
            aside.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()
