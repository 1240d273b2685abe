"""A job that somebody has submitted: its tasks are found, and whoever has begun it makes those that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dokrun import errors
from dokrun.api.models import Task
from dokrun.engine.attempts import Attempts, Next, Told
from dokrun.engine.definition import attempt_of, chosen_of, retry_of
from dokrun.engine.journal import Record
from dokrun.engine.outcome import Also
from dokrun.engine.parts import Parts
from dokrun.engine.run import Run
from dokrun.engine.submit import GivenUp, Unknown, from_on, not_submitted
from dokrun.engine.watch import Batch
from dokrun.outcomes import Outcomes
from dokrun.retry import Retry


class OthersRun(Run):
    """Waits for a job's tasks, and makes none: its handle is all that is known of it, besides what they say.

    Args:
        parts: the engine's.
        record: what is known of it.
        calls: where its outcomes go.
        forget: told when nothing more will be done.
        also: of a session, reads what its artifact has of other jobs' calls.
    """

    ours = False

    def __init__(
        self, parts: Parts, record: Record, calls: Outcomes, forget: Callable[[Run], None], also: Also | None = None
    ) -> None:
        batch, attempts = Batch.of_job(record.id), Attempts(Retry(0), ours=False)
        super().__init__(parts, record, calls, forget, batch=batch, attempts=attempts, also=also)
        self.detached = True

    def attach(self, task_id: str | None, attempt: int) -> None:
        """Watch a job that is there already, or find out that it is not; nothing is submitted."""
        self._progress.update(status="looking", handle=self._handle(), attempt=attempt, task_id=task_id)
        if task_id is not None and (attempt == 1 or len(self.calls) == 1):
            self._watch()
        else:
            self._steps.aside(self._look_for)

    def _look_for(self) -> None:
        try:
            # Of a single call the last attempt tells all; of many, each tells of other ones.
            which = max if len(self.calls) == 1 else from_on(1)
            task = self._parts.submitter.look_for(self.identity, self._progress.attempt, self.name, which)
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

    def _go_on(self, following: Next) -> None:
        self._steps.aside(lambda: self._await(following))

    def _await(self, following: Next) -> None:
        """Wait for the next task of the process that has submitted this job, or settle if that makes none."""
        self._rejected.add(self._progress.task_id or "")
        which = from_on(following.attempt)
        task = self._parts.submitter.find(self.identity, which, self._rejected, due_in_s=following.pause_s)
        if task is None:
            self._attempts.others_go_on = True
            self._settle(following.calls)
        else:
            self._follow_into(task, following.calls)

    def _pass_over(self, error: errors.ResultNotFetched) -> None:
        """Go on with the calls that a later task was for, if there is one."""
        later, attempt = None, self._progress.attempt + 1
        if len(self.calls) > 1:
            later = self._parts.submitter.look(self.identity, from_on(attempt))
        if later is None:
            # What was sent ahead may be all that anybody who attaches will get.
            self._settling.without_artifact.add(attempt - 1)
            raise error
        self._follow_into(later, self._settling.each_left(error, lasting=False))

    def _follow_into(self, task: Task, former: Sequence[Told]) -> None:
        """Go on with the calls that a task is for; what the attempts before it have told is final for the others."""
        self._chosen = chosen_of(task, len(self.calls))
        self._settling.settle([told for told in former if told[0] not in self._chosen])
        self._bind(task)

    def _finish(self, task: Task) -> None:
        if self._progress.status == "looking":
            self._progress.update(status=task.status)  # it had ended before anybody saw it here
        super()._finish(task)

    def _pays(self) -> bool:
        return True  # whoever has submitted it knows

    def _is_over(self) -> bool:
        # Whoever has submitted a job that failed here may still have plans for it.
        return not (self._settling.failed or self._attempts.others_go_on)

    def _see_chosen(self, task: Task) -> None:
        """See which calls were cancelled before anything was sent."""
        if self._chosen is not None or attempt_of(task) != 1:
            return
        chosen = chosen_of(task, len(self.calls))
        if 0 < len(chosen) < len(self.calls):
            self._chosen = chosen
            self.calls.cancel(set(range(len(self.calls))) - chosen)
            self.calls.leave_out()

    def _see_retry(self, task: Task) -> None:
        self._attempts.retry = retry_of(task)
