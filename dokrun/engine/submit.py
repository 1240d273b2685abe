"""`POST /tasks/`, effectively once, though the service has no idempotency key.

A request that got no answer, or one that says nothing of its effect, may have created the task or may yet do so: a
timeout before the commit and one after it look the same from here. So its tag is looked for, and only a task whose
definition is the one that was sent is taken for it. What cannot be found is sent again, and in the end given up by
taking the attempt's claim: then whatever the service still creates cannot start.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from dokrun import errors, keys
from dokrun.api import Client
from dokrun.api.models import CreateTaskRequest, Task
from dokrun.bucket import Bucket
from dokrun.engine.definition import Identity, attempt_of
from dokrun.future import Future
from dokrun.jobstate import Progress
from dokrun.shim import protocol

_log = logging.getLogger("dokrun.engine")

# How long to look for a task that may have been created: more than a minute in all, and twice the read timeout.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
POSTS = 3
# After these answers there is no task; after every other failure of the request, nobody knows.
_NOT_CREATED = (
    errors.ConfigError,
    errors.NotSent,
    errors.BadRequest,
    errors.Unauthorized,
    errors.Forbidden,
    errors.NotFound,
)
# Before a further task's cancelling is tried again.
_CANCEL_PAUSES_S = (0.0, 0.5, 2.0, 5.0)
# Who may have a claim, beside tasks.
CLIENT = "client"
SOMEBODY = ""


class Unknown(Exception):
    """Nobody knows whether there is a task, and nobody could be kept from starting it."""


class GivenUp(Exception):
    """The attempt's claim is the client's now: its function has not started, and will not."""


# Chooses an attempt among those of which there are tasks.
Which = Callable[[Sequence[int]], int]


def only(attempt: int) -> Which:
    """Choose an attempt, and no other."""
    return lambda _there: attempt


def from_on(attempt: int) -> Which:
    """Choose an attempt, or else the next one of which there is a task."""
    return lambda there: min((number for number in there if number >= attempt), default=attempt)


@dataclass(frozen=True)
class Submitter:
    """Creates tasks, finds them again, and settles who may start.

    Args:
        client: DOK.
        bucket: where claims are; without one, nobody can be kept from starting.
        sleep: waits so many seconds, or less where the client is being closed.
        closing: tells whether the client is being closed.
    """

    client: Client
    bucket: Bucket | None
    sleep: Callable[[float], object]
    closing: Callable[[], bool]

    def submit(
        self,
        identity: Identity,
        attempt: int,
        request: CreateTaskRequest,
        *,
        former: Collection[str] = (),
        wanted: Callable[[], bool] = lambda: True,
    ) -> Task:
        """Create the task of an attempt, or find the one that was created.

        Args:
            identity: which job.
            attempt: which of its attempts.
            request: what is sent.
            former: the ids of tasks of the same attempt that have ended without starting it.
            wanted: tells whether it is still worth another request.

        Raises:
            ConfigError: this machine's clock is too far off.
            ApiError: the service refused it, or cannot have received it.
            GivenUp: no task showed, and none will start.
            Unknown: no task showed, and nothing keeps one from starting.
        """
        self.client.check_clock()
        for number in range(POSTS):
            try:
                task = self.client.tasks.create(request)
            except _NOT_CREATED as error:
                if number == 0:
                    raise
                # This one made no task; those before it still may.
                _log.warning("%s cannot be submitted again: %s", request.name, error)
                break
            except errors.ApiError as error:
                _log.warning("nobody knows whether %s was submitted; looking for it: %s", request.name, error)
            else:
                if identity.owns(task) and attempt_of(task) == attempt:
                    return task
                _log.warning("the service's answer is not about %s; looking for its task", request.name)
            found = self.find(identity, only(attempt), former)
            if found is not None:
                return found
            if self.closing() or not wanted():
                break
        return self.give_up(identity, attempt)

    def find(
        self, identity: Identity, which: Which, former: Collection[str] = (), *, due_in_s: float = 0.0
    ) -> Task | None:
        """Look for the task of an attempt until it shows, or has had time enough to; `former` ones are passed over.

        One that is made only when `due_in_s` seconds are over may be there already all the same, since somebody else
        began to count.
        """
        for pause_s in (0.0, due_in_s, *PAUSES_S) if due_in_s else PAUSES_S:
            self.sleep(pause_s)
            if (found := self._look_if_told(identity, which, former)) is not None:
                return found
        return None

    def _look_if_told(self, identity: Identity, which: Which, former: Collection[str] = ()) -> Task | None:
        try:
            return self.look(identity, which, former)
        except errors.ApiError as error:
            _log.debug("could not look for job %s: %s", identity.job_id, error)
            return None

    def look(self, identity: Identity, which: Which, former: Collection[str] = ()) -> Task | None:
        """Look once for the task of an attempt. Raises ApiError."""
        found = [task for task in self.tasks_of(identity) if task.id not in former]
        wanted = which([attempt_of(task) for task in found] or [0])
        tasks = [task for task in found if attempt_of(task) == wanted]
        return self.choose(identity, wanted, tasks) if tasks else None

    def look_for(self, identity: Identity, attempt: int, name: str, which: Which) -> Task:
        """Find a task of a job that another process has submitted, or see to it that none will start.

        It is one of the attempt that `which` chooses among those that there are.

        Raises:
            Tampered: a task bears its tag and is not what the handle says.
            GivenUp: no task showed, and none will start.
            Unknown: no task showed, and nothing keeps one from starting.
            ApiError: the service refused, or did not answer; a task that is only not seen is left alone.
        """
        found = self._look_if_told(identity, which)
        if found is None:
            _log.warning("looking for the task of %s, for a minute at most", name)
            found = self.find(identity, which)
        if found is not None:
            return found
        tagged = self.client.tasks.iterate(tag=keys.job_tag(identity.job_id))
        foreign = next((task.id for task in tagged if not identity.owns(task)), None)
        if foreign is not None:
            message = f"task {foreign} is not what the handle of {name} says; nothing of it is used"
            raise errors.Tampered(message, ran="maybe", task_id=foreign, still_runs=True)
        return self.give_up(identity, attempt)

    def tasks_of(self, identity: Identity) -> list[Task]:
        """Tell the tasks of a job that the service shows."""
        tagged = list(self.client.tasks.iterate(tag=keys.job_tag(identity.job_id)))
        foreign = [task.id for task in tagged if not identity.owns(task)]
        if foreign:
            _log.warning("tasks bear the tag of job %s and are not its own: %s", identity.job_id, ", ".join(foreign))
        return [task for task in tagged if identity.owns(task)]

    def choose(self, identity: Identity, attempt: int, tasks: Sequence[Task]) -> Task:
        """Of several tasks of one attempt, keep the one that has the claim, else the oldest; cancel the others.

        Where nobody has the claim, a task that has ended did not start, and the oldest of the others is kept.
        """
        if len(tasks) == 1:
            return tasks[0]
        holder = self._holder_if_told(identity, attempt)
        living = [task for task in tasks if not task.ended] if holder is None else []
        kept = next((task for task in tasks if task.id == holder), None) or min(
            living or tasks, key=lambda task: (task.created_at is None, task.created_at, task.id)
        )
        for task in tasks:
            if task.id != kept.id and not task.ended:
                _log.warning("the service made a second task of job %s; cancelling %s", identity.job_id, task.id)
                self._cancel(task.id)
        return kept

    def holder(self, identity: Identity, attempt: int) -> str | None:
        """Tell who has the claim: a task's id, `CLIENT`, `SOMEBODY`, or None where nobody has."""
        if self.bucket is None:
            return None
        claim = self.bucket.read(keys.claim(identity.job_id, attempt))
        return None if claim is None else _holder_of(claim)

    def begun(self, identity: Identity, attempt: int) -> int | None:
        """Tell from which call's number on none has been begun, by whoever has the claim; None if that is not known."""
        if self.bucket is None:
            return None
        told = []
        for key in (keys.claim(identity.job_id, attempt), keys.begun(identity.job_id, attempt)):
            try:
                told.append(self.bucket.read(key))
            except errors.StorageError as error:
                _log.warning("cannot see which calls of job %s were begun: %s", identity.job_id, error)
                return None
        try:
            return max(int(json.loads(text)["begun"]) for text in told if text is not None)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def fence(self, identity: Identity, attempt: int) -> str | None:
        """Take an attempt's claim, so that nobody can start it any more.

        Returns:
            None where that is sure from now on; else who has it: a task's id, which has started it; `CLIENT`, where a
            client has given it up before; or `SOMEBODY`.

        Raises:
            StorageError: the bucket refused, or gave no answer.
        """
        if self.bucket is None:
            return SOMEBODY
        body = json.dumps({"task": None, "nonce": secrets.token_hex(16)}).encode()
        there = self.bucket.claim(keys.claim(identity.job_id, attempt), body)
        return None if there is None else _holder_of(there)

    def give_up(self, identity: Identity, attempt: int) -> Task:
        """Keep an attempt from starting, or find out who has started it.

        Raises:
            GivenUp: it will not start.
            Unknown: there is no bucket, or it cannot be reached.
        """
        if self.bucket is None:
            raise Unknown("without a bucket nothing keeps a late task from starting")
        try:
            holder = self.fence(identity, attempt)
        except errors.StorageError as error:
            raise Unknown(str(error)) from error
        if holder in (None, CLIENT):
            raise GivenUp("the service shows no task; if it makes one yet, that will not start")
        if not holder:
            raise Unknown("somebody has started it, and its claim does not say who")
        try:
            task = self.client.tasks.get(holder)
        except errors.ApiError as error:
            raise Unknown(f"task {holder} has started it, and cannot be seen: {error}") from error
        if not identity.owns(task):
            raise Unknown(f"task {holder} has its claim, and is not one of the job's own")
        return task

    def _holder_if_told(self, identity: Identity, attempt: int) -> str | None:
        """Tell who has the claim, None where nobody has, `SOMEBODY` where that cannot be seen."""
        if self.bucket is None:
            return SOMEBODY
        try:
            return self.holder(identity, attempt)
        except errors.StorageError as error:
            _log.warning("cannot see who has started job %s: %s", identity.job_id, error)
            return SOMEBODY

    def _cancel(self, task_id: str) -> None:
        """End a task, again where that may help: without a bucket nothing else keeps it from starting."""
        for pause_s in _CANCEL_PAUSES_S:
            self.sleep(pause_s)
            try:
                self.client.tasks.cancel(task_id)
            except (errors.Forbidden, errors.NotFound):
                return  # it has ended
            except errors.ApiError as error:
                _log.warning("could not cancel task %s: %s", task_id, error)
            else:
                return


def not_submitted(name: str, why: object) -> errors.SubmitFailed:
    """Make the error of a job whose task was not created, or of which nobody knows."""
    if isinstance(why, Unknown):
        message = f"nobody knows whether {name} was submitted: {why}"
        return errors.SubmitFailed(message, ran="maybe", still_runs=True)
    told = why.args[0] if isinstance(why, errors.CallFailed) else why
    return errors.SubmitFailed(f"{name} was not submitted: {told}", ran="no")


def failed_future(name: str, error: errors.StorageError) -> Future[Any]:
    """Make the future of a call whose arguments the bucket did not take."""
    future: Future[Any] = Future(protocol.call_id(keys.new_id(), 0), name, Progress())
    failed = not_submitted(name, error)
    failed.call_id, failed.__cause__ = future.call_id, error
    future.fail(failed)
    return future


def _holder_of(claim: bytes) -> str:
    try:
        task = json.loads(claim)["task"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return SOMEBODY
    return CLIENT if task is None else task if isinstance(task, str) and task else SOMEBODY
