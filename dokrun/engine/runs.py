"""The jobs of an engine that are not over: what is its own, and what is left at its end."""

from __future__ import annotations

import threading

from dokrun.engine.journal import Record
from dokrun.engine.others import OthersRun
from dokrun.engine.outcome import Also
from dokrun.engine.own import OwnRun
from dokrun.engine.parts import Parts
from dokrun.engine.prepare import Job
from dokrun.engine.run import Run
from dokrun.outcomes import Outcomes


class Runs:
    """Makes them, and keeps each until it is over. For any thread.

    Args:
        parts: the engine's.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._changed = threading.Condition()
        self._unfinished: dict[Run, None] = {}

    def of(self, job: Job, calls: Outcomes, *, alike: str = "", also: Also | None = None) -> OwnRun:
        """Make the one of a job that is about to be begun here.

        Args:
            job: what will be staged.
            calls: where its outcomes go.
            alike: what is the same for every call like its one, if that is to be written down.
            also: of a session, reads what its artifact has of other jobs' calls.
        """
        batch = self._parts.watcher.batch()
        # A session has no calls of its own.
        listed = job.calls if also is None else 0
        record = Record(job.id, job.name, job.plan, listed, "", batch.tag, alike)
        run = OwnRun(self._parts, job, record, calls, self._forget, batch=batch, also=also)
        self._keep(run)
        return run

    def attached(self, record: Record, calls: Outcomes, also: Also | None = None) -> OthersRun:
        """Make the one of a job that somebody has submitted."""
        run = OthersRun(self._parts, record, calls, self._forget, also)
        self._keep(run)
        return run

    def has(self, job_id: str) -> bool:
        """Tell whether this process waits for a job's outcome."""
        with self._changed:
            return any(run.calls.job_id == job_id for run in self._unfinished)

    def own(self, job_id: str) -> Run | None:
        """Tell the one of a job that this process has begun and still waits for; None where there is none."""
        with self._changed:
            runs = (run for run in self._unfinished if run.calls.job_id == job_id)
            return next((run for run in runs if run.ours and not run.calls.over), None)

    def last_first(self) -> list[Run]:
        """Tell those that there are, the last one first."""
        with self._changed:
            return list(reversed(self._unfinished))

    def wait_for_ends(self, patience_s: float) -> None:
        """Wait for those that end by themselves, at most so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not any(run.ends_alone for run in self._unfinished), patience_s)

    def _keep(self, run: Run) -> None:
        with self._changed:
            self._unfinished[run] = None

    def _forget(self, run: Run) -> None:
        with self._changed:
            self._unfinished.pop(run, None)
            self._changed.notify_all()
