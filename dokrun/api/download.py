"""Download what the service hands out an address for: streamed, resumed where it broke, whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import httpx

from dokrun import errors
from dokrun.api.connection import Connection, chunks


def download(connection: Connection, address: Callable[[], str], path: Path, *, limit_bytes: int) -> Path:
    """Write what lies at an address to `path`: aside, then renamed.

    Args:
        connection: where the request goes through.
        address: asks the service for a time-limited address; asked again whenever the transfer broke.
        path: where the file shall be; its folder exists.
        limit_bytes: more than this is refused.

    Raises:
        NoAnswer: it broke, more often than the connection's backoff allows without coming any further.
        InvalidAnswer: it is larger than `limit_bytes`, or another part came than was asked for.
        Refused: the service gives no address, or the address is not good.
    """
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    failures, furthest = 0, 0
    try:
        with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "wb") as file:
            while True:
                try:
                    _append(connection, address(), file, limit_bytes)
                    break
                except errors.NoAnswer:
                    failures = 0 if file.tell() > furthest else failures + 1
                    furthest = max(furthest, file.tell())
                    if failures >= connection.backoff.attempts:
                        raise
                    connection.backoff.sleep(connection.backoff.pause_s(max(1, failures)))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _append(connection: Connection, url: str, file: BinaryIO, limit_bytes: int) -> None:
    with closing(connection.open(url, start=file.tell())) as response:
        path = response.request.url.path
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            file.seek(0)  # the server does not know ranges, and begins again
            file.truncate()
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {file.tell()}-"):
            raise errors.InvalidAnswer(f"GET {path}: another part came than was asked for", method="GET", path=path)
        length = response.headers.get("Content-Length")
        expected = None if length is None else file.tell() + int(length)
        for chunk in chunks(response):
            file.write(chunk)
            if file.tell() > limit_bytes:
                raise errors.InvalidAnswer(f"GET {path}: more than {limit_bytes} bytes came", method="GET", path=path)
    if expected not in (None, file.tell()):
        raise errors.NoAnswer(f"GET {path}: {file.tell()} of {expected} bytes came", method="GET", path=path)
