"""The tasks that dokrun has made in a project, found by their tag: whoever made them, and whatever journal has gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dokrun import errors, keys
from dokrun.api import Client
from dokrun.api.models import Task
from dokrun.engine.definition import Identity, attempt_of, calls_of, digest
from dokrun.engine.submit import Submitter

_NAMED = 5


@dataclass(frozen=True)
class Listed:
    """One task of dokrun's, and the job that it is an attempt of; `name` is the function's, as the task tells it."""

    task: Task
    name: str
    job_id: str

    @property
    def handle(self) -> str:
        """What `dok.attach` takes: it is as good as the service's word about this task."""
        return str(keys.Handle(self.name, self.job_id, digest(self.task), calls=self.calls))

    @property
    def calls(self) -> int:
        """How many calls the job has; none of its own if it is a session's."""
        return calls_of(self.task)

    @property
    def short_handle(self) -> str:
        """Its beginning, which every command takes."""
        return keys.Handle(self.name, self.job_id, "").short


def of_job(client: Client, job_id: str) -> Iterator[Listed]:
    """Yield the tasks of one job, newest first. Raises ApiError."""
    for task in client.tasks.iterate(tag=keys.job_tag(job_id)):
        if keys.job_of(task.tags) == job_id:
            yield Listed(task, task.name.removesuffix(f"-{job_id[:6]}"), job_id)


def listed(client: Client, status: str | None = None) -> Iterator[Listed]:
    """Yield the tasks, newest first; those in one state alone, if it is named.

    Raises:
        ApiError: the service refused or did not answer.
    """
    for task in client.tasks.iterate(tag=keys.OURS, status=status):
        job_id = keys.job_of(task.tags)
        if job_id is not None:
            yield Listed(task, task.name.removesuffix(f"-{job_id[:6]}"), job_id)


def find(client: Client, text: str) -> Listed:
    """Tell the task of the job that a handle, its beginning, or a task's id means; of a call, its session's.

    Of a job's tasks that is one that has not ended, else the last that was not cancelled: of two that the service made
    of one request, one goes on and the other is cancelled.

    Raises:
        UnknownHandle: there is none.
        OptionError: there are several jobs.
        ApiError: the service refused or did not answer.
    """
    handle = keys.read_handle(text)
    found: dict[str, Listed] = {}
    for one in listed(client):
        # A call has a name of its own, and its session another.
        name = "" if handle is None or handle.call else handle.name
        meant = handle is not None and one.job_id.startswith(handle.job_id) and one.name.startswith(name)
        if handle is not None and handle.digest:
            meant = meant and digest(one.task).startswith(handle.digest)  # what only bears our tag is not ours
        if meant or (text and one.task.id.startswith(text)):
            former = found.get(one.job_id)
            if former is None or _rank(one.task) > _rank(former.task):
                found[one.job_id] = one
    if not found:
        digits = "" if handle else "; a handle takes four digits of a job's id at least, as in train-7f3a"
        raise keys.UnknownHandle(f"there is no task {text!r} of dokrun's; dokrun ls tells which there are{digits}")
    if len(found) > 1:
        known = ", ".join(one.short_handle for one in list(found.values())[:_NAMED])
        raise errors.OptionError(f"{text!r} is the beginning of several: {known}")
    return next(iter(found.values()))


def _rank(task: Task) -> int:
    return 2 if not task.ended else 1 if task.status != "canceled" else 0


def cancel(client: Client, submitter: Submitter, one: Listed) -> bool:
    """End a job's tasks, and keep them from starting where they have not. Tells whether there was anything to end.

    Raises:
        ApiError: the service refused or did not answer, so that one may still run.
    """
    definition = digest(one.task)
    its = [each for each in of_job(client, one.job_id) if not each.task.ended and digest(each.task) == definition]
    ended = [_cancel(client, submitter, each) for each in its]
    return any(ended)


def _cancel(client: Client, submitter: Submitter, one: Listed) -> bool:
    if one.task.status == "waiting":
        try:
            submitter.fence(Identity(one.job_id, digest(one.task)), attempt_of(one.task))
        except errors.StorageError:
            pass  # the service's own cancelling does without
    try:
        client.tasks.cancel(one.task.id)
    except errors.Forbidden:
        return False
    return True
