"""A job that this process has made: its image is made ready, it is staged and submitted, and again for each attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from dokrun import errors
from dokrun.api.models import Task
from dokrun.engine.attempts import Attempts, Next
from dokrun.engine.definition import digest
from dokrun.engine.images import Ready
from dokrun.engine.journal import Record, Step
from dokrun.engine.outcome import Also
from dokrun.engine.parts import Parts
from dokrun.engine.prepare import Job
from dokrun.engine.reports import described
from dokrun.engine.run import Run
from dokrun.engine.stage import Attempt, stage
from dokrun.engine.submit import GivenUp, Unknown, not_submitted
from dokrun.engine.watch import Batch
from dokrun.engine.workers import Workers
from dokrun.outcomes import Outcomes

_log = logging.getLogger("dokrun.engine")


class OwnRun(Run):
    """Has a job's tasks made, each when it is due.

    Args:
        parts: the engine's.
        job: what is staged.
        record: what is written down of it.
        calls: where its outcomes go.
        forget: told when nothing more will be done.
        batch: which tasks are looked at together.
        also: of a session, reads what its artifact has of other jobs' calls.
    """

    ours = True

    def __init__(
        self,
        parts: Parts,
        job: Job,
        record: Record,
        calls: Outcomes,
        forget: Callable[[Run], None],
        *,
        batch: Batch,
        also: Also | None = None,
    ) -> None:
        attempts = Attempts(job.retry, ours=True)
        super().__init__(parts, record, calls, forget, batch=batch, attempts=attempts, also=also, price=job.price)
        self._job = job
        self._image: Ready
        self.detached = bool(job.options.detach)
        calls.progress.serves = job.options.http is not None

    def begin(self) -> None:
        """Go on in the background until the future has its outcome."""
        ready = self._parts.images.known(self._job.options.image)
        if ready is None:
            self._do(self._parts.builds, self._make_ready)
        else:
            self._do(self._parts.submissions, lambda: self._submit(ready))

    def _do(self, workers: Workers, step: Callable[[], object]) -> None:
        if not self._steps.on(workers, step):
            self._fail(not_submitted(self.name, "dokrun is being closed"), lasting=False)

    def _make_ready(self) -> None:
        if self.calls.cancelled():
            self.settle_cancelled()
            return
        self._progress.update(status="image")
        try:
            ready = self._parts.images.ready(self._job.options.image)
        except errors.CallFailed:
            raise
        except errors.DokrunError as error:
            raise not_submitted(self.name, error) from error
        self._do(self._parts.submissions, lambda: self._submit(ready))

    def _submit(self, image: Ready) -> None:
        if self.calls.cancelled():
            self.settle_cancelled()
            return
        self._image = image
        self._parts.spending.check(self.name, self._job.plan)
        attempt = self._progress.attempt
        self._progress.update(status="staging")
        try:
            if self._chosen is None and len(left := self.calls.leave_out()) < len(self.calls):
                # The others were cancelled before anything was sent, and shall cost nothing.
                self._chosen = set(left)
            chosen = None if self._chosen is None else sorted(self._chosen)
            again = bool(self._rejected)
            staged = Attempt(attempt, chosen, self._attempts.checkpoint, self._bill.spent, again)
            request = stage(self._job, self._parts.bucket, image, self._batch.tag, staged)
            self._intend(attempt, digest(request))
            if self.calls.cancelled():
                self.settle_cancelled()
                return
            task = self._parts.submitter.submit(
                self.identity,
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

    def _go_on(self, following: Next) -> None:
        _, outcome = following.calls[0]
        if not outcome.claimed and self._progress.task_id is not None:
            self._rejected.add(self._progress.task_id)
        self._chosen, self.tried = {number for number, _ in following.calls}, True
        some = "" if len(self.calls) == 1 else f"{len(self._chosen)} calls of "
        told = described(outcome.error) if outcome.error else ""
        _log.warning("%s%s: tried again, as attempt %d: %s", some, self.name, following.attempt, told)
        self._progress.update(status="retrying", task_id=None, attempt=following.attempt)
        self._steps.after(
            following.pause_s, lambda: self._do(self._parts.submissions, lambda: self._submit(self._image))
        )

    def _pass_over(self, error: errors.ResultNotFetched) -> None:
        # What was sent ahead may be all that anybody who attaches will get.
        self._settling.without_artifact.add(self._progress.attempt)
        raise error

    def _pays(self) -> bool:
        return self._job.pays(self._bill.spent)

    def _is_over(self) -> bool:
        return True

    def _see_chosen(self, task: Task) -> None:
        """It has chosen them itself."""

    def _see_retry(self, task: Task) -> None:
        """It was told by the caller."""
