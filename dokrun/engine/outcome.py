"""From an ended task to what became of its job: the artifact, or else what can be said without one."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dokrun import errors
from dokrun.api.models import Task
from dokrun.cost import Receipt
from dokrun.engine.ahead import fetch
from dokrun.engine.attempts import Told
from dokrun.engine.collect import TaskArtifact, collect
from dokrun.engine.definition import Identity
from dokrun.engine.journal import Record
from dokrun.engine.journal import Spent as Row
from dokrun.engine.lost import judge, task_failed
from dokrun.engine.parts import Parts
from dokrun.engine.receipt import Spent, read_spent
from dokrun.engine.reports import Expected, NoOutcome, Outcome
from dokrun.engine.tasklog import Log, read_log

_log = logging.getLogger("dokrun.engine")


@dataclass(frozen=True)
class Found:
    """What became of an attempt's calls, what it left behind, and which other task has started it, if one has."""

    outcomes: Sequence[Told]
    artifact: TaskArtifact | None = None
    holder: str = ""
    # What its container says that it has spent.
    spent: Spent = field(default_factory=dict)


# Reads what else an artifact has, of a task that has ended, from a folder with dokrun's own files of it.
Also = Callable[[Path, Task], None]


def find_outcomes(parts: Parts, identity: Identity, expected: Expected, task: Task, also: Also | None = None) -> Found:
    """Tell what became of the calls of a task that has ended.

    Raises:
        ResultNotFetched: DOK has it, and it cannot be brought here now.
    """
    # Only its owner can enter a folder that mkdtemp made.
    folder = Path(tempfile.mkdtemp(prefix="dokrun-"))
    try:
        artifact, numbered = collect(
            parts.client, expected, task, folder, keep_in=parts.state_dir / "results", sleep=parts.sleep
        )
        outcomes, spent = list(numbered), read_spent(folder)
        if also is not None:
            also(folder, task)
    except NoOutcome as error:
        return _without(parts, identity, expected, task, str(error), session=also is not None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    failed = [(number, told.error) for number, told in outcomes if isinstance(told.error, errors.CallFailed)]
    ours = [(number, failure) for number, failure in failed if not isinstance(failure, errors.RemoteError)]
    if ours:
        log = read_log(parts.client, expected, task, parts.sleep)
        for number, failure in ours:
            failure.log = log.end_of(number, expected.calls)
            if failure.ran == "maybe":
                failure.ran = log.ran(number) or "maybe"
    return Found(outcomes, artifact, spent=spent)


def spent_by(task: Task, record: Record, receipt: Receipt, found: Found) -> Row:
    """Tell what the journal keeps of an ended task's cost, by a receipt of which it is the last."""
    seconds, stopped = receipt.each_seconds[-1], (errors.TooExpensive, errors.TaskFailed)
    whole = bool(found.spent) and not any(isinstance(outcome.error, stopped) for _, outcome in found.outcomes)
    return Row(
        job=record.id,
        task=task.id,
        function=record.name,
        plan=receipt.plan,
        calls=int(found.spent.get("calls", record.calls)),
        lanes=max(1, int(found.spent.get("lanes", 1))),
        seconds=seconds,
        running_s=receipt.phases.running_s,
        billed_s=receipt.price.billed_seconds(seconds),
        yen=str(receipt.price.yen(seconds)),
        whole=whole and task.status == "done",
    )


def sent_ahead(parts: Parts, expected: Expected, task: Task) -> Iterator[Told]:
    """Yield what a task that has ended has sent ahead, for where its artifact cannot be had."""
    if parts.bucket is not None and expected.calls:
        yield from _sent_ahead(parts, expected, task, read_log(parts.client, expected, task, parts.sleep))


def _without(parts: Parts, identity: Identity, expected: Expected, task: Task, how: str, *, session: bool) -> Found:
    if not expected.calls:
        return Found([])
    log = read_log(parts.client, expected, task, parts.sleep)
    outcomes = dict(_sent_ahead(parts, expected, task, log))
    verdict = judge(parts.submitter, identity, expected, task, log)
    if session:
        # The list of its calls is open, so its claim does not tell which were begun: another task is another session.
        verdict = verdict._replace(begun=None)
    for number in expected.calls:
        if number not in outcomes:
            ran = verdict.of(number, log)
            lost = task_failed(expected, task, how, ran)
            lost.log = log.end_of(number, expected.calls)
            # Whoever has the claim, this attempt is over.
            outcomes[number] = Outcome(error=lost, again=verdict.again and ran == "no", checkpoint=log.checkpoint)
    return Found(list(outcomes.items()), holder=verdict.holder)


def _sent_ahead(parts: Parts, expected: Expected, task: Task, log: Log) -> Iterator[Told]:
    for ahead in log.results:
        try:
            yield from fetch(parts, expected, task, ahead)
        except (errors.StorageError, errors.CallFailed) as error:
            _log.warning("some results of %s were sent ahead, and cannot be had: %s", expected.name, error)
