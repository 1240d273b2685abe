"""From an ended task to what became of its job: the artifact, or else what can be said without one."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dokrun import errors
from dokrun.api.models import Task
from dokrun.engine.collect import TaskArtifact, collect
from dokrun.engine.definition import Identity
from dokrun.engine.lost import failure, judge, read_log
from dokrun.engine.parts import Parts
from dokrun.engine.reports import Expected, NoOutcome, Outcome


@dataclass(frozen=True)
class Found:
    """What became of an attempt, what it left behind, and which other task has started it, if one has."""

    outcome: Outcome
    artifact: TaskArtifact | None = None
    holder: str = ""


def find_outcome(parts: Parts, identity: Identity, expected: Expected, task: Task) -> Found:
    """Tell what became of the call of a task that has ended.

    Raises:
        ResultNotFetched: DOK has it, and it cannot be brought here now.
    """
    # Only its owner can enter a folder that mkdtemp made.
    folder = Path(tempfile.mkdtemp(prefix="dokrun-"))
    try:
        artifact, outcomes = collect(
            parts.client, expected, task, folder, keep_in=parts.state_dir / "results", sleep=parts.sleep
        )
    except NoOutcome as error:
        return _without(parts, identity, expected, task, str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    failed = outcomes[0].error
    if isinstance(failed, errors.CallFailed) and not isinstance(failed, errors.RemoteError):
        failed.log = read_log(parts.client, expected, task, parts.sleep).last
    return Found(outcomes[0], artifact)


def _without(parts: Parts, identity: Identity, expected: Expected, task: Task, how: str) -> Found:
    log = read_log(parts.client, expected, task, parts.sleep)
    verdict = judge(parts.submitter, identity, expected.attempt, task, started=log.started)
    error = failure(expected, task, how, verdict.ran)
    error.log = log.last
    # Whoever has the claim, this attempt is over.
    outcome = Outcome(error=error, again=verdict.again, checkpoint=log.checkpoint)
    return Found(outcome, holder=verdict.holder)
