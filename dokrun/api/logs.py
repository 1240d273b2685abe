"""A task's log while it grows: live over the service's websocket, its rest from what the service collects at the end.

The contract does not say where a new connection begins: where the log does, or where it is by then. So what a new
connection brings first is compared with what has been yielded. As long as it is the same, it is skipped; if it is not,
nobody can tell what lies between, and the rest waits for the collected output, which does begin at the beginning.
Only a log whose beginning is repeated word for word later on could deceive that.
"""

from __future__ import annotations

import hashlib
import logging
import urllib.parse
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from dokrun import errors
from dokrun.api import models
from dokrun.api.transport import Backoff

_log = logging.getLogger("dokrun.api")
# Where websockets tells of each header that it sends, the token among them: nowhere. Its records carry the connection.
_nowhere = logging.Logger("websockets", logging.CRITICAL + 1)  # noqa: LOG001 - no setting of anybody's reaches it

LARGEST_MESSAGE_BYTES = 4 << 20
HEAD_CHARACTERS = 1024
# Patience with a collected output that does not show or does not come any further.
COLLECT_ATTEMPTS = 8
# Pauses no longer grow after this many.
_LAST_GROWTH = 30

# What fails so may do better the next time.
_PASSING = (errors.NoAnswer, errors.InvalidAnswer, errors.ServerError, errors.TooManyRequests)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Source:
    """Where the log of one task comes from.

    Args:
        task_id: whose log.
        task: tells the task as it now is.
        stream: asks for a new live stream; Forbidden while none runs.
        output: yields the collected output from its beginning.
        backoff: the pauses between looks, and what sleeps through them.
        silence_s: after so many seconds without a message, the task is looked at.
    """

    task_id: str
    task: Callable[[], models.Task]
    stream: Callable[[], models.LogStream]
    output: Callable[[], Generator[str, None, None]]
    backoff: Backoff
    silence_s: float = 30.0

    def pause(self, number: int) -> None:
        """Sleep for the pause of this number, counted from 1."""
        self.backoff.sleep(self.backoff.pause_s(min(number, _LAST_GROWTH)))


class _NotTheBeginning(Exception):
    """A text does not begin as the log did."""


class _Told:
    """How far a log has been told: its length in characters, its digest and its head, however long it is."""

    def __init__(self) -> None:
        self.length = 0
        self._digest = hashlib.sha256()
        self._head = ""

    def rest_of(self, pieces: Iterable[str]) -> Generator[str, None, bool]:
        """Yield what lies behind the part of a text that has been told, and count it as told.

        Returns:
            Whether the text reached as far as what has been told.

        Raises:
            _NotTheBeginning: the text begins otherwise than what has been told.
        """
        length, skipped, digest = self.length, 0, hashlib.sha256()
        for piece in pieces:
            known, fresh = piece[: length - skipped], piece[length - skipped :]
            if known:
                if not known.startswith(self._head[skipped : skipped + len(known)]):
                    raise _NotTheBeginning
                digest.update(known.encode())
                skipped += len(known)
                if skipped == length and digest.digest() != self._digest.digest():
                    raise _NotTheBeginning
            if fresh:
                self._count(fresh)
                yield fresh
        return skipped == length

    def _count(self, text: str) -> None:
        self.length += len(text)
        self._digest.update(text.encode())
        self._head += text[: HEAD_CHARACTERS - len(self._head)]


def follow(source: Source) -> Iterator[str]:
    """Yield the log of a task until it has ended, each character once. Raises as a look at the task does."""
    told, watch = _Told(), _Watch(source)
    continues, number = True, 0
    while (task := watch.look()) is None or not task.ended:
        before = told.length
        if task is not None and task.status != "waiting" and continues:
            with closing(_live(source, watch)) as pieces:
                try:
                    yield from told.rest_of(pieces)
                except _NotTheBeginning:
                    continues = False
                    _log.warning("task %s: its log goes on here when the task has ended", source.task_id)
        number = 1 if told.length > before else number + 1
        source.pause(number)
    if task.status == "canceled" and task.started_at is None:
        return  # it was cancelled in the line, and never wrote anything
    yield from _collected(source, told)


class _Watch:
    """Looks at the task; a failed look says nothing about it, and is told once until one succeeds."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._failing = False

    def look(self) -> models.Task | None:
        """Tell the task as it now is, or None where nobody knows."""
        try:
            task = self._source.task()
        except _PASSING as error:
            level = logging.DEBUG if self._failing else logging.WARNING
            _log.log(level, "task %s: its log waits for an answer: %s", self._source.task_id, error)
            self._failing = True
            return None
        self._failing = False
        return task


def _live(source: Source, watch: _Watch) -> Generator[str, None, None]:
    """Yield the messages of one live connection until it ends, however it does."""
    try:
        stream = source.stream()
    except errors.ApiError as error:
        # It does not run yet or no longer; whatever else it is, the next look at the task tells.
        _log.debug("task %s: no log stream: %s", source.task_id, error)
        return
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    try:
        host = urllib.parse.urlsplit(stream.url).hostname
        with connect(
            stream.url,
            additional_headers={"Authorization": f"Bearer {stream.token}"},
            # No proxy leads to this machine's own loopback.
            proxy=None if host in _LOOPBACK else True,
            max_size=LARGEST_MESSAGE_BYTES,
            close_timeout=2.0,
            logger=_nowhere,
        ) as connection:
            while True:
                try:
                    message = connection.recv(timeout=source.silence_s)
                except TimeoutError:
                    if (task := watch.look()) is not None and task.ended:
                        return
                    continue
                yield message if isinstance(message, str) else message.decode(errors="replace")
    # ValueError: an address or a token that is none; ImportError: a proxy that needs another package.
    except (OSError, ValueError, ImportError, WebSocketException) as error:
        # Its text may hold the address, and with it a signature.
        _log.debug("task %s: a log stream ended: %s", source.task_id, type(error).__name__)


def _collected(source: Source, told: _Told) -> Iterator[str]:
    """Yield what the collected output has beyond what has been told; it may show a little after the task's end."""
    number, problem = 0, ""
    while number < COLLECT_ATTEMPTS:
        if number:
            source.pause(number)
        before = told.length
        try:
            with closing(source.output()) as pieces:
                if (yield from told.rest_of(pieces)):
                    return
            problem = "the collected output is shorter"
        except _NotTheBeginning:
            problem = "the collected output begins otherwise than the live log did"
            break
        except errors.ApiError as error:
            problem = str(error)
        number = 1 if told.length > before else number + 1
    _log.warning("task %s: its log may lack a part: %s", source.task_id, problem)
