"""The API's resources, with the service's own words. Each method is one request, but for the iterators."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import TypeVar

from dokrun.api import models
from dokrun.api.connection import Connection
from dokrun.api.download import download

T = TypeVar("T")

# The largest that the service accepts.
PAGE_SIZE = 100
# The service collects at most 20 GB.
LARGEST_ARTIFACT_BYTES = 20 * 10**9


def iterate_pages(fetch: Callable[[int], models.Page[T]]) -> Iterator[T]:
    """Yield the results of all pages.

    An entry that is added meanwhile moves the others on by one, so the same entry may come twice; none is left out.
    """
    number = 1
    while True:
        page = fetch(number)
        yield from page.results
        if page.meta.next is None or not page.results:
            return
        number += 1


def _segment(identity: str) -> str:
    """Make a part of a path of an id, whatever somebody takes for one."""
    return urllib.parse.quote(identity, safe="") or "-"


class Resource:
    """A part of the API."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection


class Auth(Resource):
    """Whose API key it is, and the terms of service."""

    def get(self) -> models.AuthInfo:
        """Tell the account behind the API key. Also the cheapest way to see whether the key works."""
        return self._connection.request("GET", "/auth/", models.AuthInfo)

    def agree(self, version: str | None = None) -> None:
        """Agree to the terms of service; before that, nothing else works."""
        self._connection.execute("POST", "/auth/agree/", query={"version": version})


class Tasks(Resource):
    """Tasks: one container each; one runs at a time in a project, the others wait in line."""

    def list(
        self,
        *,
        page: int = 1,
        page_size: int = PAGE_SIZE,
        status: str | Iterable[str] | None = None,
        tag: str | None = None,
    ) -> models.Page[models.Task]:
        """Tell one page of the tasks, newest first.

        Args:
            page: which, counted from 1.
            page_size: how many on a page, 100 at most.
            status: only those in one of these states: waiting, running, error, done, aborted, canceled.
            tag: only those that bear this tag.
        """
        wanted = status if status is None or isinstance(status, str) else ",".join(status)
        query = {"page": page, "page_size": page_size, "status": wanted, "tag": tag}
        return self._connection.request("GET", "/tasks/", models.Page[models.Task], query=query)

    def iterate(
        self, *, page_size: int = PAGE_SIZE, status: str | Iterable[str] | None = None, tag: str | None = None
    ) -> Iterator[models.Task]:
        """Yield all tasks, newest first, page by page."""
        wanted = status if status is None or isinstance(status, str) else ",".join(status)
        return iterate_pages(lambda page: self.list(page=page, page_size=page_size, status=wanted, tag=tag))

    def get(self, task_id: str) -> models.Task:
        """Tell one task. Raises NotFound where there is none of this id."""
        return self._connection.request("GET", f"/tasks/{_segment(task_id)}/", models.Task)

    def create(self, task: models.CreateTaskRequest) -> models.Task:
        """Create a task. There is no idempotency key, so this is never repeated if it may have been received."""
        return self._connection.request("POST", "/tasks/", models.Task, body=task)

    def cancel(self, task_id: str) -> models.Task:
        """Cancel a task that waits or runs. Raises Forbidden where it has ended already."""
        return self._connection.request("POST", f"/tasks/{_segment(task_id)}/cancel/", models.Task)

    def delete(self, task_id: str) -> None:
        """Delete the record of an ended task; this does not stop a running one."""
        self._connection.execute("DELETE", f"/tasks/{_segment(task_id)}/")


class Artifacts(Resource):
    """What tasks left in their artifact folder, for 72 hours."""

    def list(
        self, *, page: int = 1, page_size: int = PAGE_SIZE, task: str | None = None
    ) -> models.Page[models.Artifact]:
        """Tell one page of the artifacts, of one task or of all."""
        query = {"page": page, "page_size": page_size, "task": task}
        return self._connection.request("GET", "/artifacts/", models.Page[models.Artifact], query=query)

    def iterate(self, *, page_size: int = PAGE_SIZE, task: str | None = None) -> Iterator[models.Artifact]:
        """Yield all artifacts, of one task or of all."""
        return iterate_pages(lambda page: self.list(page=page, page_size=page_size, task=task))

    def get(self, artifact_id: str) -> models.Artifact:
        """Tell one artifact. Raises NotFound where there is none of this id."""
        return self._connection.request("GET", f"/artifacts/{_segment(artifact_id)}/", models.Artifact)

    def download_url(self, artifact_id: str) -> str:
        """Ask for an address of the artifact's tar.gz that works for a limited time."""
        return self._connection.request("GET", f"/artifacts/{_segment(artifact_id)}/download/", models.DownloadUrl).url

    def download(self, artifact_id: str, path: Path, *, limit_bytes: int = LARGEST_ARTIFACT_BYTES) -> Path:
        """Download the artifact's tar.gz to a file, whole or not at all, and go on where it broke."""
        return download(self._connection, lambda: self.download_url(artifact_id), path, limit_bytes=limit_bytes)


class Plans(Resource):
    """The machines that tasks can run on."""

    def list(self) -> models.Page[models.Plan]:
        """Tell the plans that the account can use."""
        return self._connection.request("GET", "/plans/", models.Page[models.Plan])


class Prices(Resource):
    """What a second costs."""

    def list(self, day: date | None = None) -> models.Page[models.UnitPrice]:
        """Tell the price of every plan on a day, today where none is given, in yen per second with tax."""
        query = {} if day is None else {"year": day.year, "month": day.month, "day": day.day}
        return self._connection.request("GET", "/unit_prices/", models.Page[models.UnitPrice], query=query)
