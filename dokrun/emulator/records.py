"""What outlives the emulator's process: each record as JSON, in one SQLite file, or nowhere."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Records:
    """Records by kind and id, in the order in which they were first put. Without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            # It holds what tasks were told and the key; SQLite's own files take its mode.
            path.touch(mode=0o600)
        self._database = None if path is None else sqlite3.connect(path, isolation_level=None)
        if self._database is not None:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS record "
                "(position INTEGER PRIMARY KEY, kind TEXT, id TEXT, body BLOB, UNIQUE (kind, id))"
            )

    def put(self, kind: str, identity: str, value: object) -> None:
        """Keep a record, in place of the one of the same kind and id."""
        if self._database is not None:
            self._database.execute(
                "INSERT INTO record (kind, id, body) VALUES (?, ?, ?) "
                "ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
                (kind, identity, msgspec.json.encode(value)),
            )

    def remove(self, kind: str, identity: str) -> None:
        """Forget a record."""
        if self._database is not None:
            self._database.execute("DELETE FROM record WHERE kind = ? AND id = ?", (kind, identity))

    def all(self, kind: str, form: type[T]) -> Iterator[T]:
        """Yield all records of a kind, the oldest first."""
        if self._database is not None:
            rows = self._database.execute("SELECT body FROM record WHERE kind = ? ORDER BY position", (kind,))
            yield from (msgspec.json.decode(body, type=form) for (body,) in rows)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
