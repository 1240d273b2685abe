"""One job on its way: staged, submitted, watched, collected, settled. Each step runs on one of the engine's threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import msgspec

from dokrun import errors, keys
from dokrun.api.models import Task
from dokrun.engine.ahead import listen
from dokrun.engine.attempts import Attempts, Next, Told
from dokrun.engine.bill import Bill
from dokrun.engine.definition import Identity, attempt_of, chosen_of, digest, retry_of
from dokrun.engine.ending import Ending
from dokrun.engine.images import Ready
from dokrun.engine.journal import Record, Step
from dokrun.engine.knock import Knock
from dokrun.engine.lines import of_call, users_own
from dokrun.engine.outcome import Also, find_outcomes, sent_ahead
from dokrun.engine.parts import Parts
from dokrun.engine.prepare import Job
from dokrun.engine.reports import Expected, Numbered, described
from dokrun.engine.settling import Settling
from dokrun.engine.stage import Attempt, stage
from dokrun.engine.steps import Steps
from dokrun.engine.submit import GivenUp, Unknown, from_on, not_submitted
from dokrun.engine.watch import Batch, Watched
from dokrun.engine.workers import Workers
from dokrun.outcomes import Outcomes
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
        calls: Outcomes,
        forget: Callable[[Run], None],
        *,
        job: Job | None = None,
        batch: Batch,
        also: Also | None = None,
    ) -> None:
        self.name = record.name
        # Of a session: reads what its artifact has of other jobs' calls.
        self._also = also
        # Of a session: whether its container was told that nothing more comes.
        self.closed = False
        # Its task, as it was seen last.
        self.task: Task | None = None
        self.detached = job is None or job.options.detach
        self._parts = parts
        self._record = record
        self.calls = calls
        self._progress = progress = calls.progress
        self._forget = forget
        self._job = job
        self._batch = batch
        self._attempts = Attempts(Retry(0) if job is None else job.retry, ours=job is not None)
        self._settling = Settling(parts, calls, self._attempts)
        # Which calls the attempt under way is for; None is all of them.
        self._chosen: set[int] | None = None
        # Whether a task before the one under way could not go on with all of its calls.
        self.tried = False
        # The task whose log is being listened to, and the one that was seen to have ended.
        self._heard = self._ended = ""
        self._image: Ready | None = None
        self._misses = 0
        # Tasks that are no longer looked at: further ones that the service made of one request and was told to end,
        # and those that ended without starting the attempt.
        self._rejected: set[str] = set()
        self._ending = Ending(parts)
        self._bill = Bill(parts, progress, None if job is None else job.price)
        self._steps = Steps(parts, self._broken_off)
        progress.line = parts.queue.place
        progress.cancel = self._cancel_later
        progress.logs = self._logs
        progress.serves = None if job is None else job.options.http is not None
        self._knock = Knock(parts, progress, lambda: progress.over or calls.over)
        progress.knock = self._knock.begin

    @property
    def task_id(self) -> str | None:
        """The task of the attempt under way, once the service has taken it."""
        return self._progress.task_id

    @property
    def identity(self) -> Identity:
        """Which job it is, as its tasks show it."""
        return self._identity

    @property
    def handle(self) -> str:
        """The job's handle, once its definition is made."""
        return self._progress.handle or ""

    @property
    def costs(self) -> str:
        """What its task does while it runs, as in "cost ¥16.80 a minute"; empty where nobody pays."""
        return self._progress.costs

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
        if not self._steps.on(workers, step):
            self._fail(not_submitted(self.name, "dokrun is being closed"), lasting=False)

    def _make_ready(self, job: Job) -> None:
        if self.calls.cancelled():
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
        if self.calls.cancelled():
            self.settle_cancelled()
            return
        self._image = image
        self._parts.spending.check(self.name, job.plan)
        attempt = self._progress.attempt
        self._progress.update(status="staging")
        try:
            if self._chosen is None and len(left := self.calls.leave_out()) < len(self.calls):
                # The others were cancelled before anything was sent, and shall cost nothing.
                self._chosen = set(left)
            chosen = None if self._chosen is None else sorted(self._chosen)
            staged = Attempt(attempt, chosen, self._attempts.checkpoint, self._bill.spent)
            request = stage(job, self._parts.bucket, image, self._batch.tag, staged)
            self._intend(attempt, digest(request))
            if self.calls.cancelled():
                self.settle_cancelled()
                return
            task = self._parts.submitter.submit(
                self._identity,
                attempt,
                request,
                former=self._rejected,
                wanted=lambda: not self.calls.cancelled(),
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
        self._progress.update(handle=self._handle())

    def _handle(self) -> str:
        return str(keys.Handle(self.name, self._record.id, self._record.digest, self._record.calls))

    # A job that somebody has submitted.

    def attach(self, task_id: str | None, attempt: int) -> None:
        """Watch a job that is there already, or find out that it is not; nothing is submitted."""
        self._progress.update(handle=self._handle(), attempt=attempt, task_id=task_id)
        if task_id is not None and (attempt == 1 or len(self.calls) == 1):
            self._watch()
        else:
            self._steps.aside(self._look_for)

    def _look_for(self) -> None:
        try:
            # Of a single call the last attempt tells all; of many, each tells of other ones.
            which = max if len(self.calls) == 1 else from_on(1)
            task = self._parts.submitter.look_for(self._identity, self._progress.attempt, self.name, which)
        except GivenUp as error:
            raise not_submitted(self.name, "its client ended before") from error
        except Unknown as error:
            raise not_submitted(self.name, error) from error
        except errors.ApiError as error:
            self._refused(error)
        else:
            self._see_chosen(task)
            gone = errors.TaskFailed(f"a task of {self.name} no longer exists; somebody deleted it", ran="maybe")
            self._follow_into(task, self._settling.each_left(gone, lasting=True))

    def _see_chosen(self, task: Task) -> None:
        """See which calls were cancelled before anything was sent, of a job that another process has submitted."""
        if self._job is not None or self._chosen is not None or attempt_of(task) != 1:
            return
        chosen = chosen_of(task, len(self.calls))
        if 0 < len(chosen) < len(self.calls):
            self._chosen = chosen
            self.calls.cancel(set(range(len(self.calls))) - chosen)
            self.calls.leave_out()

    # While the task lives.

    def _bind(self, task: Task) -> None:
        """Take a task for the attempt's own."""
        self._parts.journal.note(self._record.id, Step("bound", attempt_of(task), task.id))
        self.task = task
        self._progress.update(
            status=task.status, task_id=task.id, attempt=attempt_of(task), running_since=_running_since(task)
        )
        self._knock.see(task)
        if self.calls.cancelled():
            self.cancel()
        self._watch()
        if self._parts.charges:
            self._steps.later(lambda: self._bill.tell_price(task))

    def _watch(self) -> None:
        self._misses = 0
        self._parts.watcher.watch(self._batch, self._record.id, Watched(self._seen, self._refused))

    def _seen(self, tagged: list[Task]) -> bool:
        tasks = {task.id: task for task in tagged if self._identity.owns(task)}
        self._bill.see(tasks)
        mine = tasks.get(self._progress.task_id or "")
        twins = [
            task
            for task in tasks.values()
            if attempt_of(task) == self._progress.attempt and not task.ended and task.id not in self._rejected
        ]
        if len(twins) > 1 or (twins and twins[0] is not mine):
            self._steps.later(lambda: self._choose([*twins, *([] if mine is None or mine in twins else [mine])]))
            return False
        if mine is None:
            self._misses += 1
            if self._misses >= MISSES:
                self._steps.later(self._miss)
            return self._misses < MISSES
        self._misses = 0
        if self.task is None and self._parts.charges:
            self._steps.later(lambda: self._bill.tell_price(mine))  # as of one that another process has submitted
        self.task = mine
        self._knock.see(mine)
        if mine.ended:
            self._steps.later(lambda: self._finish(mine))
            return False
        self._progress.update(status=mine.status, running_since=_running_since(mine))
        if mine.status == "running":
            self._listen(mine)
        if self.calls.cancelled() and not self._ending.has_ended(mine.id):
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
            raise errors.TaskFailed(message, ran="maybe", task_id=task_id) from error
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
            raise errors.Tampered(message, ran="maybe", task_id=task_id)

    def _refused(self, error: errors.ApiError) -> None:
        message = f"{self.name} goes on, but cannot be watched: {error}"
        self._fail(errors.CallFailed(message, ran="maybe", still_runs=True), lasting=False)

    def _logs(self, task_id: str, number: int) -> Iterator[str]:
        pieces = self._parts.client.tasks.logs(task_id)
        return users_own(pieces) if len(self.calls) == 1 else of_call(pieces, number)

    # Its end before its time.

    def cancel(self) -> bool:
        """Tell the service to end the task, if there is one. Tells whether that ended it, now or before."""
        return self._ending.end(self._identity, self._progress)

    @property
    def ours(self) -> bool:
        """Whether this process has begun it, rather than attached itself to what another one has."""
        return self._job is not None

    def end_task(self) -> bool:
        """Tell the service to end the task, of which what it leaves is still wanted. Tells whether that is heard."""
        self.cancel()
        return self._ending.has_ended(self.task_id or "")

    def cancel_here(self) -> None:
        """Cancel the future; its task, if there is one, is left to the next `cancel`."""
        self._progress.cancel = None
        self.calls.cancel()

    def settle_cancelled(self) -> None:
        """Write down that the calls were cancelled, and remove what their containers will not need."""
        self.calls.cancel()
        self._settle([])

    def settle_early(self) -> None:
        """Let the task end on its own, when every call has its outcome."""
        self._settle([])

    def _cancel_later(self) -> None:
        """Have the task ended, unless somebody still waits for one of its calls."""
        if self.calls.cancelled():
            self._steps.on(self._parts.cancels, self.cancel)

    # Its outcomes.

    def _listen(self, task: Task) -> None:
        """Hear of results that are sent ahead of the artifact, while the task runs."""
        if self._parts.bucket is not None and len(self.calls) > 1 and self._heard != task.id:
            self._heard = task.id
            if self._job is None:
                self._attempts.retry = retry_of(task)
            self._see_chosen(task)
            self._steps.aside(lambda: listen(self._parts, self._expected(), task, self._take))

    def _take(self, sent: Numbered) -> bool:
        """Settle what was sent ahead, but for what may be tried again. Tells whether there is more to come."""
        left, final = set(self.calls.left), self._attempts.retry.times == 0
        self._settling.settle([(n, outcome) for n, outcome in sent if n in left and (final or outcome.error is None)])
        return not self.all_told

    @property
    def all_told(self) -> bool:
        """Whether every call has its outcome, so that only the task has yet to end."""
        return not self.calls.left and not self.calls.cancelled()

    @property
    def ends_alone(self) -> bool:
        """Whether its task will end soon, by itself."""
        return self.all_told or self.closed

    def _expected(self) -> Expected:
        """Tell whose outcomes are missing in this attempt."""
        left = self.calls.left
        calls = left if self._chosen is None else [number for number in left if number in self._chosen]
        return Expected(self._record.id, self._progress.attempt, self.name, calls)

    def _finish(self, task: Task) -> None:
        self._ended = task.id
        if self.calls.abandoned():
            self.settle_cancelled()
            return
        self._bill.close(task, self._record)
        self._progress.update(running_since=None)
        self._see_chosen(task)
        expected = self._expected()
        try:
            found = find_outcomes(self._parts, self._identity, expected, task, self._also)
        except errors.ResultNotFetched as error:
            if len(self.calls) > 1:
                self._take(sent_ahead(self._parts, expected, task))
            self._pass_over(error)
            return
        if found.holder and self._follow(found.holder):
            return
        self._bill.close(task, self._record, found)
        self._progress.update(artifact=found.artifact)
        if found.artifact is None:
            self._settling.without_artifact.add(self._progress.attempt)
        self._parts.journal.note(self._record.id, Step("ended", self._progress.attempt, task.id, detail=task.status))
        self._progress.update(status=task.status)
        if self._job is None:
            self._attempts.retry = retry_of(task)
        pays = self._job is None or self._job.pays(self._bill.spent)
        final, following = self._attempts.after(found.outcomes, self._progress.attempt, pays=pays)
        if following is None:
            self._settle(final)
            return
        self._settling.settle(final)
        if self._job is None or self._image is None:
            self._steps.aside(lambda: self._await(following))
        else:
            self._begin_next(following, self._job, self._image)

    def _pass_over(self, error: errors.ResultNotFetched) -> None:
        """Go on with the calls that a later task was for, if there is one, where one's outcomes cannot be had now."""
        later, attempt = None, self._progress.attempt + 1
        if self._job is None and len(self.calls) > 1:
            later = self._parts.submitter.look(self._identity, from_on(attempt))
        if later is None:
            # What was sent ahead may be all that anybody who attaches will get.
            self._settling.without_artifact.add(attempt - 1)
            raise error
        self._follow_into(later, self._settling.each_left(error, lasting=False))

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

    def _begin_next(self, following: Next, job: Job, image: Ready) -> None:
        """Have another task made."""
        _, outcome = following.calls[0]
        if not outcome.claimed and self._progress.task_id is not None:
            self._rejected.add(self._progress.task_id)
        self._chosen, self.tried = {number for number, _ in following.calls}, True
        some = "" if len(self.calls) == 1 else f"{len(self._chosen)} calls of "
        told = described(outcome.error) if outcome.error else ""
        _log.warning("%s%s: tried again, as attempt %d: %s", some, self.name, following.attempt, told)
        self._progress.update(status="retrying", task_id=None, attempt=following.attempt)
        self._steps.after(
            following.pause_s, lambda: self._do(self._parts.submissions, lambda: self._submit(job, image))
        )

    def _await(self, following: Next) -> None:
        """Wait for the next task of the process that has submitted this job, or settle if that makes none."""
        self._rejected.add(self._progress.task_id or "")
        which = from_on(following.attempt)
        task = self._parts.submitter.find(self._identity, which, self._rejected, due_in_s=following.pause_s)
        if task is None:
            self._attempts.others_go_on = True
            self._settle(following.calls)
        else:
            self._follow_into(task, following.calls)

    def _follow_into(self, task: Task, former: Sequence[Told]) -> None:
        """Go on with the calls that a task is for; what the attempts before it have told is final for the others."""
        self._chosen = chosen_of(task, len(self.calls))
        self._settling.settle([told for told in former if told[0] not in self._chosen])
        self._bind(task)

    def _settle(self, told: Sequence[Told]) -> None:
        """Give the last outcomes, and remove what only the container needed."""
        self._forget(self)
        lasting = self._settling.lasting and all(outcome.lasting for _, outcome in told)
        if lasting and self._record.digest:
            self._parts.journal.note(self._record.id, self._settling.note(told))
        self._settling.settle(told)
        self._progress.update(over=True)
        # Whoever has submitted a job that failed here may still have plans for it.
        over = self._job is not None or not (self._settling.failed or self._attempts.others_go_on)
        if lasting and over and self._record.digest:
            self._settling.clean_up()

    def _fail(self, error: BaseException, *, lasting: bool = True) -> None:
        self._settle(self._settling.each_left(error, lasting=lasting))

    def _broken_off(self, error: BaseException) -> None:
        """Settle what a step could not go on with."""
        if isinstance(error, errors.CallFailed):
            self._fail(error)
            return
        # Before anything is intended, nothing is sent.
        ran: errors.Ran = "maybe" if self._record.digest else "no"
        still_runs = self.task_id is not None and self.task_id != self._ended
        failed = errors.CallFailed(f"{self.name}: {error}", ran=ran, still_runs=still_runs)
        failed.__cause__ = error
        self._fail(failed, lasting=False)


def _running_since(task: Task) -> datetime | None:
    return task.started_at if task.status == "running" else None
