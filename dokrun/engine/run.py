"""One job on its way: staged, submitted, watched, collected, settled. Each step runs on one of the engine's threads."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dokrun import errors, keys
from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.bucket import Bucket
from dokrun.cost import Price, Receipt
from dokrun.engine.collect import Expected, NoOutcome, Outcome, collect
from dokrun.engine.definition import Identity, attempt_of, digest
from dokrun.engine.images import Images, Ready
from dokrun.engine.journal import Journal, Record, Step
from dokrun.engine.lost import failure, judge, read_log
from dokrun.engine.prepare import Job
from dokrun.engine.stage import CHECKPOINT_SLOTS, Checkpoint, stage
from dokrun.engine.submit import GivenUp, Submitter, Unknown
from dokrun.engine.watch import Batch, Watched, Watcher
from dokrun.engine.workers import Workers
from dokrun.future import Future, Progress
from dokrun.retry import Retry

_log = logging.getLogger("dokrun.engine")

# How often a job whose function has not started is staged and submitted again.
STAGINGS = 3
# A look that finds nothing is not proof that a task is gone, just after its creation least of all.
MISSES = 3


@dataclass(frozen=True)
class Parts:
    """What all jobs of an engine share."""

    client: Client
    bucket: Bucket | None
    images: Images
    journal: Journal
    watcher: Watcher
    submitter: Submitter
    # Images that are not known to be ready are made so here, one at a time; jobs whose image is ready overtake them.
    builds: Workers
    # One at a time, so that tasks stand in line as they were called; the line is one task wide anyway.
    submissions: Workers
    # On their own, so that no download keeps money flowing.
    cancels: Workers
    others: Workers
    prices: Callable[[], dict[str, Price]]
    # Waits so many seconds, or less where the engine is being closed.
    sleep: Callable[[float], object]
    state_dir: Path


class Run:
    """Brings one job to its outcome, through as many attempts as it may have, and its tasks to an end.

    `job` is what can be staged; without one, as for a job that another process has submitted, nothing ever is.
    """

    def __init__(
        self,
        parts: Parts,
        record: Record,
        future: Future[Any],
        progress: Progress,
        forget: Callable[[Run], None],
        *,
        job: Job | None = None,
        batch: Batch,
    ) -> None:
        self.future = future
        self.name = record.name
        self.detached = job is None or job.options.detach
        self._parts = parts
        self._record = record
        self._progress = progress
        self._forget = forget
        self._job = job
        self._batch = batch
        self._retry = Retry(0) if job is None else job.options.retries or Retry(0)
        self._image: Ready | None = None
        self._failures: list[BaseException] = []
        self._restagings = 0
        self._checkpoint: Checkpoint | None = None
        self._misses = 0
        # Further tasks that the service made of one request, and was told to end.
        self._rejected: set[str] = set()
        self._cancelling = threading.Lock()
        self._cancelled = False
        self._ended_by_us = False
        progress.cancel = self._cancel_later
        progress.logs = parts.client.tasks.logs

    @property
    def _identity(self) -> Identity:
        return Identity(self._record.id, self._record.digest)

    # To a task.

    def begin(self, job: Job) -> None:
        """Go on in the background until the future has its outcome."""
        ready = self._parts.images.known(job.options.image)
        if ready is None:
            self._do(self._parts.builds, lambda: self._make_ready(job))
        else:
            self._do(self._parts.submissions, lambda: self._submit(job, ready))

    def _do(self, workers: Workers, step: Callable[[], object]) -> None:
        if not workers.submit(lambda: self._guarded(step)):
            self._forget(self)
            self._fail(self._not_submitted("dokrun is being closed"))

    def _make_ready(self, job: Job) -> None:
        if self.future.cancelled():
            self._forget(self)
            return
        self._progress.update(status="image")
        try:
            ready = self._parts.images.ready(job.options.image)
        except errors.CallFailed:
            raise
        except errors.DokrunError as error:
            raise self._not_submitted(error) from error
        self._do(self._parts.submissions, lambda: self._submit(job, ready))

    def _submit(self, job: Job, image: Ready) -> None:
        if self.future.cancelled():
            self._forget(self)
            return
        self._image = image
        attempt = self._progress.attempt
        self._progress.update(status="staging")
        try:
            request = stage(
                job, self._parts.bucket, image, self._batch.tag, attempt=attempt, checkpoint=self._checkpoint
            )
            self._intend(attempt, digest(request))
            if self.future.cancelled():
                self._settle(Outcome())
                return
            task = self._parts.submitter.submit(self._identity, attempt, request)
        except GivenUp as error:
            raise self._not_submitted("the service showed no task; if it makes one yet, that will not start") from error
        except Unknown as error:
            message = f"nobody knows whether {self.name} was submitted: {error}"
            raise errors.SubmitFailed(message, ran="maybe", call_id=self.future.call_id) from error
        except errors.DokrunError as error:
            raise self._not_submitted(error) from error
        self._bind(task)

    def _intend(self, attempt: int, definition: str) -> None:
        """Have it on disk, before anything is sent, that a task may exist from now on."""
        if self._record.digest:
            self._parts.journal.add(self._record.id, Step("intended", attempt))
            return
        self._record = _with_digest(self._record, definition)
        self._parts.journal.begin(self._record)
        self._progress.update(handle=str(keys.Handle(self.name, self._record.id, definition)))

    def _not_submitted(self, why: object) -> errors.SubmitFailed:
        return errors.SubmitFailed(f"{self.name} was not submitted: {why}", ran="no", call_id=self.future.call_id)

    # A job that somebody has submitted.

    def attach(self, task_id: str | None, attempt: int) -> None:
        """Watch a job that is there already, or find out that it is not; nothing is submitted."""
        self._progress.update(
            handle=str(keys.Handle(self.name, self._record.id, self._record.digest)), attempt=attempt, task_id=task_id
        )
        if task_id is not None:
            self._watch()
        else:
            self._later(self._look_for)

    def _look_for(self) -> None:
        submitter, attempt = self._parts.submitter, self._progress.attempt
        try:
            task = submitter.find(self._identity, attempt) or submitter.give_up(self._identity, attempt)
        except GivenUp as error:
            raise self._not_submitted("its client ended before; call the function again") from error
        except Unknown as error:
            message = f"nobody knows whether {self.name} was submitted: {error}"
            raise errors.SubmitFailed(message, ran="maybe", call_id=self.future.call_id) from error
        self._bind(task)

    # While the task lives.

    def _bind(self, task: Task) -> None:
        """Take a task for the attempt's own."""
        self._write(Step("bound", attempt_of(task), task.id))
        self._progress.update(status=task.status, task_id=task.id, attempt=attempt_of(task))
        if self.future.cancelled():
            self.cancel()
        self._watch()

    def _watch(self) -> None:
        self._misses = 0
        self._parts.watcher.watch(self._batch, self._record.id, Watched(self._seen, self._refused))

    def _seen(self, tagged: list[Task]) -> bool:
        tasks = {task.id: task for task in tagged if self._identity.owns(task)}
        mine = tasks.get(self._progress.task_id or "")
        twins = [
            task
            for task in tasks.values()
            if attempt_of(task) == self._progress.attempt and not task.ended and task.id not in self._rejected
        ]
        if len(twins) > 1 or (twins and twins[0] is not mine):
            self._later(lambda: self._choose([*twins, *([] if mine is None or mine in twins else [mine])]))
            return False
        if mine is None:
            self._misses += 1
            if self._misses >= MISSES:
                self._later(self._miss)
            return self._misses < MISSES
        self._misses = 0
        if mine.ended:
            self._later(lambda: self._finish(mine))
            return False
        self._progress.update(status=mine.status)
        if self.future.cancelled() and not self._cancelled:
            self._cancel_later()
        return True

    def _choose(self, tasks: list[Task]) -> None:
        """Keep one of several tasks that the service made of one request."""
        kept = self._parts.submitter.choose(self._identity, self._progress.attempt, tasks)
        self._rejected |= {task.id for task in tasks} - {kept.id}
        self._bind(kept)

    def _miss(self) -> None:
        """Look for the task that the list no longer shows."""
        task_id = self._progress.task_id or ""
        try:
            task = self._parts.client.tasks.get(task_id)
        except errors.NotFound as error:
            message = f"the task {task_id} of {self.name} no longer exists; somebody deleted it"
            raise errors.TaskFailed(message, ran="maybe", call_id=self.future.call_id, task_id=task_id) from error
        except errors.ApiError as error:
            _log.warning("cannot see how task %s is, and will ask again: %s", task_id, error)
            self._watch()
            return
        if task.ended and self._identity.owns(task):
            self._finish(task)
        else:
            self._watch()

    def _refused(self, error: errors.Unauthorized) -> None:
        message = f"{self.name} goes on, but cannot be watched: {error}"
        self._settle(Outcome(error=errors.CallFailed(message, ran="maybe", call_id=self.future.call_id), lasting=False))

    # Its end before its time.

    def cancel(self) -> bool:
        """Tell the service to end the task, if there is one. Tells whether that ended it, now or before."""
        with self._cancelling:
            if self._cancelled:
                return self._ended_by_us
            if self._progress.status in ("staging", "waiting"):
                self._fence()
            task_id = self._progress.task_id
            if task_id is None:
                return False
            try:
                self._parts.client.tasks.cancel(task_id)
            except (errors.Forbidden, errors.NotFound) as error:
                if not self._has_ended(task_id):
                    return self._not_cancelled(error)
                self._cancelled = True
                return False
            except errors.ApiError as error:
                return self._not_cancelled(error)
            self._cancelled = self._ended_by_us = True
            return True

    def cancel_here(self) -> None:
        """Cancel the future; its task, if there is one, is left to the next `cancel`."""
        self._progress.cancel = None
        self.future.cancel()

    def _fence(self) -> None:
        """Take the claim: a task that the service makes or starts later on will find that it may not."""
        if not self._record.digest:
            return  # nothing has been sent, nor will be
        self._write(Step("given up", self._progress.attempt))
        try:
            self._parts.submitter.fence(self._identity, self._progress.attempt)
        except errors.StorageError as error:
            _log.warning("could not take the claim of %s: %s", self.name, error)

    def _cancel_later(self) -> None:
        self._parts.cancels.submit(lambda: self._guarded(self.cancel))

    def _has_ended(self, task_id: str) -> bool:
        try:
            return self._parts.client.tasks.get(task_id).ended
        except errors.NotFound:
            return True
        except errors.ApiError:
            return False

    def _not_cancelled(self, error: errors.ApiError) -> bool:
        # `_seen` tries again at the next look.
        _log.warning("could not cancel task %s, which may still cost money: %s", self._progress.task_id, error)
        return False

    # Its outcome.

    def _finish(self, task: Task) -> None:
        if self.future.cancelled():
            self._settle(Outcome())
            return
        self._progress.update(receipt=self._receipt(task))
        outcome = self._outcome(task)
        if outcome is None:
            return  # another task has the claim, and is being watched
        self._write(Step("ended", self._progress.attempt, task.id, detail=task.status))
        self._progress.update(status=task.status)
        if outcome.error is None or not self._try_again(outcome):
            self._settle(outcome)

    def _outcome(self, task: Task) -> Outcome | None:
        """Tell what became of the call; None where another task has started it, and is watched from now on."""
        parts, expected = self._parts, Expected(self._record.id, self._progress.attempt, self.name, self._record.calls)
        # Only its owner can enter a folder that mkdtemp made; what was mapped from it outlives it.
        folder = Path(tempfile.mkdtemp(prefix="dokrun-"))
        try:
            artifact, outcomes = collect(
                parts.client, expected, task, folder, keep_in=parts.state_dir / "results", sleep=parts.sleep
            )
        except NoOutcome as error:
            return self._lost(expected, task, str(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._progress.update(artifact=artifact)
        failed = outcomes[0].error
        if isinstance(failed, errors.CallFailed) and not isinstance(failed, errors.RemoteError):
            failed.log = read_log(parts.client, expected, task, parts.sleep).last
        return outcomes[0]

    def _lost(self, expected: Expected, task: Task, how: str) -> Outcome | None:
        parts = self._parts
        log = read_log(parts.client, expected, task, parts.sleep)
        verdict = judge(parts.submitter, self._identity, expected.attempt, task, started=log.started)
        if verdict.holder and self._follow(verdict.holder):
            return None
        error = failure(expected, task, how, verdict.ran)
        error.log = log.last
        # Whoever has the claim, this attempt is over.
        return Outcome(error=error, again=verdict.again, checkpoint=log.checkpoint)

    def _follow(self, task_id: str) -> bool:
        """Go over to the task that has started the attempt, if it is one of the job's own."""
        try:
            task = self._parts.client.tasks.get(task_id)
        except errors.Refused:
            return False
        if not self._identity.owns(task):
            return False
        self._bind(task)
        return True

    def _try_again(self, outcome: Outcome) -> bool:
        """Begin another attempt, where there may be one."""
        error = outcome.error
        if self._job is None or self._image is None or error is None:
            return self._record.retries > 0 and self._await_next()
        if outcome.again and self._restagings < STAGINGS - 1:
            self._restagings += 1
            pause_s = 0.0
        else:
            self._failures.append(error)
            if not self._retry.allows(self._failures):
                return False
            pause_s = self._retry.pause_s(len(self._failures))
        job, image = self._job, self._image
        self._checkpoint = outcome.checkpoint or self._checkpoint
        if outcome.claimed:
            self._progress.update(attempt=self._progress.attempt + 1)
        _log.warning("%s is tried again: %s", self.name, error.args[0] if error.args else type(error).__name__)
        self._progress.update(status="retrying", task_id=None)
        self._cancelled = False
        self._after(pause_s, lambda: self._do(self._parts.submissions, lambda: self._submit(job, image)))
        return True

    def _await_next(self) -> bool:
        """Wait for the next attempt of the process that has submitted this job, if that makes one."""
        task = self._parts.submitter.find(self._identity, self._progress.attempt + 1)
        if task is not None:
            self._bind(task)
        return task is not None

    def _after(self, pause_s: float, step: Callable[[], object]) -> None:
        def wait() -> None:
            self._parts.sleep(pause_s)
            step()

        if pause_s:
            threading.Thread(target=wait, name="dokrun-retry", daemon=True).start()
        else:
            step()

    def _receipt(self, task: Task) -> Receipt | None:
        seconds = next((container.execution_seconds for container in task.containers), None)
        plan = next((container.plan for container in task.containers), self._record.plan)
        try:
            price = self._parts.prices().get(plan)
        except errors.ApiError as error:
            _log.warning("no receipt for %s, since the prices are not known: %s", self.name, error)
            return None
        return None if seconds is None or price is None else Receipt(float(seconds), price)

    def _settle(self, outcome: Outcome) -> None:
        """Give the outcome, and remove what only the container needed."""
        self._forget(self)
        if outcome.lasting and self._record.digest:
            self._write(
                Step(
                    "settled", self._progress.attempt, detail="cancelled" if self.future.cancelled() else _told(outcome)
                )
            )
        if outcome.error is not None:
            self._fail(outcome.error)
        else:
            self.future.settle(outcome.value)
        self._progress.update()
        if outcome.lasting and self._job is not None:
            # What a failed call has saved may be all that is left of it.
            self._clean_up(checkpoints=outcome.error is None)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, errors.CallFailed):
            error.locate(
                call_id=self.future.call_id,
                attempt=self._progress.attempt,
                task_id=self._progress.task_id or "",
                handle=self._progress.handle or "",
            )
        self.future.fail(error)
        self._progress.update()

    def _clean_up(self, *, checkpoints: bool) -> None:
        bucket, job_id = self._parts.bucket, self._record.id
        if bucket is None or not self._record.digest:
            return
        attempts = range(1, self._progress.attempt + 1)
        unused = [keys.payload(job_id), *(keys.addresses(job_id, attempt) for attempt in attempts)]
        if checkpoints and self._retry.times:
            slots = itertools.product(attempts, range(CHECKPOINT_SLOTS))
            unused += [keys.checkpoint(job_id, attempt, slot) for attempt, slot in slots]
        for key in unused:
            try:
                bucket.delete(key)
            except errors.StorageError as error:
                _log.warning("an object of %s stays in the bucket: %s", self.name, error)

    # On which thread, and what if it fails.

    def _later(self, step: Callable[[], object]) -> None:
        self._parts.others.submit(lambda: self._guarded(step))

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except errors.CallFailed as error:
            self._settle(Outcome(error=error))
        except BaseException as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            failed = errors.CallFailed(f"{self.name}: {error}", ran="maybe", call_id=self.future.call_id)
            failed.__cause__ = error
            self._settle(Outcome(error=failed, lasting=False))

    def _write(self, step: Step) -> None:
        """Write a step down that has happened, or that does no harm if nobody knows of it."""
        try:
            self._parts.journal.add(self._record.id, step)
        except errors.ConfigError as error:
            _log.warning("%s goes on, but %s", self.name, error)


def _with_digest(record: Record, definition: str) -> Record:
    return msgspec.structs.replace(record, digest=definition)


def _told(outcome: Outcome) -> str:
    if isinstance(outcome.error, errors.CallFailed):
        return f"{type(outcome.error).__name__}, ran={outcome.error.ran}"
    return "value" if outcome.error is None else "exception"
