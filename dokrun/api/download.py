"""Download what the service hands out an address for: streamed, resumed where it broke, whole or not at all."""

from __future__ import annotations

import codecs
import os
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

import httpx

from dokrun import errors
from dokrun.api.connection import Connection, chunks

# Told the bytes so far, and in all or None where nobody knows.
Progress = Callable[[int, "int | None"], None]

_PROGRESS_BYTES = 1 << 20
# Any line that is in use carries more; what is slower is held up on purpose, or never ends.
SLOWEST_BYTES_PER_S = 10_000
PATIENCE_S = 60.0


def download(
    connection: Connection,
    address: Callable[[], str],
    path: Path,
    *,
    limit_bytes: int,
    on_progress: Progress | None = None,
) -> Path:
    """Write what lies at an address to `path`: aside, then renamed.

    Args:
        connection: where the request goes through.
        address: asks the service for a time-limited address; asked again whenever the transfer broke.
        path: where the file shall be; its folder exists.
        limit_bytes: more than this is refused.
        on_progress: told how far it is with every MiB and at the end; fewer than before where it had to begin again.

    Raises as `stream` does.
    """
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with (
            os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "wb") as file,
            closing(stream(connection, address, limit_bytes=limit_bytes, on_progress=on_progress)) as pieces,
        ):
            file.writelines(pieces)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def stream(
    connection: Connection, address: Callable[[], str], *, limit_bytes: int, on_progress: Progress | None = None
) -> Generator[bytes, None, None]:
    """Yield what lies at an address, piece by piece, each byte once; it goes on where it broke.

    The arguments are those of `download`. Whoever does not take all of it closes it.

    Raises:
        NoAnswer: it broke, more often than the connection's backoff allows without coming any further, or is too slow.
        InvalidAnswer: it is larger than `limit_bytes`, or another part came than was asked for.
        Refused: the service gives no address, or none that is good.
    """
    came, failures, pace = 0, 0, _Pace(connection)
    while True:
        before = came
        try:
            for piece in _rest(connection, _told(address), came, limit_bytes, on_progress or _ignore, pace=pace):
                came += len(piece)
                yield piece
        # An address is good for a time that the service does not tell.
        except (errors.NoAnswer, errors.Forbidden):
            failures = 0 if came > before else failures + 1
            if pace.too_slow or failures >= connection.backoff.attempts:
                raise
            connection.backoff.sleep(connection.backoff.pause_s(max(1, failures)))
        else:
            return


def text(connection: Connection, address: Callable[[], str], *, limit_bytes: int) -> Generator[str, None, None]:
    """Yield the text that lies at an address, piece by piece; what is not UTF-8 is replaced.

    Raises:
        NoAnswer: it broke, or is too slow.
        InvalidAnswer: it is larger than `limit_bytes`.
        Refused: the service gives no address, or the address is not good.
    """
    decoder, came = codecs.getincrementaldecoder("utf-8")(errors="replace"), 0
    with closing(connection.open(address())) as response:
        path, expected = response.request.url.path, _length(response)
        for chunk in _Pace(connection).keep(chunks(response), path):
            came += len(chunk)
            _check_size(path, came, limit_bytes)
            yield decoder.decode(chunk)
        _check_whole(path, came, expected)
    yield decoder.decode(b"", final=True)


def whole_text(connection: Connection, address: Callable[[], str], *, limit_bytes: int) -> str:
    """Read the text that lies at an address as `text` does, from its beginning again where it broke."""
    for attempt in range(1, connection.backoff.attempts):
        try:
            return "".join(text(connection, address, limit_bytes=limit_bytes))
        except errors.NoAnswer:
            connection.backoff.sleep(connection.backoff.pause_s(attempt))
    return "".join(text(connection, address, limit_bytes=limit_bytes))


class _Pace:
    """Ends what comes too slowly: a byte a second beats every timeout of a single read.

    Only the waiting counts, not what is done with the pieces; over all transfers, where one goes on after another.
    """

    def __init__(self, connection: Connection) -> None:
        self._steady = connection.clock.steady
        self._came = 0
        self._waited_s = 0.0

    @property
    def too_slow(self) -> bool:
        """Whether it has taken longer than what came is allowed to."""
        return self._waited_s > PATIENCE_S + self._came / SLOWEST_BYTES_PER_S

    def keep(self, pieces: Iterator[bytes], path: str) -> Iterator[bytes]:
        """Yield the pieces. Raises NoAnswer where they come too slowly."""
        while True:
            began = self._steady()
            piece = next(pieces, None)
            self._waited_s += self._steady() - began
            if piece is None:
                return
            self._came += len(piece)
            if self.too_slow:
                slowest = f"{SLOWEST_BYTES_PER_S // 1000} kB a second"
                raise errors.NoAnswer(f"GET {path}: less than {slowest} came", method="GET", path=path)
            yield piece


def _told(address: Callable[[], str]) -> str:
    """Ask for an address; an answer that cannot be read is as good as none."""
    try:
        return address()
    except errors.InvalidAnswer as error:
        raise errors.NoAnswer(str(error), method=error.method, path=error.path) from error


def _rest(
    connection: Connection, url: str, start: int, limit_bytes: int, on_progress: Progress, *, pace: _Pace
) -> Iterator[bytes]:
    """Yield what comes after so many bytes."""
    with closing(connection.open(url, start=start)) as response:
        path, at = response.request.url.path, start
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            at = 0  # the server does not know ranges, and begins again
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise _another(path)
        length = _length(response)
        expected = None if length is None else at + length
        told = began = at
        for chunk in pace.keep(chunks(response), path):
            at += len(chunk)
            _check_size(path, at, limit_bytes)
            if at > start:
                yield chunk[max(0, len(chunk) - (at - start)) :]
            if at - told >= _PROGRESS_BYTES:
                told = at
                on_progress(told, expected)
    _check_whole(path, at, expected)
    if at < start:
        raise _another(path)
    if at != told or told == began:
        on_progress(at, expected)


def _another(path: str) -> errors.InvalidAnswer:
    return errors.InvalidAnswer(f"GET {path}: another part came than was asked for", method="GET", path=path)


def _ignore(_so_far: int, _total: int | None) -> None:
    """Tell nobody."""


def _length(response: httpx.Response) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) if length is not None and length.isdecimal() else None


def _check_size(path: str, came: int, limit_bytes: int) -> None:
    if came > limit_bytes:
        raise errors.InvalidAnswer(f"GET {path}: more than {limit_bytes} bytes came", method="GET", path=path)


def _check_whole(path: str, came: int, expected: int | None) -> None:
    if expected not in (None, came):
        raise errors.NoAnswer(f"GET {path}: {came} of {expected} bytes came", method="GET", path=path)
