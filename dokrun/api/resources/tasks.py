"""Tasks, their output and their live log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dokrun.api import models
from dokrun.api.download import text, whole_text
from dokrun.api.logs import Source, follow
from dokrun.api.resources.base import PAGE_SIZE, Resource, iterate_pages, segment

# An output is held in memory; a log, which only passes through it, may be longer.
LARGEST_OUTPUT_BYTES = 64 << 20
LARGEST_LOG_BYTES = 4 << 30
# A longer line is told in pieces.
LONGEST_LINE = 1 << 20


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
        return self._connection.request("GET", f"/tasks/{segment(task_id)}/", models.Task)

    def create(self, task: models.CreateTaskRequest) -> models.Task:
        """Create a task. There is no idempotency key, so this is never repeated if it may have been received."""
        return self._connection.request("POST", "/tasks/", models.Task, body=task)

    def cancel(self, task_id: str) -> models.Task:
        """Cancel a task that waits or runs. Raises Forbidden where it has ended already."""
        return self._connection.request("POST", f"/tasks/{segment(task_id)}/cancel/", models.Task)

    def delete(self, task_id: str) -> None:
        """Delete the record of an ended task; this does not stop a running one."""
        self._connection.execute("DELETE", f"/tasks/{segment(task_id)}/")

    def set_notification_preference(self, task_id: str, preference: models.NotificationPreference) -> bool:
        """Say who is told when this task ends; what the preference leaves None follows the account's settings."""
        path = f"/tasks/{segment(task_id)}/notification-preference/"
        return self._connection.request("PUT", path, models.Acknowledgement, body=preference).ok

    def output_url(self, task_id: str, *, filename: str | None = None) -> str:
        """Ask for an address of an ended task's collected output that works for a limited time.

        Args:
            task_id: which.
            filename: what a browser that opens the address shall call the file.
        """
        path, query = f"/tasks/{segment(task_id)}/download/output/", {"filename": filename}
        return self._connection.request("GET", path, models.DownloadUrl, query=query).url

    def output(self, task_id: str, *, limit_bytes: int = LARGEST_OUTPUT_BYTES) -> str:
        """Tell what an ended task wrote to its standard output and error; what is not UTF-8 is replaced.

        Raises:
            NotFound: there is no such task, or its output has not been collected (yet).
            NoAnswer: it did not come whole in the time and the number of tries that it has.
            InvalidAnswer: it is larger than `limit_bytes`.
        """
        return whole_text(self._connection, lambda: self.output_url(task_id), limit_bytes=limit_bytes)

    def output_lines(self, task_id: str) -> Iterator[str]:
        """Yield the lines of an ended task's collected output, without holding them all. Raises as `output` does."""
        rest = ""
        for piece in text(self._connection, lambda: self.output_url(task_id), limit_bytes=LARGEST_LOG_BYTES):
            *lines, rest = (rest + piece).split("\n")
            if len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest], ""
            yield from lines
        if rest:
            yield rest

    def answers(self, http_uri: str) -> bool:
        """Tell whether a container answers at its task's public address, by one request.

        It is a GET without credentials, which follows no redirect and reads no body. What a proxy says that reaches
        nobody (502, 503, 504) is no answer.
        """
        return self._connection.answers(http_uri)

    def stream(self, task_id: str, container: int = 0) -> models.LogStream:
        """Ask where a running container's log can be heard; `logs` does the hearing. Raises Forbidden if none runs."""
        path = f"/tasks/{segment(task_id)}/containers/{container}/stream/"
        return self._connection.request("POST", path, models.LogStream)

    def logs(self, task_id: str) -> Iterator[str]:
        """Yield a task's log as it grows, piece by piece, each character once, until the task has ended.

        It waits for a task that waits, and goes on after a connection that broke. What a live connection cannot bring
        without a gap comes from the output that the service collects, when the task has ended; where even that does not
        continue what was yielded, or does not show, a warning in the log `dokrun.api` says so.

        Raises:
            NotFound: there is no such task, or its record was deleted meanwhile.
            Refused: the service does not let this key look at it.
        """
        source = Source(
            task_id,
            task=lambda: self.get(task_id),
            stream=lambda: self.stream(task_id),
            output=lambda: text(self._connection, lambda: self.output_url(task_id), limit_bytes=LARGEST_LOG_BYTES),
            backoff=self._connection.backoff,
        )
        return follow(source)
