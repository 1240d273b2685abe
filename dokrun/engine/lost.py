"""What can be said of a task that left no outcome: whether its functions ran."""

from __future__ import annotations

import logging
from typing import NamedTuple

from dokrun import errors
from dokrun.api.models import Task
from dokrun.engine.definition import Identity
from dokrun.engine.reports import Expected
from dokrun.engine.submit import CLIENT, SOMEBODY, Submitter
from dokrun.engine.tasklog import Log
from dokrun.shim import protocol

_log = logging.getLogger("dokrun.engine")


class Verdict(NamedTuple):
    """What is known of the calls of a task that left no outcome.

    `ran` holds for those before number `begun`, or for all; the others were never begun. `holder` is another task that
    has started the attempt; `again` tells whether what was never begun may be.
    """

    ran: errors.Ran
    holder: str = ""
    again: bool = False
    begun: int | None = None

    def of(self, number: int, log: Log) -> errors.Ran:
        """Tell whether the function of a call ran.

        What the log says stands above what the bucket does: only the service writes the log.
        """
        never_begun = self.begun is not None and number >= self.begun
        return log.ran(number) or ("no" if never_begun else self.ran)


def judge(submitter: Submitter, identity: Identity, expected: Expected, task: Task, log: Log) -> Verdict:
    """Find out which calls a task that left no outcome had started, and see to it that nothing else will start them.

    The attempt's claim is taken: if that succeeds, nobody has started any, nor ever will.
    """
    # What somebody has cancelled, or what ends without a Python, would only end so again.
    may_pass = task.status in ("error", "aborted") and not _no_python(task)
    if submitter.bucket is None:
        ran: errors.Ran = "maybe" if log.begun or (_was_seen(task) and not _no_python(task)) else "no"
        return Verdict(ran, again=ran == "no" and may_pass)
    if expected.calls and all(log.ran(number) for number in expected.calls):
        return Verdict("maybe")
    try:
        holder = submitter.fence(identity, expected.attempt)
    except errors.StorageError as error:
        _log.warning("cannot see whether job %s was started: %s", identity.job_id, error)
        return Verdict("maybe")  # another task of the attempt may have started it
    # A task may have the claim and have heard nothing of it, or have been stopped then; it says that it starts nothing.
    exits = {container.exit_code for container in task.containers}
    unheard = not exits.isdisjoint({protocol.CLAIM_FAILED, protocol.STOPPED_EARLY})
    if holder in (None, CLIENT) or (holder == task.id and unheard):
        # A client has given it up on purpose, which the container then said; or one that is attached has judged before.
        return Verdict("no", again=may_pass and protocol.CLAIM_LOST not in exits)
    if holder not in (task.id, SOMEBODY):
        return Verdict("maybe", holder)
    return Verdict("maybe", again=may_pass, begun=submitter.begun(identity, expected.attempt))


def _was_seen(task: Task) -> bool:
    """Tell whether anything shows that a container ran."""
    signs = [(container.start_at, container.exit_code, container.execution_seconds) for container in task.containers]
    return any(sign is not None for container in signs for sign in container)


def _no_python(task: Task) -> bool:
    return protocol.NO_PYTHON in [container.exit_code for container in task.containers]


def task_failed(expected: Expected, task: Task, how: str, ran: errors.Ran) -> errors.TaskFailed:
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
