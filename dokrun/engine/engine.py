"""An engine is what one profile's calls go through: a client, a bucket, a few threads, and the watcher."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dokrun import config, keys
from dokrun.api import Client
from dokrun.api.transport import Backoff
from dokrun.bucket import Bucket
from dokrun.config import Settings
from dokrun.cost import Price, Quote
from dokrun.engine.again import Again
from dokrun.engine.attach import find_entry
from dokrun.engine.desk import Desk
from dokrun.engine.gathering import Gathering
from dokrun.engine.hint import Hint
from dokrun.engine.images import Images
from dokrun.engine.journal import Journal
from dokrun.engine.keeping import Keeping
from dokrun.engine.leaving import Leaving
from dokrun.engine.linger import check_lingers
from dokrun.engine.live import Live
from dokrun.engine.lives import Lives
from dokrun.engine.parts import Parts
from dokrun.engine.plans import Plans
from dokrun.engine.portions import MOST_BYTES, Portions
from dokrun.engine.prepare import Job, Preparing
from dokrun.engine.queue import Queue
from dokrun.engine.quotes import Split, quote
from dokrun.engine.runs import Runs
from dokrun.engine.spending import Spending
from dokrun.engine.stage import COMMAND_BYTES, check_fits
from dokrun.engine.submit import Submitter, failed_future
from dokrun.engine.target import Target
from dokrun.engine.wanted import Asked, Wanted
from dokrun.engine.watch import Watcher
from dokrun.engine.workers import Workers
from dokrun.errors import ConfigError, OptionError, StorageError
from dokrun.future import Future
from dokrun.given import Piece, Put
from dokrun.jobstate import Progress
from dokrun.map import Map, Packing, handed_out
from dokrun.options import Options
from dokrun.outcomes import Bell, Outcomes
from dokrun.payload.serialize import Serializer
from dokrun.shim.digests import digest_of
from dokrun.shim.envelope import load_value

# Downloads that go on at once.
_THREADS = 4


class Engine:
    """Runs jobs on the account, or the emulator, that its settings name.

    Args:
        settings: what the profile says.
        sleep: waits so many seconds, in place of this machine's clock.

    Raises:
        ConfigError: the profile `local` lacks its packages.
        MissingCredentials: there is no API key.

    Attributes:
        bucket: the profile's, if it has one.
        desk: what the command line asks.
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
        others = Workers(_THREADS, "dokrun-collect")
        self.bucket = None if self.settings.bucket is None else Bucket(self.settings.bucket)
        self._closing = threading.Event()
        self._parts = Parts(
            client=self.client,
            bucket=self.bucket,
            images=Images(self.settings, self.client, sleep=sleep or self._closing.wait),
            journal=Journal(self.settings.state_dir, self.settings.account),
            watcher=Watcher(self.client) if sleep is None else Watcher(self.client, refused_for_s=0.0),
            submitter=Submitter(self.client, self.bucket, sleep or self._closing.wait, self._closing.is_set),
            builds=Workers(1, "dokrun-build"),
            submissions=Workers(1, "dokrun-submit"),
            cancels=Workers(1, "dokrun-cancel"),
            others=others,
            queue=Queue(self.client, others.submit),
            prices=self._plans.prices,
            spending=Spending(self.client, self._plans.prices, self.settings.budget_yen_per_day),
            charges=self.settings.charges,
            outlasts=self.settings.outlasts,
            sleep=sleep or self._closing.wait,
            state_dir=self.settings.state_dir,
        )
        self.desk = Desk(self._parts, self._plans, self.settings)
        self._runs = Runs(self._parts)
        self._lives = Lives(self._parts, self._runs, self.settings)
        self._leaving = Leaving(self._parts, self._runs, self._lives, self.settings)
        self._hint = Hint(self._plans.prices, self._parts.sleep, wanted=self.settings.charges)
        self._again = Again(self._parts.journal, self._runs.has, outlasts=self.settings.outlasts)
        self._lock = threading.Lock()
        # What may still be added to.
        self._gathered: dict[Gathering, None] = {}

    def call(self, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options) -> Future[Any]:
        """Run a call as a job of its own. Returns as soon as what the caller may still change is safe.

        Raises:
            OptionError: neither the options nor the profile's defaults name a plan, or DOK does not have it, or
                `max_yen` does not pay for a task.
            NotSerializable: an argument or the function cannot be pickled.
            SourceTooLarge: the user's files that would go along are too many.
            ConfigError: there is no bucket, and the call is too large to travel without; or a secret is not set.
        """
        plan, merged = self._checked(target, options)
        if merged.linger and (billed_s := self._plans.minimum_s(plan)) > 1:
            check_lingers(target.name, merged)
            # What is said of the task is the container's.
            own = replace(merged, env={}, tags=(), detach=None)
            return self._lives.shared(target.name, merged, billed_s).call(target, args, kwargs, own)
        price = self._plans.price_for(plan, target.name, merged.max_yen)
        try:
            keeping = Keeping(self.bucket)
            preparing = Preparing(target, plan, merged, price=price, keep=keeping)
            preparing.add(args, kwargs)
            job = preparing.job()
            keeping.finish()
            calls = Outcomes(job.id, 1, job.name, Progress())
            alike = self._again.likeness(target, args, kwargs, job)
            return self._begin(job, calls, hinted=True, alike=alike).future(0)
        except StorageError as error:
            return failed_future(target.name, error)

    def map(
        self, target: Target, calls: Iterator[tuple[Any, ...]], size: int | None, options: Options, packing: Packing
    ) -> Map[Any]:
        """Run many calls in one job or few; each item is the positional arguments of one.

        Raises:
            OptionError: neither the options nor the profile's defaults name a plan, or DOK does not have it, or
                `max_yen` does not pay for a task; or the function has an http port.
            NotSerializable: an argument or the function cannot be pickled.
            SourceTooLarge: the user's files that would go along are too many.
            ConfigError: there is no bucket, and the calls are too large to travel without; or a secret is not set.
            SubmitFailed: the bucket refused what they need.
        """
        plan, merged = self._checked(target, options)
        if merged.http is not None:
            raise OptionError(
                f"{target.name}.map has http=, and a task's one http port cannot be that of each of its calls; "
                "call the function itself, or take it back with .options(http=None)"
            )
        price, keeping = self._plans.price_for(plan, target.name, merged.max_yen), Keeping(self.bucket)
        bell = Bell()

        def prepare() -> Preparing:
            return Preparing(target, plan, merged, workers=packing.lanes, price=price, keep=keeping)

        def begin(job: Job) -> Outcomes:
            keeping.finish()
            return self._begin(job, Outcomes(job.id, job.calls, job.name, Progress(), bell))

        # What is listed to be shared among tasks is counted by that.
        portions = Portions(calls, size, packing.tasks, prepare, begin, name=f"{target.name}.map")
        return Map(target.name, portions.begin, bell, packing, portions.size)

    def gather(self, target: Target, options: Options, workers: int | None) -> Gathering:
        """Begin to gather calls for one task; the first will be of this function, and none is sent before its `send`.

        Raises:
            OptionError: neither the options nor the profile's defaults name a plan, or DOK does not have it, or
                `max_yen` does not pay for a task.
            NotSerializable: the function cannot be pickled.
        """
        plan, merged = self._checked(target, options)
        price, keeping = self._plans.price_for(plan, target.name, merged.max_yen), Keeping(self.bucket)
        preparing = Preparing(target, plan, merged, workers=workers, price=price, keep=keeping)
        # Without a bucket they travel compressed in the command, with their functions and files.
        most_bytes = MOST_BYTES if self.bucket is not None else COMMAND_BYTES // 2
        gathering = Gathering(merged.name or target.name, preparing, keeping, most_bytes, self._send)
        with self._lock:
            self._gathered[gathering] = None
        return gathering

    def session(self, options: Options, asked: Asked) -> Live:
        """Open a session.

        Raises:
            OptionError: neither the options nor the profile's defaults name a plan, or DOK does not have it, or
                `max_yen` does not pay for a task.
            ConfigError: a secret is not set, or needs a bucket.
        """
        merged = options.over(self.settings.defaults)
        name = merged.name or "session"
        plan = self._plan_of(name, merged)
        price = self._plans.price_for(plan, name, merged.max_yen)
        wanted = Wanted(plan, merged, asked, price, self._plans.minimum_s(plan))
        return self._lives.open(wanted)

    def attach(self, text: str) -> Future[Any] | Map[Any] | Live:
        """Make the future of a call that this or another process has submitted, or the map of several; nothing is sent.

        Of a session's handle, make the session.

        Raises:
            OptionError: it is no handle, or the beginning of several, or of none that this machine knows; or its task
                has ended with the process that it belonged to.
        """
        handle = keys.read_handle(str(text))
        sent = handle if handle is not None and handle.call else None  # to a session
        entry = find_entry(self._parts.journal, text if sent is None else sent.of_session)
        if not self.settings.outlasts and not self._is_there(entry.record.id):
            raise OptionError(
                f"the task of {text!r} is gone: on the profile {self.settings.profile} a call ends with the process "
                "that made it; call the function again"
            )
        record = entry.record
        if not record.calls:
            return self._lives.attach(entry) if sent is None else self._lives.find(entry, sent)
        if own := self._runs.own(record.id):
            return handed_out(own.calls)  # which may not be submitted yet, and needs nobody to look for it
        run = self._runs.attached(record, Outcomes(record.id, record.calls, record.name, Progress()))
        run.attach(entry.task_id, entry.attempt)
        return handed_out(run.calls)

    def put(self, value: Any) -> Put:
        """Send a value to the bucket, unless it is there.

        Raises:
            NotSerializable: it cannot be pickled.
            ConfigError: there is no bucket.
            StorageError: the bucket refused, or gave no answer.
        """
        if self.bucket is None:
            raise ConfigError(f"dok.put needs a bucket, and {config.NO_BUCKET}")
        serializer, keeping = Serializer(), Keeping(self.bucket)
        own, beside = serializer.value(value), serializer.take_given()
        for segment in (*own, *beside):
            keeping(segment)
        keeping.finish()
        for segment in (*own, *beside):
            self.bucket.put(keys.put(segment.sha256), b"")
        pieces, others = ([Piece(it.sha256, it.size) for it in segments] for segments in (own, beside))
        return Put(pieces, type(value).__name__, sorted(serializer.modules), others)

    def load(self, put: Put) -> Any:
        """Bring a value back that was put, for a call that runs here.

        Raises:
            ConfigError: there is no bucket.
            StorageError: the bucket refused, gave no answer, or gave something else.
        """
        if self.bucket is None:
            raise ConfigError(f"a value that was put lies in a bucket, and {config.NO_BUCKET}")
        buffers = []
        with tempfile.TemporaryDirectory(prefix="dokrun-") as folder:
            for number, piece in enumerate(put.pieces):
                path = Path(folder, str(number))
                self.bucket.fetch(keys.blob(piece.sha256), path, piece.size)
                data = bytearray(path.read_bytes())
                if digest_of(data) != piece.sha256:
                    raise StorageError(f"what the bucket has of {put!r} is not what was put; put it again")
                buffers.append(data)
        return load_value(buffers)

    def quote(self, target: Target, options: Options, counts: Sequence[int], workers: int | None = None) -> Quote:
        """Tell what tasks with so many calls each will cost.

        Raises:
            OptionError: as a call does.
            ApiError: the service does not tell its prices.
        """
        plan, merged = self._checked(target, options)
        return quote(self._plans, self._parts.journal, target.name, plan, merged, Split(counts, workers))

    def prices(self) -> dict[str, Price]:
        """Tell what a second costs on each plan, as the service says; asked for again after an hour.

        Raises:
            ApiError: the service refused or did not answer.
        """
        return self._plans.prices()

    def close(self) -> None:
        """Cancel what is unfinished, say so in one line, and end the threads."""
        self._leaving.let_end()
        self._closing.set()
        with self._lock:
            gathered = list(self._gathered)
            self._gathered.clear()
        self._leaving.leave([gathering.name for gathering in gathered if gathering.calls.cancel()])

    def _checked(self, target: Target, options: Options) -> tuple[str, Options]:
        merged = options.over(self.settings.defaults)
        return self._plan_of(target.name, merged), merged

    def _plan_of(self, name: str, options: Options) -> str:
        if options.plan is None:
            known = ", ".join(sorted(self.prices()))
            raise OptionError(f"{name} has no plan; write plan=… with one of {known}")
        self._plans.check(options.plan, name)
        return options.plan

    def _begin(self, job: Job, calls: Outcomes, *, hinted: bool = False, alike: str = "") -> Outcomes:
        if self.bucket is None:
            check_fits(job)
        self._again.called(job.name, job.id, alike)
        self._lives.begun(job.name)
        run = self._runs.of(job, calls, alike=alike)
        if hinted:
            self._hint.called(run, job.plan)
        run.begin()
        return calls

    def _send(self, gathering: Gathering) -> None:
        with self._lock:
            wanted = gathering in self._gathered
            self._gathered.pop(gathering, None)
        if not wanted or gathering.calls.over:
            return
        try:
            self._begin(gathering.job(), gathering.calls)
        except BaseException as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            gathering.fail(error)

    def _is_there(self, job_id: str) -> bool:
        """Tell whether a job is this process's own."""
        return self._runs.has(job_id) or any(True for _ in self.client.tasks.iterate(tag=keys.job_tag(job_id)))
