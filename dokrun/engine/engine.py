"""An engine is what one profile's calls go through: a client, a bucket, a few threads, and the watcher."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dokrun import config, keys
from dokrun.api import Client
from dokrun.api.transport import Backoff
from dokrun.bucket import Bucket
from dokrun.config import Settings
from dokrun.cost import Price, Quote
from dokrun.display import in_notebook
from dokrun.engine import farewell
from dokrun.engine.again import Again
from dokrun.engine.attach import find_entry
from dokrun.engine.desk import Desk
from dokrun.engine.gathering import Gathering
from dokrun.engine.hint import Behind, Hint
from dokrun.engine.images import Images
from dokrun.engine.journal import Entry, Journal, Record
from dokrun.engine.keeping import Keeping
from dokrun.engine.linger import check_lingers, lingering
from dokrun.engine.link import Link
from dokrun.engine.live import Live
from dokrun.engine.outcome import Also
from dokrun.engine.parts import Parts
from dokrun.engine.plans import Plans
from dokrun.engine.portions import MOST_BYTES, Portions
from dokrun.engine.prepare import Job, Preparing, Target
from dokrun.engine.queue import Queue
from dokrun.engine.quotes import Split, quote
from dokrun.engine.run import Run
from dokrun.engine.spending import Spending
from dokrun.engine.stage import COMMAND_BYTES, check_fits
from dokrun.engine.submit import Submitter, failed_future
from dokrun.engine.wanted import Asked, Wanted, token_of
from dokrun.engine.watch import Batch, Watcher
from dokrun.engine.workers import Workers
from dokrun.errors import ConfigError, OptionError, StorageError
from dokrun.future import Future
from dokrun.given import Piece, Put
from dokrun.jobstate import Progress
from dokrun.map import Map, Packing, handed_out
from dokrun.options import DEFAULT_TIMEOUT_S, Options
from dokrun.outcomes import Bell, Outcomes
from dokrun.payload.serialize import Serializer
from dokrun.shim.envelope import load_value

_log = logging.getLogger("dokrun.engine")

# Downloads that go on at once.
_THREADS = 4
# How long the end of a process may wait for requests that are under way.
_PATIENCE_S = 30.0
# A build, which nobody pays for and which leaves nothing behind, may take minutes more.
_BUILD_PATIENCE_S = 1.0
# How long jobs may take to end whose results are all here.
_END_PATIENCE_S = 5.0


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
            sleep=sleep or self._closing.wait,
            state_dir=self.settings.state_dir,
        )
        self.desk = Desk(self._parts, self._plans, self.settings)
        self._behind = Behind()
        self._hint = Hint(self._plans.prices, self._parts.sleep, wanted=self.settings.charges)
        self._again = Again(self._parts.journal, self._is_ours, outlasts=self.settings.outlasts)
        # At its end a kernel may not know any more what it was.
        self._in_notebook = in_notebook()
        self._changed = threading.Condition()
        self._unfinished: dict[Run, None] = {}
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        # What takes calls for sessions, by their jobs: it speaks to each container once, however many are asked for.
        self._sessions: weakref.WeakValueDictionary[str, Live] = weakref.WeakValueDictionary()
        # Those that single calls go to.
        self._lives: dict[Hashable, Live] = {}
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
        if merged.linger and self._plans.minimum_s(plan) > 1:
            check_lingers(target.name, merged)
            # What is said of the task is the container's.
            own = replace(merged, env={}, tags=(), detach=None)
            return self._lingering(target.name, merged).call(target, args, kwargs, own)
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
        with self._changed:
            self._gathered[gathering] = None
        return gathering

    def _send(self, gathering: Gathering) -> None:
        with self._changed:
            wanted = gathering in self._gathered
            self._gathered.pop(gathering, None)
        if not wanted or gathering.calls.over:
            return
        try:
            self._begin(gathering.job(), gathering.calls)
        except BaseException as error:  # noqa: BLE001 - a future that is never settled would be an endless wait
            gathering.fail(error)

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
                if hashlib.sha256(data).hexdigest() != piece.sha256:
                    raise StorageError(f"what the bucket has of {put!r} is not what was put; put it again")
                buffers.append(data)
        return load_value(buffers)

    def _checked(self, target: Target, options: Options) -> tuple[str, Options]:
        merged = options.over(self.settings.defaults)
        return self._plan_of(target.name, merged), merged

    def _plan_of(self, name: str, options: Options) -> str:
        if options.plan is None:
            known = ", ".join(sorted(self.prices()))
            raise OptionError(f"{name} has no plan; write plan=… with one of {known}")
        self._plans.check(options.plan, name)
        return options.plan

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
        return Live(self._parts, wanted, lambda owner: self._begin_session(wanted, owner))

    def _lingering(self, name: str, options: Options) -> Live:
        """Tell the session that such single calls go to, one after another."""
        wanted = lingering(name, options, self._plans.minimum_s(str(options.plan)))
        key = (
            wanted.options.image,
            tuple(sorted(wanted.options.env.items())),
            options.plan,
            options.tags,
            options.detach,
        )
        with self._changed:
            live = self._lives.get(key)
            if live is not None and live.lasts(options.timeout_s or DEFAULT_TIMEOUT_S):
                return live
            former = list(self._lives.values())
            fresh = self._lives[key] = Live(self._parts, wanted, lambda owner: self._begin_session(wanted, owner))
        for other in former:
            if other is live or not other.busy:
                other.close()  # the new one would wait in line until it has idled long enough
        return fresh

    def _begin_session(self, wanted: Wanted, owner: Live) -> Link:
        job, token = wanted.job(self.settings)
        if self.bucket is None:
            check_fits(job)
        link, batch = Link(self._parts, token, owner), self._parts.watcher.batch()
        record = Record(job.id, job.name, job.plan, 0, "", batch.tag)
        run = self._new_run(record, _itself(record), batch, job, link.also)
        run.begin(job)
        link.begin(run)
        self._links.add(link)
        self._sessions[job.id] = owner
        return link

    def quote(self, target: Target, options: Options, counts: Sequence[int], workers: int | None = None) -> Quote:
        """Tell what tasks with so many calls each will cost.

        Raises:
            OptionError: as a call does.
            ApiError: the service does not tell its prices.
        """
        plan, merged = self._checked(target, options)
        return quote(self._plans, self._parts.journal, target.name, plan, merged, Split(counts, workers))

    def _begin(self, job: Job, calls: Outcomes, *, hinted: bool = False, alike: str = "") -> Outcomes:
        if self.bucket is None:
            check_fits(job)
        batch = self._parts.watcher.batch()
        self._again.called(job.name, job.id, alike)
        record = Record(job.id, job.name, job.plan, job.calls, "", batch.tag, alike)
        run = self._new_run(record, calls, batch, job)
        if hinted:
            self._hint.called(run, job.plan)
        run.begin(job)
        return calls

    def _new_run(self, record: Record, calls: Outcomes, batch: Batch, job: Job | None, also: Also | None = None) -> Run:
        if job is not None:
            lingering = [live.link for live in self._lives.values()]  # which end when they idle
            self._behind.begun(record.name, [link.run for link in list(self._links) if link not in lingering])
        run = Run(self._parts, record, calls, self._forget, job=job, batch=batch, also=also)
        with self._changed:
            self._unfinished[run] = None
        return run

    def attach(self, text: str) -> Future[Any] | Map[Any] | Live:
        """Make the future of a call that this or another process has submitted, or the map of several; nothing is sent.

        Of a session's handle, make the session.

        Raises:
            OptionError: it is no handle, or the beginning of several, or of none that this machine knows; or its task
                has ended with the process that it belonged to.
        """
        handle = keys.read_handle(str(text))
        call = "" if handle is None else handle.call
        entry = find_entry(self._parts.journal, text if handle is None or not call else handle.of_session)
        if not self.settings.outlasts and not self._is_there(entry.record.id):
            raise OptionError(
                f"the task of {text!r} is gone: on the profile {self.settings.profile} a call ends with the process "
                "that made it; call the function again"
            )
        record = entry.record
        if not record.calls:
            live = self._attached(entry)
            return live if handle is None or not call else self._find_call(entry, live, handle)
        run = self._new_run(
            record, Outcomes(record.id, record.calls, record.name, Progress()), Batch.of_job(record.id), None
        )
        run.attach(entry.task_id, entry.attempt)
        return handed_out(run.calls)

    def _attached(self, entry: Entry, former: Live | None = None) -> Live:
        """Tell what takes calls for a session that is there, one for all who ask; another one than the `former`."""
        with self._changed:
            live = self._sessions.get(entry.record.id)
            if live is None or live is former:
                live = Live.attached(self._parts, lambda owner: self._attach_session(entry, owner))
            return live

    def _find_call(self, entry: Entry, live: Live, handle: keys.Handle) -> Future[Any] | Map[Any]:
        full = handle._replace(job_id=entry.record.id)
        while (found := live.find(full)) is None:
            live = self._attached(entry, live)  # it has read already what its container has left, or has another one
        return found

    def _attach_session(self, entry: Entry, owner: Live) -> Link:
        link = Link(self._parts, token_of(self.settings, entry.record.id), owner)
        run = self._new_run(entry.record, _itself(entry.record), Batch.of_job(entry.record.id), None, link.also)
        link.begin(run)
        self._links.add(link)
        self._sessions[entry.record.id] = owner
        run.attach(entry.task_id, entry.attempt)
        return link

    def _is_there(self, job_id: str) -> bool:
        """Tell whether a job is this process's own."""
        return self._is_ours(job_id) or any(True for _ in self.client.tasks.iterate(tag=keys.job_tag(job_id)))

    def _is_ours(self, job_id: str) -> bool:
        """Tell whether this process waits for a job's outcome."""
        with self._changed:
            return any(run.calls.job_id == job_id for run in self._unfinished)

    def prices(self) -> dict[str, Price]:
        """Tell what a second costs on each plan, as the service says; asked for again after an hour.

        Raises:
            ApiError: the service refused or did not answer.
        """
        return self._plans.prices()

    def close(self) -> None:
        """Cancel what is unfinished, say so in one line, and end the threads."""
        self._let_end()
        self._closing.set()
        for link in list(self._links):
            link.drop(goes_on=self._goes_on(link.run))
        with self._changed:
            # The last in line first, so that none of them gets to run.
            runs = list(reversed(self._unfinished))
            gathered = list(self._gathered)
            self._gathered.clear()
        unsent = [gathering.name for gathering in gathered if gathering.calls.cancel()]
        # Of some only the task has yet to end.
        told = [run for run in runs if run.ends_alone]
        open_runs = [run for run in runs if run not in told]
        unfinished = [run for run in open_runs if not self._goes_on(run)]
        for run in unfinished:
            # At exit no thread may be there to do it; it is done below, in this one.
            run.cancel_here()
        going_on = [run for run in open_runs if self._goes_on(run)] + (told if self.settings.outlasts else [])
        try:
            stopped, answered = self._stop(unfinished, told)
        except KeyboardInterrupt:
            # A second Ctrl-C: somebody wants this to end at once, and has to know what that leaves behind.
            farewell.interrupted(self.settings, open_runs[::-1])
            return
        farewell.tell(self.settings, stopped[::-1], going_on[::-1], unsent)
        if not answered:
            print("dokrun: a request to DOK had no answer yet; look whether a task was created", file=sys.stderr)

    def _let_end(self) -> None:
        """Let jobs end whose results are all here, so that it is written down what they cost; but not for long."""
        for live in self._lives.values():
            if not live.busy:
                live.close()
        self._parts.watcher.hurry()
        with self._changed, contextlib.suppress(KeyboardInterrupt):
            self._changed.wait_for(lambda: not any(run.ends_alone for run in self._unfinished), _END_PATIENCE_S)

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
        if self.bucket is not None:
            self.bucket.close()
        self.client.close()
        parts.journal.close()
        return stopped, all(ended)

    def _goes_on(self, run: Run) -> bool:
        """Tell whether a job outlives this process: a notebook's kernel ends more lightly than a script."""
        return self.settings.outlasts and bool(run.detached or self._in_notebook)

    def _forget(self, run: Run) -> None:
        with self._changed:
            self._unfinished.pop(run, None)
            self._changed.notify_all()


def _itself(record: Record) -> Outcomes:
    """Make the outcome of a session, which stands for one call."""
    return Outcomes(record.id, 1, record.name, Progress())


def _was_not_sent(run: Run) -> bool:
    return run.task_id is None and run.calls.cancelled()
