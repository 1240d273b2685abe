"""One job on its way: staged, submitted, watched, collected, settled. Each step runs on one of the engine's threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from dokrun import errors, keys
from dokrun.api.models import Task
from dokrun.engine.attempts import Attempts, Next
from dokrun.engine.calls import Calls
from dokrun.engine.definition import Identity, attempt_of, digest, retry_of
from dokrun.engine.ending import Ending
from dokrun.engine.images import Ready
from dokrun.engine.journal import Record, Step
from dokrun.engine.lines import users_own
from dokrun.engine.outcome import find_outcome
from dokrun.engine.parts import Parts
from dokrun.engine.prepare import Job
from dokrun.engine.receipt import receipt_of
from dokrun.engine.reports import Expected, Outcome, described
from dokrun.engine.stage import stage, unstage
from dokrun.engine.submit import GivenUp, Unknown, not_submitted
from dokrun.engine.watch import Batch, Watched
from dokrun.engine.workers import Workers
from dokrun.future import Future, Progress
from dokrun.retry import Retry

_log = logging.getLogger("dokrun.engine")

# A look that finds nothing is not proof that a task is gone, just after its creation least of all.
MISSES = 3


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
        self._attempts = Attempts(Retry(0) if job is None else job.retry, ours=job is not None)
        self._calls = Calls(future, progress, self._attempts)
        self._image: Ready | None = None
        self._misses = 0
        # Tasks that are no longer looked at: further ones that the service made of one request and was told to end,
        # and those that ended without starting the attempt.
        self._rejected: set[str] = set()
        # All that bear the job's tag and are its own, as they were last seen.
        self._tasks: dict[str, Task] = {}
        self._ending = Ending(parts)
        progress.costs = "cost money" if parts.charges else ""
        progress.cancel = self._cancel_later
        progress.logs = lambda task_id: users_own(parts.client.tasks.logs(task_id))

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
            self._settle(Outcome(error=not_submitted(self.name, "dokrun is being closed"), lasting=False))

    def _make_ready(self, job: Job) -> None:
        if self._calls.cancelled():
            self.settle_cancelled()
            return
        self._progress.update(status="image")
        try:
            ready = self._parts.images.ready(job.options.image)
        except errors.CallFailed:
            raise
        except errors.DokrunError as error:
            raise not_submitted(self.name, error) from error
        self._do(self._parts.submissions, lambda: self._submit(job, ready))

    def _submit(self, job: Job, image: Ready) -> None:
        if self._calls.cancelled():
            self.settle_cancelled()
            return
        self._image = image
        attempt = self._progress.attempt
        self._progress.update(status="staging")
        try:
            checkpoint = self._attempts.checkpoint
            request = stage(job, self._parts.bucket, image, self._batch.tag, attempt=attempt, checkpoint=checkpoint)
            self._intend(attempt, digest(request))
            if self._calls.cancelled():
                self.settle_cancelled()
                return
            task = self._parts.submitter.submit(
                self._identity,
                attempt,
                request,
                former=self._rejected,
                wanted=lambda: not self._calls.cancelled(),
            )
        except (GivenUp, Unknown, errors.DokrunError) as error:
            raise not_submitted(self.name, error) from error
        self._bind(task)

    def _intend(self, attempt: int, definition: str) -> None:
        """Have it on disk, before anything is sent, that a task may exist from now on."""
        if self._record.digest:
            self._parts.journal.add(self._record.id, Step("intended", attempt))
            return
        self._record = msgspec.structs.replace(self._record, digest=definition)
        self._parts.journal.begin(self._record)
        self._progress.update(handle=str(keys.Handle(self.name, self._record.id, definition)))

    # A job that somebody has submitted.

    def attach(self, task_id: str | None, attempt: int) -> None:
        """Watch a job that is there already, or find out that it is not; nothing is submitted."""
        self._progress.update(
            handle=str(keys.Handle(self.name, self._record.id, self._record.digest)), attempt=attempt, task_id=task_id
        )
        if task_id is not None:
            self._watch()
        else:
            self._aside(self._look_for)

    def _look_for(self) -> None:
        try:
            task = self._parts.submitter.look_for(self._identity, self._progress.attempt, self.name)
        except GivenUp as error:
            raise not_submitted(self.name, "its client ended before") from error
        except Unknown as error:
            raise not_submitted(self.name, error) from error
        except errors.ApiError as error:
            self._refused(error)
        else:
            self._bind(task)

    # While the task lives.

    def _bind(self, task: Task) -> None:
        """Take a task for the attempt's own."""
        self._parts.journal.note(self._record.id, Step("bound", attempt_of(task), task.id))
        self._progress.update(status=task.status, task_id=task.id, attempt=attempt_of(task))
        if self._calls.cancelled():
            self.cancel()
        self._watch()
        if self._parts.charges:
            self._later(lambda: self._price(task))

    def _price(self, task: Task) -> None:
        """Have it known what a task costs while it runs, for whoever stops waiting for it."""
        try:
            price = self._parts.prices().get(task.containers[0].plan) if task.containers else None
        except errors.ApiError as error:
            _log.debug("cannot see what task %s costs: %s", task.id, error)
            return
        if price is not None:
            self._progress.update(costs=f"cost ¥{price.yen_per_second * 60:.2f} a minute")

    def _watch(self) -> None:
        self._misses = 0
        self._parts.watcher.watch(self._batch, self._record.id, Watched(self._seen, self._refused))

    def _seen(self, tagged: list[Task]) -> bool:
        tasks = {task.id: task for task in tagged if self._identity.owns(task)}
        self._tasks.update(tasks)
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
        if self._calls.cancelled() and not self._ending.has_ended(mine.id):
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
        if not task.ended:
            self._watch()
        elif self._identity.owns(task):
            self._finish(task)
        else:
            message = f"the task {task_id} of {self.name} is not what was sent any more; what it left is not used"
            raise errors.Tampered(message, ran="maybe", call_id=self.future.call_id, task_id=task_id)

    def _refused(self, error: errors.ApiError) -> None:
        message = f"{self.name} goes on, but cannot be watched: {error}"
        failed = errors.CallFailed(message, ran="maybe", call_id=self.future.call_id, still_runs=True)
        self._settle(Outcome(error=failed, lasting=False))

    # Its end before its time.

    def cancel(self) -> bool:
        """Tell the service to end the task, if there is one. Tells whether that ended it, now or before."""
        return self._ending.end(self._identity, self._progress)

    def cancel_here(self) -> None:
        """Cancel the future; its task, if there is one, is left to the next `cancel`."""
        self._progress.cancel = None
        self._calls.cancel()

    def settle_cancelled(self) -> None:
        """Write down that the call was cancelled, and remove what its containers will not need."""
        self._settle(Outcome())

    def _cancel_later(self) -> None:
        self._parts.cancels.submit(lambda: self._guarded(self.cancel))

    # Its outcome.

    def _finish(self, task: Task) -> None:
        if self._calls.cancelled():
            self.settle_cancelled()
            return
        self._progress.update(receipt=receipt_of(task, self._tasks.values(), self._parts.prices))
        expected = Expected(self._record.id, self._progress.attempt, self.name, self._record.calls)
        found = find_outcome(self._parts, self._identity, expected, task)
        if found.holder and self._follow(found.holder):
            return
        outcome = found.outcome
        self._progress.update(artifact=found.artifact)
        self._parts.journal.note(self._record.id, Step("ended", self._progress.attempt, task.id, detail=task.status))
        self._progress.update(status=task.status)
        if self._job is None:
            self._attempts.retry = retry_of(task)
        following = self._attempts.after(outcome, self._progress.attempt)
        if following is None:
            self._settle(outcome)
        elif self._job is None or self._image is None:
            self._aside(lambda: self._await(following, outcome))
        else:
            self._begin_next(following, outcome, self._job, self._image)

    def _follow(self, task_id: str) -> bool:
        """Go over to the task that has started the attempt, if it is one of the job's own."""
        try:
            task = self._parts.client.tasks.get(task_id)
        except errors.NotFound:
            return False
        except errors.ApiError as error:
            # It has started the attempt, whether it can be seen now or later.
            _log.warning("cannot see task %s of %s, and will ask again: %s", task_id, self.name, error)
            self._progress.update(task_id=task_id)
            self._watch()
            return True
        if not self._identity.owns(task):
            return False
        self._bind(task)
        return True

    def _begin_next(self, following: Next, outcome: Outcome, job: Job, image: Ready) -> None:
        """Have another task made."""
        if not outcome.claimed and self._progress.task_id is not None:
            self._rejected.add(self._progress.task_id)
        told = described(outcome.error) if outcome.error else ""
        _log.warning("%s is tried again, as attempt %d: %s", self.name, following.attempt, told)
        self._progress.update(status="retrying", task_id=None, attempt=following.attempt)
        self._after(following.pause_s, lambda: self._do(self._parts.submissions, lambda: self._submit(job, image)))

    def _await(self, following: Next, outcome: Outcome) -> None:
        """Wait for the next task of the process that has submitted this job, or settle if that makes none."""
        self._rejected.add(self._progress.task_id or "")
        self._parts.sleep(following.pause_s)
        task = self._parts.submitter.find(self._identity, following.attempt, self._rejected)
        if task is None:
            self._attempts.others_go_on = True
            self._settle(outcome)
        else:
            self._bind(task)

    def _after(self, pause_s: float, step: Callable[[], object]) -> None:
        def wait() -> None:
            self._parts.sleep(pause_s)
            step()

        if pause_s:
            self._aside(wait)
        else:
            step()

    def _settle(self, outcome: Outcome) -> None:
        """Give the outcome, and remove what only the container needed."""
        self._forget(self)
        if outcome.error is not None:
            self._calls.locate(outcome.error)
        if outcome.lasting and self._record.digest:
            told = "cancelled" if self._calls.cancelled() else outcome.told
            self._parts.journal.note(self._record.id, Step("settled", self._progress.attempt, detail=told))
        self._calls.settle(outcome)
        # Whoever has submitted a job that failed here may still have plans for it.
        over = self._job is not None or (outcome.error is None and not self._attempts.others_go_on)
        if outcome.lasting and over and self._parts.bucket is not None and self._record.digest:
            # What a failed call has saved may be all that is left of it.
            checkpoints = outcome.error is None and self._attempts.retry.times > 0
            unstage(self._record.id, self._parts.bucket, self._progress.attempt, checkpoints=checkpoints)

    # On which thread, and what if it fails.

    def _later(self, step: Callable[[], object]) -> None:
        self._parts.others.submit(lambda: self._guarded(step))

    def _aside(self, step: Callable[[], object]) -> None:
        """Do what waits long on a thread of its own: those that all jobs share are for what does not."""
        threading.Thread(target=lambda: self._guarded(step), name="dokrun-wait", daemon=True).start()

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except errors.CallFailed as error:
            self._settle(Outcome(error=error))
        except BaseException as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            # Before anything is intended, nothing is sent.
            ran: errors.Ran = "maybe" if self._record.digest else "no"
            failed = errors.CallFailed(f"{self.name}: {error}", ran=ran, call_id=self.future.call_id)
            failed.__cause__ = error
            self._settle(Outcome(error=failed, lasting=False))
