"""One job on its way, from its task to its outcome. Each step runs on one of the engine's threads."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import ClassVar

from dokrun import errors, keys
from dokrun.api.models import Task
from dokrun.cost import Price
from dokrun.engine.ahead import listen
from dokrun.engine.attempts import Attempts, Next, Told
from dokrun.engine.bill import Bill
from dokrun.engine.definition import Identity, attempt_of
from dokrun.engine.ending import Ending
from dokrun.engine.journal import Record, Step
from dokrun.engine.knock import Knock
from dokrun.engine.lines import of_call, users_own
from dokrun.engine.outcome import Also, find_outcomes, sent_ahead
from dokrun.engine.parts import Parts
from dokrun.engine.reports import Expected, Numbered
from dokrun.engine.settling import Settling
from dokrun.engine.steps import Steps
from dokrun.engine.watch import Batch, Watched
from dokrun.outcomes import Outcomes

_log = logging.getLogger("dokrun.engine")

# A look that finds nothing is not proof that a task is gone, just after its creation least of all.
MISSES = 3


class Run(ABC):
    """Brings one job to its outcome, through as many attempts as it may have, and its tasks to an end.

    Where its tasks come from is for `OwnRun` and `OthersRun` to say.

    Args:
        parts: the engine's.
        record: what is written down of it.
        calls: where its outcomes go.
        forget: told when nothing more will be done.
        batch: which tasks are looked at together.
        attempts: those that it may have.
        also: of a session, reads what its artifact has of other jobs' calls.
        price: what its `max_yen` is counted by, where there is one.

    Attributes:
        ours: whether this process has begun it, rather than attached itself to what another one has.
        closed: of a session, whether its container was told that nothing more comes.
        detached: whether it may outlive this process.
        task: its task, as it was seen last.
        tried: whether a task before the one under way could not go on with all of its calls.
    """

    ours: ClassVar[bool]

    def __init__(
        self,
        parts: Parts,
        record: Record,
        calls: Outcomes,
        forget: Callable[[Run], None],
        *,
        batch: Batch,
        attempts: Attempts,
        also: Also | None = None,
        price: Price | None = None,
    ) -> None:
        self.name = record.name
        self.calls = calls
        self.closed = self.detached = self.tried = False
        self.task: Task | None = None
        self._parts = parts
        self._record = record
        self._progress = progress = calls.progress
        self._forget = forget
        self._batch = batch
        self._attempts = attempts
        self._also = also
        self._settling = Settling(parts, calls, attempts)
        # Which calls the attempt under way is for; None is all of them.
        self._chosen: set[int] | None = None
        # The task whose log is being listened to, and the one that was seen to have ended.
        self._heard = self._ended = ""
        self._misses = 0
        # Tasks that are no longer looked at: further ones that the service made of one request and was told to end,
        # and those that ended without starting the attempt.
        self._rejected: set[str] = set()
        self._ending = Ending(parts)
        self._bill = Bill(parts, progress, price)
        self._steps = Steps(parts, self._broken_off)
        progress.line = parts.queue.place
        progress.cancel = self._cancel_later
        progress.logs = self._logs
        self._knock = Knock(parts, progress, lambda: progress.over or calls.over)
        progress.knock = self._knock.begin

    @property
    def task_id(self) -> str | None:
        """The task of the attempt under way, once the service has taken it."""
        return self._progress.task_id

    @property
    def identity(self) -> Identity:
        """Which job it is, as its tasks show it."""
        return Identity(self._record.id, self._record.digest)

    @property
    def handle(self) -> str:
        """The job's handle, once its definition is made."""
        return self._progress.handle or ""

    @property
    def costs(self) -> str:
        """What its task does while it runs, as in "cost ¥16.80 a minute"; empty where nobody pays."""
        return self._progress.costs

    def _handle(self) -> str:
        return str(keys.Handle(self.name, self._record.id, self._record.digest, self._record.calls))

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
        tasks = {task.id: task for task in tagged if self.identity.owns(task)}
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
        kept = self._parts.submitter.choose(self.identity, self._progress.attempt, tasks)
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
        elif self.identity.owns(task):
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
        return self._ending.end(self.identity, self._progress)

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
            self._see_retry(task)
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
            found = find_outcomes(self._parts, self.identity, expected, task, self._also)
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
        self._see_retry(task)
        final, following = self._attempts.after(found.outcomes, self._progress.attempt, pays=self._pays())
        if following is None:
            self._settle(final)
            return
        self._settling.settle(final)
        self._go_on(following)

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
        if not self.identity.owns(task):
            return False
        self._bind(task)
        return True

    def _settle(self, told: Sequence[Told]) -> None:
        """Give the last outcomes, and remove what only the container needed."""
        self._forget(self)
        lasting = self._settling.lasting and all(outcome.lasting for _, outcome in told)
        if lasting and self._record.digest:
            self._parts.journal.note(self._record.id, self._settling.note(told))
        self._settling.settle(told)
        self._progress.update(over=True)
        if lasting and self._is_over() and self._record.digest:
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

    # What depends on whose job it is.

    @abstractmethod
    def _see_chosen(self, task: Task) -> None:
        """See which of the job's calls a task is for, where that is not known."""

    @abstractmethod
    def _see_retry(self, task: Task) -> None:
        """See how often its calls may be tried again, where that is not known."""

    @abstractmethod
    def _pays(self) -> bool:
        """Tell whether its `max_yen` pays for another task, as far as is known."""

    @abstractmethod
    def _go_on(self, following: Next) -> None:
        """Have the next attempt's task made, or wait for it."""

    @abstractmethod
    def _pass_over(self, error: errors.ResultNotFetched) -> None:
        """Go on without a task whose outcomes cannot be had now. Raises ResultNotFetched where there is no other."""

    @abstractmethod
    def _is_over(self) -> bool:
        """Tell whether nobody needs what lies in the bucket for it, when its calls have their outcomes."""


def _running_since(task: Task) -> datetime | None:
    return task.started_at if task.status == "running" else None
