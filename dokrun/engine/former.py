"""What the attempts before the last one have left of a job with several calls, for whoever has not followed them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from dokrun import errors
from dokrun.api.models import Task
from dokrun.engine.definition import Identity, attempt_of, chosen_of
from dokrun.engine.outcome import Found, find_outcomes
from dokrun.engine.parts import Parts
from dokrun.engine.reports import Expected, Outcome


def look_back(parts: Parts, identity: Identity, name: str, count: int, last: Task) -> Iterator[tuple[Task, Found]]:
    """Yield what became of the calls that the last task is not for: the last before it that was, and what it has left.

    Args:
        parts: the engine's.
        identity: which job.
        name: the function's.
        count: how many calls the job has.
        last: the task of its last attempt.
    """
    left = set(range(count)) - chosen_of(last, count)
    for attempt in reversed(range(1, attempt_of(last))):
        task = parts.submitter.find(identity, attempt) if left else None
        if task is not None and task.ended:
            calls = left & chosen_of(task, count)
            left -= calls
            yield task, _found(parts, identity, Expected(identity.job_id, attempt, name, sorted(calls)), task)
    if left:
        message = f"the task that {name} was a call of is no longer there; somebody deleted it"
        yield last, Found([(number, Outcome(error=errors.TaskFailed(message, ran="maybe"))) for number in left])


def _found(parts: Parts, identity: Identity, expected: Expected, task: Task) -> Found:
    try:
        return find_outcomes(parts, identity, expected, task)
    except errors.ResultNotFetched as error:
        return Found([(number, Outcome(error=copy.copy(error), lasting=False)) for number in expected.calls])
