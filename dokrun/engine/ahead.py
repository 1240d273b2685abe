"""Results that a container sends ahead of its artifact: announced in the log, fetched from the bucket, verified."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dokrun import errors, keys
from dokrun.api.models import Task
from dokrun.engine.parts import Parts
from dokrun.engine.reports import Expected, Numbered, Reader
from dokrun.engine.tasklog import Ahead, Supervisor, Tails

_log = logging.getLogger("dokrun.engine")

# A line of the shim's is no longer; what comes without a line's end is the user's.
_LONGEST_LINE = 256


def fetch(parts: Parts, expected: Expected, task: Task, ahead: Ahead) -> Numbered:
    """Yield the outcomes that were announced.

    Raises:
        StorageError: the bucket refused, or gave no answer.
        CallFailed: what it gave is not what was announced, or cannot be read here.
    """
    if parts.bucket is None:
        return
    with tempfile.TemporaryDirectory(prefix="dokrun-") as folder:
        path = Path(folder) / "results"
        parts.bucket.fetch(keys.results(expected.job_id, expected.attempt, ahead.slot), path, ahead.size)
        yield from Reader(expected, parts.state_dir / "results", task).reports(path, ahead.sha256)


def listen(parts: Parts, expected: Expected, task: Task, take: Callable[[Numbered], bool]) -> None:
    """Hand over results as they are announced, until the task has ended or `take` wants no more.

    Whatever fails here is only later: the artifact has all of it.
    """
    supervisor, tails = Supervisor(expected.attempt), Tails()

    def with_logs(sent: Numbered) -> Numbered:
        for number, outcome in sent:
            if isinstance(outcome.error, errors.CallFailed) and not isinstance(outcome.error, errors.RemoteError):
                outcome.error.log = tuple(tails.of_calls.get(number, ()))
            yield number, outcome

    try:
        for line in _lines(parts.client.tasks.logs(task.id)):
            tails.take(line)
            ahead = supervisor.read(line)
            if isinstance(ahead, Ahead) and not _taken(parts, expected, task, ahead, lambda it: take(with_logs(it))):
                return
    except Exception as error:  # noqa: BLE001 - the client may be closed at this moment, which raises whatever it likes
        _log.info("results of %s wait for its artifact: %s", expected.name, error)


def _taken(parts: Parts, expected: Expected, task: Task, ahead: Ahead, take: Callable[[Numbered], bool]) -> bool:
    try:
        return take(fetch(parts, expected, task, ahead))
    except (errors.StorageError, errors.CallFailed) as error:
        _log.info("some results of %s wait for its artifact: %s", expected.name, error)
        return True


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        rest = rest[-_LONGEST_LINE:]
        yield from lines
