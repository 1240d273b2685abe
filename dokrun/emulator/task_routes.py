"""Tasks, their logs and artifacts, over HTTP. Each handler changes the state between two awaits."""

from __future__ import annotations

import codecs
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from dokrun.api import models
from dokrun.emulator import answers, validate
from dokrun.emulator.account import Account
from dokrun.emulator.signing import Signer
from dokrun.emulator.state import Ended, NotEnded, Project
from dokrun.emulator.task import TaskRecord


class TaskRoutes:
    """The handlers."""

    def __init__(self, project: Project, account: Account, signer: Signer) -> None:
        self._project = project
        self._account = account
        self._signer = signer

    def routes(self) -> list[BaseRoute]:
        """List what is found below the API's path."""
        return [
            answers.resource("/tasks/", get=self.list_tasks, post=self.create_task),
            answers.resource("/tasks/{id}/", get=self.get_task, delete=self.delete_task),
            answers.resource("/tasks/{id}/cancel/", post=self.cancel_task),
            answers.resource("/tasks/{id}/download/{target}/", get=self.output_address),
            answers.resource("/tasks/{id}/containers/{index}/stream/", post=self.stream_address),
            answers.resource("/tasks/{id}/notification-preference/", put=self.set_preference),
            answers.resource("/artifacts/", get=self.list_artifacts),
            answers.resource("/artifacts/{id}/", get=self.get_artifact),
            answers.resource("/artifacts/{id}/download/", get=self.artifact_address),
        ]

    def public_routes(self) -> list[BaseRoute]:
        """List the addresses that are handed out, which are their own credentials."""
        return [
            Route("/downloads/artifacts/{id}", self.download_artifact),
            Route("/downloads/output/{id}", self.download_output),
            WebSocketRoute("/streams/{id}", self.stream),
        ]

    async def list_tasks(self, request: Request) -> Response:
        self._project.expire()
        tasks: list[TaskRecord] = list(reversed(self._project.tasks.values()))
        tag, status = request.query_params.get("tag"), request.query_params.get("status")
        if tag is not None:
            tasks = [task for task in tasks if tag in task.request.tags]
        if status is not None:
            wanted = validate.statuses(status)
            tasks = [task for task in tasks if task.status in wanted]
        return answers.page(request, tasks, TaskRecord.shown)

    async def create_task(self, request: Request) -> Response:
        wanted = validate.task_request(await request.body())
        registry = wanted.containers[0].registry
        if registry is not None and registry not in {known.id for known in self._account.registries.all()}:
            raise validate.Invalid("containers[0].registry: there is no such registry")
        return answers.value(self._project.create(wanted).shown(), status=201)

    async def get_task(self, request: Request) -> Response:
        self._project.expire()
        return answers.value(self._task(request).shown())

    async def delete_task(self, request: Request) -> Response:
        try:
            self._project.delete(self._task(request))
        except NotEnded:
            return answers.error(403, "the task has not ended")
        return answers.nothing()

    async def cancel_task(self, request: Request) -> Response:
        task = self._task(request)
        try:
            self._project.cancel(task)
        except Ended:
            return answers.error(403, "the task has ended or is being cancelled")
        return answers.value(task.shown())

    async def set_preference(self, request: Request) -> Response:
        task = self._task(request)
        self._account.set_preference(
            task, validate.read(await request.body(), models.NotificationPreference, nulls=True)
        )
        self._project.keep(task)
        return answers.value({"ok": True})

    async def output_address(self, request: Request) -> Response:
        task = self._task(request)
        if request.path_params["target"] != "output" or not task.ended or not self._project.log_path(task).exists():
            raise HTTPException(404, "there is no such file, or not yet")
        return self._download_url(request, f"/downloads/output/{task.id}")

    async def stream_address(self, request: Request) -> Response:
        task = self._task(request)
        if request.path_params["index"] != "0":
            raise HTTPException(404, "there is no such container")
        if self._project.live_log(task) is None:
            return answers.error(403, "the task is not running")
        path = f"/streams/{task.id}"
        address = request.url.replace(scheme="ws", path=path, query="")
        return answers.value(models.LogStream(url=str(address), token=self._signer.sign(path)))

    async def list_artifacts(self, request: Request) -> Response:
        self._project.expire()
        artifacts, task = self._project.artifacts.all(), request.query_params.get("task")
        if task is not None:
            artifacts = [artifact for artifact in artifacts if artifact.task == task]
        return answers.page(request, artifacts)

    async def get_artifact(self, request: Request) -> Response:
        return answers.value(self._artifact(request))

    async def artifact_address(self, request: Request) -> Response:
        artifact = self._artifact(request)
        if artifact.deleted_at is not None:
            raise HTTPException(404, "the artifact has expired")
        return self._download_url(request, f"/downloads/artifacts/{artifact.id}")

    async def download_artifact(self, request: Request) -> Response:
        artifact = self._signed(request) or self._artifact(request)
        if isinstance(artifact, Response):
            return artifact
        return _file(self._project.artifacts.path(artifact), artifact.filename, "application/gzip")

    async def download_output(self, request: Request) -> Response:
        task = self._signed(request) or self._task(request)
        if isinstance(task, Response):
            return task
        name = request.query_params.get("filename", "output.log")
        return _file(self._project.log_path(task), name, "text/plain; charset=utf-8")

    async def stream(self, socket: WebSocket) -> None:
        token = socket.headers.get("Authorization", "").removeprefix("Bearer ")
        task = self._project.tasks.get(socket.path_params["id"])
        log = None if task is None else self._project.live_log(task)
        if self._signer.problem(socket.url.path, token) is not None or log is None:
            await socket.close()  # before it is accepted, which is answered as 403
            return
        await socket.accept()
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            async for data in log.follow():
                if text := decoder.decode(data):
                    await socket.send_text(text)
            if text := decoder.decode(b"", final=True):
                await socket.send_text(text)
            await socket.close()
        except (WebSocketDisconnect, RuntimeError):  # whoever listened has gone
            return

    def _task(self, request: Request) -> TaskRecord:
        task = self._project.tasks.get(request.path_params["id"])
        if task is None:
            raise HTTPException(404, "there is no such task")
        return task

    def _artifact(self, request: Request) -> models.Artifact:
        self._project.expire()
        artifact = self._project.artifacts.get(request.path_params["id"])
        if artifact is None:
            raise HTTPException(404, "there is no such artifact")
        return artifact

    def _download_url(self, request: Request, path: str) -> Response:
        query: dict[str, str] = {"signature": self._signer.sign(path)}
        if "filename" in request.query_params:
            query["filename"] = request.query_params["filename"]
        address = request.url.replace(path=path, query="").include_query_params(**query)
        return answers.value(models.DownloadUrl(url=str(address)))

    def _signed(self, request: Request) -> Response | None:
        problem = self._signer.problem(request.url.path, request.query_params.get("signature", ""))
        return None if problem is None else answers.error(403, problem)


class _File(FileResponse):
    """A file, in large pieces: each of them is read in a thread."""

    chunk_size = 1 << 20


def _file(path: Path, name: str, media_type: str) -> Response:
    if not path.is_file():
        raise HTTPException(404, "the file is gone")
    return _File(path, media_type=media_type, filename=name)
