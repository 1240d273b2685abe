"""How an engine ends: what has all its results may end by itself, the rest is cancelled or goes on, and all is told."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from dokrun.config import Settings
from dokrun.display import in_notebook
from dokrun.engine import farewell
from dokrun.engine.lives import Lives
from dokrun.engine.parts import Parts
from dokrun.engine.run import Run
from dokrun.engine.runs import Runs

# How long the end of a process may wait for requests that are under way.
_PATIENCE_S = 30.0
# A build, which nobody pays for and which leaves nothing behind, may take minutes more.
_BUILD_PATIENCE_S = 1.0
# How long jobs may take to end whose results are all here.
_END_PATIENCE_S = 5.0


class Leaving:
    """Brings an engine to its end.

    Args:
        parts: the engine's.
        runs: its jobs.
        lives: its sessions.
        settings: what the profile says.
    """

    def __init__(self, parts: Parts, runs: Runs, lives: Lives, settings: Settings) -> None:
        self._parts = parts
        self._runs = runs
        self._lives = lives
        self._settings = settings
        # At its end a kernel may not know any more what it was.
        self._in_notebook = in_notebook()

    def let_end(self) -> None:
        """Let jobs end whose results are all here, so that it is written down what they cost; but not for long."""
        self._lives.close_idle()
        self._parts.watcher.hurry()
        with contextlib.suppress(KeyboardInterrupt):
            self._runs.wait_for_ends(_END_PATIENCE_S)

    def leave(self, unsent: Sequence[str]) -> None:
        """Cancel what is unfinished, say so, and end threads and connections.

        `unsent` are the names of what was still being gathered.
        """
        self._lives.drop(self._goes_on)
        # The last in line first, so that none of them gets to run.
        runs = self._runs.last_first()
        # Of some only the task has yet to end.
        told = [run for run in runs if run.ends_alone]
        open_runs = [run for run in runs if run not in told]
        unfinished = [run for run in open_runs if not self._goes_on(run)]
        for run in unfinished:
            # At exit no thread may be there to do it; it is done below, in this one.
            run.cancel_here()
        going_on = [run for run in open_runs if self._goes_on(run)] + (told if self._settings.outlasts else [])
        try:
            stopped, answered = self._stop(unfinished, told)
        except KeyboardInterrupt:
            # A second Ctrl-C: somebody wants this to end at once, and has to know what that leaves behind.
            farewell.interrupted(self._settings, open_runs[::-1])
            return
        farewell.tell(self._settings, stopped[::-1], going_on[::-1], unsent)
        if not answered:
            print("dokrun: a request to DOK had no answer yet; look whether a task was created", file=sys.stderr)

    def _stop(self, unfinished: list[Run], told: list[Run]) -> tuple[list[Run], bool]:
        """End tasks, threads and connections. Tells which jobs that stopped, and whether every request was answered."""
        parts = self._parts
        parts.builds.close(_BUILD_PATIENCE_S)
        ended = [workers.close(_PATIENCE_S) for workers in (parts.submissions, parts.cancels, parts.others)]
        # Of what has no task by now, none will be made.
        stopped = [run for run in unfinished if run.cancel() or (all(ended) and _was_not_sent(run))]
        parts.watcher.close()
        for run in unfinished:
            run.settle_cancelled()
        for run in told:
            run.settle_early()
        if parts.bucket is not None:
            parts.bucket.close()
        parts.client.close()
        parts.journal.close()
        return stopped, all(ended)

    def _goes_on(self, run: Run) -> bool:
        """Tell whether a job outlives this process: a notebook's kernel ends more lightly than a script."""
        return self._settings.outlasts and bool(run.detached or self._in_notebook)


def _was_not_sent(run: Run) -> bool:
    return run.task_id is None and run.calls.cancelled()
