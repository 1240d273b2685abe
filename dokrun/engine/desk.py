"""What the command line asks of an account: its tasks, what they write and cost, and what is left of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

from dokrun import config, keys
from dokrun.config import Settings
from dokrun.cost import JST, utc_now
from dokrun.engine import listing
from dokrun.engine.journal import Step
from dokrun.engine.lines import of_call, users_own
from dokrun.engine.listing import Listed
from dokrun.engine.parts import Parts
from dokrun.engine.plans import Plans
from dokrun.engine.queue import places
from dokrun.engine.shell import SHELLS, ShellTask, check_key
from dokrun.engine.spending import Cost, billed, costs_since
from dokrun.engine.sweep import Unneeded, lifetimes, remove, unneeded
from dokrun.errors import ConfigError, OptionError
from dokrun.progress import Place


class Desk:
    """Answers it, and does what is wanted: for all that dokrun has made in the account, in whichever process.

    Args:
        parts: the engine's.
        plans: which there are.
        settings: what the profile says.
    """

    def __init__(self, parts: Parts, plans: Plans, settings: Settings) -> None:
        self._parts = parts
        self._client = parts.client
        self._bucket = parts.bucket
        self._plans = plans
        self._settings = settings

    def listed(self, status: str | None = None) -> Iterator[Listed]:
        """Yield the project's tasks that dokrun has made, newest first. Raises ApiError."""
        return listing.listed(self._client, status)

    def attempts(self, job_id: str) -> list[Listed]:
        """Tell all tasks of a job, newest first. Raises ApiError."""
        return list(listing.of_job(self._client, job_id))

    def steps(self, job_id: str) -> Sequence[Step]:
        """Tell what this machine has written down of a job; nothing if another has made it."""
        found = self._parts.journal.find(job_id)
        return found[0].steps if found else ()

    def places(self) -> dict[str, Place]:
        """Tell where each of the project's waiting tasks stands in its line, by the task's id. Raises ApiError."""
        return places(self._client.tasks.iterate(status=("waiting", "running")), utc_now())

    def find(self, text: str) -> Listed:
        """Tell the task that a handle, its beginning or a task's id means. Raises OptionError and ApiError."""
        return listing.find(self._client, text)

    def logs(self, one: Listed) -> Iterator[str]:
        """Yield what a task writes, as it grows, until it has ended. Raises ApiError."""
        return users_own(self._client.tasks.logs(one.task.id))

    def call_logs(self, one: Listed, number: int) -> Iterator[str]:
        """Yield what one call of a map's task writes, likewise. Raises ApiError."""
        return of_call(self._client.tasks.logs(one.task.id), number)

    def cancel(self, one: Listed) -> bool:
        """End a task. Tells whether there was anything to end. Raises ApiError."""
        return listing.cancel(self._client, self._parts.submitter, one)

    def sweep(
        self, older_than: timedelta, *, puts: bool = False, dry_run: bool = False
    ) -> Iterator[tuple[Unneeded, bool]]:
        """Remove from the bucket what nobody needs, and yield it, with whether it is gone; `dry_run` removes nothing.

        Raises:
            ConfigError: there is no bucket, or this machine's clock is wrong.
            ApiError: the service does not tell all tasks; nothing was removed.
            StorageError: the bucket refused, or gave no answer.
        """
        if self._bucket is None:
            raise ConfigError(f"there is nothing to remove: {config.NO_BUCKET}")
        self._client.check_clock()
        # Before the tasks: what is sent meanwhile is not among it.
        objects = list(self._bucket.stored(keys.all_ours()))
        jobs = lifetimes(self.listed(), utc_now())
        found = list(unneeded(objects, jobs, utc_now(), older_than, puts=puts))
        yield from ((one, False) for one in found) if dry_run else remove(self._bucket, found)

    def shell(self, plan: str, image: str | None, limit_s: float, shell: str) -> ShellTask:
        """Make a task with an ssh door, which begins when it is told to.

        Raises:
            OptionError: there is no such plan or shell, or no ssh key that opens the door.
            SubmitFailed: the day's budget does not let it begin.
            ImageError: the image cannot be made ready.
            ApiError: the service refused or did not answer.
        """
        if shell not in SHELLS:
            raise OptionError(f"DOK has no shell {shell!r}; it has {', '.join(SHELLS)}")
        self._plans.check(plan, "dokrun shell")
        check_key(self._client, Path.home())
        self._parts.spending.check("dokrun shell", plan)
        ready = self._parts.images.ready(image or self._settings.defaults.image, any_python=True)
        return ShellTask(self._parts, ready, plan, limit_s, shell)

    def costs(self, since: date) -> list[Cost]:
        """Tell what the project's tasks that dokrun has made cost since a day in Japan. Raises ApiError."""
        return costs_since(self.listed(), since, self._parts.prices(), utc_now())

    def billed(self, since: date) -> Decimal:
        """Tell what the service says that it has billed since a day in Japan, in yen. Raises ApiError."""
        return billed(self._client, since, utc_now().astimezone(JST).date())
