"""What can be said of a task that left no outcome: whether its function ran, and what its log says last."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dokrun import errors, keys
from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.engine.definition import Identity
from dokrun.engine.reports import Expected
from dokrun.engine.stage import Checkpoint
from dokrun.engine.submit import CLIENT, SOMEBODY, Submitter
from dokrun.shim import protocol

_log = logging.getLogger("dokrun.engine")

LAST_LINES = 20
_LONGEST_LINE = 500
# What a function prints may look like it.
_CHECKPOINT = re.compile(
    re.escape(protocol.CHECKPOINT).replace(r"\{\}", "{}").format("([01])", "([0-9a-f]{64})", "([0-9]{1,15})")
)
# The log may be collected a little after the task's end: pauses between looks, in seconds.
PATIENCE_S = (0.1, 0.5, 2.0)


@dataclass(frozen=True)
class Log:
    """The end of a task's log; whether it says that a call was started, and the last checkpoint that it tells of."""

    last: tuple[str, ...] = ()
    started: bool = False
    checkpoint: Checkpoint | None = None


def read_log(client: Client, expected: Expected, task: Task, sleep: Callable[[float], object]) -> Log:
    """Read the log of a task that has ended, as far as it can be had; a failed look says nothing about it."""
    if not any(container.start_at for container in task.containers):
        return Log()  # it never wrote anything
    problem: errors.ApiError | None = None
    for pause_s in (0.0, *PATIENCE_S):
        sleep(pause_s)
        try:
            return _read(client.tasks.output_lines(task.id), expected)
        except errors.ApiError as error:
            problem = error
    _log.warning("the log of task %s cannot be had: %s", task.id, problem)
    return Log()


def _read(lines: Iterable[str], expected: Expected) -> Log:
    last: deque[str] = deque(maxlen=LAST_LINES)
    started = {
        protocol.STARTED.format(keys.call_id(expected.job_id, number), expected.attempt)
        for number in range(expected.calls)
    }
    found, checkpoint = False, None
    for line in lines:
        if line.startswith(protocol.OURS_IN_LOG):
            found |= line in started
            checkpoint = _saved(line, expected.attempt) or checkpoint
        else:
            last.append(line[:_LONGEST_LINE])
    return Log(tuple(last), found, checkpoint)


def _saved(line: str, attempt: int) -> Checkpoint | None:
    told = _CHECKPOINT.fullmatch(line)
    return None if told is None else Checkpoint(attempt, int(told[1]), told[2], int(told[3]))


class Verdict(NamedTuple):
    """Whether the function ran; which other task has started the attempt; whether another attempt may be begun."""

    ran: errors.Ran
    holder: str = ""
    again: bool = False


def judge(submitter: Submitter, identity: Identity, attempt: int, task: Task, *, started: bool) -> Verdict:
    """Find out whether a task that left no outcome had started the function, and see to it that nothing else will.

    The attempt's claim is taken: if that succeeds, nobody has started it, nor ever will.
    """
    if started:
        return Verdict("yes")
    signs = [(container.start_at, container.exit_code, container.execution_seconds) for container in task.containers]
    seen = any(sign is not None for container in signs for sign in container)
    without_claim: errors.Ran = "maybe" if seen and not _no_python(task) else "no"
    # What somebody has cancelled, or what ends without a Python, would only end so again.
    may_pass = task.status in ("error", "aborted") and not _no_python(task)
    if submitter.bucket is None:
        return Verdict(without_claim, again=without_claim == "no" and may_pass)
    try:
        holder = submitter.fence(identity, attempt)
    except errors.StorageError as error:
        _log.warning("cannot see whether job %s was started: %s", identity.job_id, error)
        return Verdict("maybe")  # another task of the attempt may have started it
    # A task may have the claim and have heard nothing of it, or have been stopped then; it says that it starts nothing.
    exits = {container.exit_code for container in task.containers}
    unheard = not exits.isdisjoint({protocol.CLAIM_FAILED, protocol.STOPPED_EARLY})
    if holder is None or (holder == task.id and unheard):
        return Verdict("no", again=may_pass)
    if holder == CLIENT:
        # Given up on purpose, which the container then said; else somebody who is attached has judged it before.
        return Verdict("no", again=may_pass and protocol.CLAIM_LOST not in exits)
    return Verdict("maybe", "" if holder in (task.id, SOMEBODY) else holder)


def _no_python(task: Task) -> bool:
    return protocol.NO_PYTHON in [container.exit_code for container in task.containers]


def failure(expected: Expected, task: Task, how: str, ran: errors.Ran) -> errors.TaskFailed:
    """Make the error of a task that left no outcome."""
    exit_codes = [container.exit_code for container in task.containers if container.exit_code is not None]
    details = f" with exit status {exit_codes[0]}" if exit_codes else ""
    said = f": {task.error_message}" if task.error_message else ""
    if _no_python(task):
        said += "; its image has no Python, or no /bin/sh: name one that has, or write image=dok.Image.debian_slim()"
    if protocol.CLAIM_LOST in exit_codes:
        said += "; it was not let start, since the claim of this attempt is another's"
    return errors.TaskFailed(
        f"task {task.id} of {expected.name} ended as {task.status!r}{details} {how}{said}",
        ran=ran,
        task_id=task.id,
        status=task.status,
    )
