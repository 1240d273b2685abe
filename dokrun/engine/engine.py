"""An engine is what one profile's calls go through: a client, a bucket, a few threads, and the watcher."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import Any

from dokrun import config
from dokrun.api import Client
from dokrun.bucket import Bucket
from dokrun.config import Settings
from dokrun.cost import Price
from dokrun.engine.images import Images
from dokrun.engine.prepare import Call, Job, prepare
from dokrun.engine.run import Parts, Run
from dokrun.engine.stage import check_fits, upload_blobs
from dokrun.engine.watch import Watcher
from dokrun.engine.workers import Workers
from dokrun.errors import OptionError, StorageError, SubmitFailed
from dokrun.future import Future
from dokrun.options import Options

# Downloads that go on at once.
_THREADS = 4
# How long the end of a process may wait for requests that are under way.
_PATIENCE_S = 30.0
# A build, which nobody pays for and which leaves nothing behind, may take minutes more.
_BUILD_PATIENCE_S = 1.0
_PRICES_KEPT_S = 3600.0
# How many tasks one line of text names.
_NAMED = 3


class Engine:
    """Runs jobs on the account, or the emulator, that its settings name.

    Raises:
        ConfigError: the profile `local` lacks its packages.
        MissingCredentials: there is no API key.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = config.connect(settings)
        self.client = Client(
            self.settings.access_token, self.settings.access_token_secret, base_url=self.settings.api_url
        )
        self._bucket = None if self.settings.bucket is None else Bucket(self.settings.bucket)
        self._parts = Parts(
            client=self.client,
            bucket=self._bucket,
            images=Images(self.settings, self.client),
            watcher=Watcher(self.client),
            builds=Workers(1, "dokrun-build"),
            submissions=Workers(1, "dokrun-submit"),
            cancels=Workers(1, "dokrun-cancel"),
            others=Workers(_THREADS, "dokrun-collect"),
            prices=self.prices,
            state_dir=self.settings.state_dir,
        )
        self._lock = threading.Lock()
        self._unfinished: dict[Run, None] = {}
        self._prices: dict[str, Price] = {}
        self._prices_until = 0.0

    def call(self, call: Call, options: Options) -> Future[Any]:
        """Run a call as a job of its own. Returns as soon as what the caller may still change is safe.

        Raises:
            OptionError: neither the options nor the profile's defaults name a plan.
            NotSerializable: an argument or the function cannot be pickled.
            SourceTooLarge: the user's files that would go along are too many.
            ConfigError: there is no bucket, and the call is too large to travel without.
        """
        merged = options.over(self.settings.defaults)
        if merged.plan is None:
            known = ", ".join(sorted(self.prices()))
            raise OptionError(f"{call.name} has no plan; write @remote(plan=…) with one of {known}")
        job = prepare(call, merged.plan, merged)
        future: Future[Any] = Future(job.header["calls"][0]["id"], job.name)
        try:
            if self._bucket is None:
                check_fits(job)
            else:
                upload_blobs(job, self._bucket)
        except StorageError as error:
            failed = SubmitFailed(f"{job.name} was not submitted: {error}", ran="no", call_id=future.call_id)
            failed.__cause__ = error
            future.fail(failed)
        else:
            self._submit(job, future)
        return future

    def _submit(self, job: Job, future: Future[Any]) -> None:
        run = Run(self._parts, job, future, self._forget)
        with self._lock:
            self._unfinished[run] = None
        run.begin()

    def prices(self) -> dict[str, Price]:
        """Tell what a second costs on each plan, as the service says; asked for again after an hour.

        Raises:
            ApiError: the service refused or did not answer.
        """
        if time.monotonic() >= self._prices_until:
            minimum = {plan.id: plan.minimum_execution_seconds for plan in self.client.plans.list().results}
            listed = self.client.prices.list().results
            self._prices = {unit.plan: Price(unit.plan, unit.price, minimum.get(unit.plan, 0)) for unit in listed}
            self._prices_until = time.monotonic() + _PRICES_KEPT_S
        return self._prices

    def close(self) -> None:
        """Cancel what is unfinished, say so in one line, and end the threads."""
        with self._lock:
            # The last in line first, so that none of them gets to run.
            unfinished = list(reversed(self._unfinished))
        for run in unfinished:
            # At exit no thread may be there to do it; it is done below, in this one.
            run.future.on_cancel = None
            run.future.cancel()
        parts = self._parts
        parts.builds.close(_BUILD_PATIENCE_S)
        ended = [workers.close(_PATIENCE_S) for workers in (parts.submissions, parts.cancels, parts.others)]
        stopped = [run for run in unfinished if run.cancel()]
        self._parts.watcher.close()
        if self._bucket is not None:
            self._bucket.close()
        self.client.close()
        if stopped:
            named = [f"{run.job.name} (task {run.future.task_id})" for run in reversed(stopped)]
            more = [f"and {len(named) - _NAMED} more"] if len(named) > _NAMED else []
            told = ", ".join([*named[:_NAMED], *more])
            print(f"dokrun: cancelled what had not finished: {told}", file=sys.stderr)
        if not all(ended):
            print("dokrun: a request to DOK had no answer yet; look whether a task was created", file=sys.stderr)

    def _forget(self, run: Run) -> None:
        with self._lock:
            self._unfinished.pop(run, None)


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
        return engine


def reset() -> None:
    """Close all engines, so that the next call reads the settings anew. Unfinished jobs are cancelled."""
    with _engines_lock:
        engines = set(_engines.values())
        _engines.clear()
    if _pid == os.getpid():
        for engine in engines:
            engine.close()
