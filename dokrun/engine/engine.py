"""An engine is what one profile's calls go through: a client, a bucket, a few threads, and the watcher."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from dokrun import config, keys
from dokrun.api import Client
from dokrun.api.transport import Backoff
from dokrun.bucket import Bucket
from dokrun.config import Settings
from dokrun.cost import Price
from dokrun.engine import farewell, listing
from dokrun.engine.attach import find_entry
from dokrun.engine.images import Images
from dokrun.engine.journal import Journal, Record
from dokrun.engine.lines import users_own
from dokrun.engine.listing import Listed
from dokrun.engine.parts import Parts
from dokrun.engine.plans import Plans
from dokrun.engine.prepare import Call, Job, prepare
from dokrun.engine.run import Run
from dokrun.engine.stage import check_fits, upload_blobs
from dokrun.engine.submit import Submitter
from dokrun.engine.watch import Batch, Watcher
from dokrun.engine.workers import Workers
from dokrun.errors import OptionError, StorageError, SubmitFailed
from dokrun.future import Future, Progress
from dokrun.options import Options

_log = logging.getLogger("dokrun.engine")

# Downloads that go on at once.
_THREADS = 4
# How long the end of a process may wait for requests that are under way.
_PATIENCE_S = 30.0
# A build, which nobody pays for and which leaves nothing behind, may take minutes more.
_BUILD_PATIENCE_S = 1.0


class Engine:
    """Runs jobs on the account, or the emulator, that its settings name.

    Args:
        settings: what the profile says.
        sleep: waits so many seconds, in place of this machine's clock.

    Raises:
        ConfigError: the profile `local` lacks its packages.
        MissingCredentials: there is no API key.
    """

    def __init__(self, settings: Settings, *, sleep: Callable[[float], object] | None = None) -> None:
        self.settings = config.connect(settings)
        self.client = Client(
            self.settings.access_token,
            self.settings.access_token_secret,
            base_url=self.settings.api_url,
            backoff=None if sleep is None else Backoff(sleep=sleep),
        )
        self._plans = Plans(self.client)
        self._bucket = None if self.settings.bucket is None else Bucket(self.settings.bucket)
        self._closing = threading.Event()
        self._parts = Parts(
            client=self.client,
            bucket=self._bucket,
            images=Images(self.settings, self.client, sleep=sleep or self._closing.wait),
            journal=Journal(self.settings.state_dir, self.settings.account),
            watcher=Watcher(self.client) if sleep is None else Watcher(self.client, refused_for_s=0.0),
            submitter=Submitter(self.client, self._bucket, sleep or self._closing.wait, self._closing.is_set),
            builds=Workers(1, "dokrun-build"),
            submissions=Workers(1, "dokrun-submit"),
            cancels=Workers(1, "dokrun-cancel"),
            others=Workers(_THREADS, "dokrun-collect"),
            prices=self._plans.prices,
            charges=self.settings.charges,
            sleep=sleep or self._closing.wait,
            state_dir=self.settings.state_dir,
        )
        self._lock = threading.Lock()
        self._unfinished: dict[Run, None] = {}

    def call(self, call: Call, options: Options) -> Future[Any]:
        """Run a call as a job of its own. Returns as soon as what the caller may still change is safe.

        Raises:
            OptionError: neither the options nor the profile's defaults name a plan, or DOK does not have it.
            NotSerializable: an argument or the function cannot be pickled.
            SourceTooLarge: the user's files that would go along are too many.
            ConfigError: there is no bucket, and the call is too large to travel without; or a secret is not set.
        """
        merged = options.over(self.settings.defaults)
        if merged.plan is None:
            known = ", ".join(sorted(self.prices()))
            raise OptionError(f"{call.name} has no plan; write @remote(plan=…) with one of {known}")
        self._plans.check(merged.plan, call.name)
        job = prepare(call, merged.plan, merged)
        batch = self._parts.watcher.batch()
        record = Record(job.id, job.name, job.plan, 1, "", batch.tag)
        run = self._new_run(record, batch, job)
        try:
            if self._bucket is None:
                check_fits(job)
            else:
                upload_blobs(job, self._bucket)
        except StorageError as error:
            failed = SubmitFailed(f"{job.name} was not submitted: {error}", ran="no", call_id=run.future.call_id)
            failed.__cause__ = error
            run.future.fail(failed)
        else:
            with self._lock:
                self._unfinished[run] = None
            run.begin(job)
        return run.future

    def _new_run(self, record: Record, batch: Batch, job: Job | None) -> Run:
        progress = Progress()
        future: Future[Any] = Future(keys.call_id(record.id, 0), record.name, progress)
        return Run(self._parts, record, future, progress, self._forget, job=job, batch=batch)

    def attach(self, text: str) -> Future[Any]:
        """Make the future of a call that this or another process has submitted; nothing is submitted.

        Raises:
            OptionError: it is no handle, or the beginning of several, or of none that this machine knows; or its task
                has ended with the process that it belonged to.
        """
        entry = find_entry(self._parts.journal, text)
        if not self.settings.outlasts and not self._lives(entry.record.id):
            raise OptionError(
                f"the task of {text!r} is gone: on the profile {self.settings.profile} a call ends with the process "
                "that made it; call the function again"
            )
        run = self._new_run(entry.record, Batch.of_job(entry.record.id), None)
        with self._lock:
            self._unfinished[run] = None
        run.attach(entry.task_id, entry.attempt)
        return run.future

    def _lives(self, job_id: str) -> bool:
        """Tell whether a job is this process's own."""
        call_id = keys.call_id(job_id, 0)
        with self._lock:
            unfinished = any(run.future.call_id == call_id for run in self._unfinished)
        return unfinished or any(True for _ in self.client.tasks.iterate(tag=keys.job_tag(job_id)))

    def listed(self, status: str | None = None) -> Iterator[Listed]:
        """Yield the project's tasks that dokrun has made, newest first. Raises ApiError."""
        return listing.listed(self.client, status)

    def find(self, text: str) -> Listed:
        """Tell the task that a handle, its beginning or a task's id means. Raises OptionError and ApiError."""
        return listing.find(self.client, text)

    def logs(self, one: Listed) -> Iterator[str]:
        """Yield what a task writes, as it grows, until it has ended. Raises ApiError."""
        return users_own(self.client.tasks.logs(one.task.id))

    def cancel(self, one: Listed) -> bool:
        """End a task. Tells whether there was anything to end. Raises ApiError."""
        return listing.cancel(self.client, self._parts.submitter, one)

    def prices(self) -> dict[str, Price]:
        """Tell what a second costs on each plan, as the service says; asked for again after an hour.

        Raises:
            ApiError: the service refused or did not answer.
        """
        return self._plans.prices()

    def close(self) -> None:
        """Cancel what is unfinished, say so in one line, and end the threads."""
        self._closing.set()
        with self._lock:
            # The last in line first, so that none of them gets to run.
            open_runs = list(reversed(self._unfinished))
        unfinished = [run for run in open_runs if not self._goes_on(run)]
        for run in unfinished:
            # At exit no thread may be there to do it; it is done below, in this one.
            _quietly(run.cancel_here)
        going_on = [run for run in open_runs if self._goes_on(run)]
        try:
            stopped, answered = self._stop(unfinished)
        except KeyboardInterrupt:
            # A second Ctrl-C: somebody wants this to end at once, and has to know what that leaves behind.
            farewell.interrupted(self.settings, open_runs[::-1])
            return
        farewell.tell(self.settings, stopped[::-1], going_on[::-1])
        if not answered:
            print("dokrun: a request to DOK had no answer yet; look whether a task was created", file=sys.stderr)

    def _stop(self, unfinished: list[Run]) -> tuple[list[Run], bool]:
        """End tasks, threads and connections. Tells which jobs that stopped, and whether every request was answered."""
        parts = self._parts
        parts.builds.close(_BUILD_PATIENCE_S)
        ended = [workers.close(_PATIENCE_S) for workers in (parts.submissions, parts.cancels, parts.others)]
        # Of what has no task by now, none will be made.
        stopped = [run for run in unfinished if run.cancel() or (all(ended) and _was_not_sent(run))]
        parts.watcher.close()
        for run in unfinished:
            run.settle_cancelled()
        if self._bucket is not None:
            self._bucket.close()
        self.client.close()
        parts.journal.close()
        return stopped, all(ended)

    def _goes_on(self, run: Run) -> bool:
        """Tell whether a job outlives this process: a notebook's kernel ends more lightly than a script."""
        return self.settings.outlasts and bool(run.detached or "ipykernel" in sys.modules)

    def _forget(self, run: Run) -> None:
        with self._lock:
            self._unfinished.pop(run, None)


def _was_not_sent(run: Run) -> bool:
    return run.future.task_id is None and run.future.cancelled()


def _quietly(step: Callable[[], object]) -> None:
    """Do something that may call what the user has given, and let nothing of that keep the others from their end."""
    try:
        step()
    except BaseException as error:  # noqa: BLE001 - a callback may raise SystemExit
        _log.warning("a callback failed while dokrun was being closed: %s", type(error).__name__)


_engines: dict[str | None, Engine] = {}
_engines_lock = threading.Lock()
_pid = os.getpid()


def get(profile: str | None = None) -> Engine:
    """Tell the engine of a profile, made when first asked for; None is the profile that the environment chooses."""
    global _pid  # noqa: PLW0603 - the one replaceable default client, and the process that it belongs to
    with _engines_lock:
        if _pid != os.getpid():
            # After a fork the threads are the parent's, and so are the tasks.
            _engines.clear()
            _pid = os.getpid()
        engine = _engines.get(profile)
        if engine is None:
            settings = config.load(profile)
            # The profile that the environment chooses may be one that somebody has named as well.
            engine = _engines.get(settings.profile) or Engine(settings)
            _engines[profile] = _engines[settings.profile] = engine
            # Last registered is first called: before the local emulator, which the engine has just started, ends.
            atexit.unregister(reset)
            atexit.register(reset)
            _at_the_end_of_a_child()
        return engine


def _at_the_end_of_a_child() -> None:
    """Have the engines closed where multiprocessing ends this process, which calls none of `atexit`'s."""
    if "multiprocessing.util" in sys.modules:  # it costs milliseconds, and has been loaded in every such child
        from multiprocessing import parent_process, util

        if parent_process() is not None:
            util.Finalize(None, reset, exitpriority=0)


def use(made: Engine) -> None:
    """Let an engine stand for its profile and for the one that the environment chooses, until `reset` closes it."""
    reset()
    with _engines_lock:
        _engines[None] = _engines[made.settings.profile] = made


def reset() -> None:
    """Close all engines, so that the next call reads the settings anew. Unfinished jobs are cancelled."""
    with _engines_lock:
        engines = set(_engines.values())
        _engines.clear()
    if _pid == os.getpid():
        for engine in engines:
            engine.close()
