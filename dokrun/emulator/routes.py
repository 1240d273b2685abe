"""DOK's REST API over a project's state, as an ASGI application."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http
import math
import secrets
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dokrun.api import models
from dokrun.emulator.catalog import PLANS, PRICES
from dokrun.emulator.clock import Clock
from dokrun.emulator.state import Ended, NotEnded, Project, TaskRecord
from dokrun.emulator.validate import Invalid, task_request

T = TypeVar("T")

BASE_PATH = "/cloud/zone/is1a/api/managed-container/1.0"
LARGEST_PAGE = 100
ADDRESS_LIFETIME_S = 900

_CODES = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


def application(project: Project, clock: Clock, token: str, secret: str) -> ASGIApp:
    """Make the application: the API below its path, and the addresses that it hands out beside it."""
    api = _Api(project, clock)
    guarded = Mount(BASE_PATH, routes=api.routes(), middleware=[Middleware(_Authenticate, token=token, secret=secret)])
    return Starlette(
        routes=[guarded, Route("/downloads/{artifact_id}", api.download_file)],
        middleware=[Middleware(_LoopbackOnly)],
        exception_handlers={HTTPException: _http_error, Invalid: _invalid},
    )


class _LoopbackOnly:
    """Refuse requests that name another host: a page in a browser may have been told that it is this one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").rpartition(":")[0]
            if host not in ("127.0.0.1", "localhost", "[::1]"):
                await _error(403, "this emulator answers on the loopback address only")(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Authenticate:
    """Let nobody in without the API key, by Basic authentication."""

    def __init__(self, app: ASGIApp, token: str, secret: str) -> None:
        self._app = app
        self._expected = b"Basic " + base64.b64encode(f"{token}:{secret}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._expected):
            message = "Invalid credentials" if given else "Authentication credentials not provided"
            await _error(401, message)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Api:
    """The handlers. Each one changes the state between two awaits, so none sees another's half-done work."""

    def __init__(self, project: Project, clock: Clock) -> None:
        self._project = project
        self._clock = clock
        self._key = secrets.token_bytes(32)

    def routes(self) -> list[Route]:
        return [
            Route("/auth/", self.auth),
            Route("/auth/agree/", self.agree, methods=["POST"]),
            Route("/tasks/", self.list_tasks, methods=["GET"]),
            Route("/tasks/", self.create_task, methods=["POST"]),
            Route("/tasks/{task_id}/", self.get_task, methods=["GET"]),
            Route("/tasks/{task_id}/", self.delete_task, methods=["DELETE"]),
            Route("/tasks/{task_id}/cancel/", self.cancel_task, methods=["POST"]),
            Route("/artifacts/", self.list_artifacts),
            Route("/artifacts/{artifact_id}/", self.get_artifact),
            Route("/artifacts/{artifact_id}/download/", self.artifact_address),
            Route("/plans/", self.plans),
            Route("/unit_prices/", self.prices),
        ]

    async def auth(self, _request: Request) -> Response:
        account = models.Account(
            account_id="100000000000",
            account_code="emulator",
            account_name="dokrun emulator",
            tos_agreed_at=self._project.agreed_at,
            created_at=self._project.agreed_at,
        )
        return _json(models.AuthInfo(user=None, member=models.Member(member_id="emulator"), account=account))

    async def agree(self, _request: Request) -> Response:
        self._project.agreed_at = self._clock.now()
        return Response(status_code=204)

    async def list_tasks(self, request: Request) -> Response:
        tasks: list[TaskRecord] = list(reversed(self._project.tasks.values()))
        tag, status = request.query_params.get("tag"), request.query_params.get("status")
        if tag is not None:
            tasks = [task for task in tasks if tag in task.request.tags]
        if status is not None:
            tasks = [task for task in tasks if task.status in status.split(",")]
        return _page(request, tasks, TaskRecord.shown)

    async def create_task(self, request: Request) -> Response:
        task = self._project.create(task_request(await request.body()))
        return _json(task.shown(), status=201)

    async def get_task(self, request: Request) -> Response:
        return _json(self._task(request).shown())

    async def delete_task(self, request: Request) -> Response:
        try:
            self._project.delete(self._task(request))
        except NotEnded:
            return _error(403, "the task has not ended")
        return Response(status_code=204)

    async def cancel_task(self, request: Request) -> Response:
        task = self._task(request)
        try:
            self._project.cancel(task)
        except Ended:
            return _error(403, "the task has ended or is being cancelled")
        return _json(task.shown())

    async def list_artifacts(self, request: Request) -> Response:
        task = request.query_params.get("task")
        artifacts = [found for found in self._project.artifacts() if task in (None, found.task)]
        return _page(request, artifacts, lambda artifact: artifact)

    async def get_artifact(self, request: Request) -> Response:
        return _json(self._artifact(request))

    async def artifact_address(self, request: Request) -> Response:
        artifact = self._artifact(request)
        expires = math.ceil(self._clock.now().timestamp()) + ADDRESS_LIFETIME_S
        address = request.url.replace(
            path=f"/downloads/{artifact.id}", query=f"expires={expires}&signature={self._sign(artifact.id, expires)}"
        )
        return _json(models.DownloadUrl(url=str(address)))

    async def download_file(self, request: Request) -> Response:
        expires = request.query_params.get("expires", "")
        signed = self._sign(request.path_params["artifact_id"], expires)
        if not hmac.compare_digest(signed.encode(), request.query_params.get("signature", "").encode()):
            return _error(403, "the signature does not match")
        if self._clock.now().timestamp() > int(expires):
            return _error(403, "the address has expired")
        artifact = self._artifact(request)
        return FileResponse(
            self._project.artifact_path(artifact), media_type="application/gzip", filename=artifact.filename
        )

    async def plans(self, request: Request) -> Response:
        return _page(request, PLANS, lambda plan: plan)

    async def prices(self, request: Request) -> Response:
        return _page(request, PRICES, lambda price: price)

    def _task(self, request: Request) -> TaskRecord:
        task = self._project.tasks.get(request.path_params["task_id"])
        if task is None:
            raise HTTPException(404, "there is no such task")
        return task

    def _artifact(self, request: Request) -> models.Artifact:
        wanted = request.path_params["artifact_id"]
        artifact = next((found for found in self._project.artifacts() if found.id == wanted), None)
        if artifact is None:
            raise HTTPException(404, "there is no such artifact")
        return artifact

    def _sign(self, artifact_id: str, expires: int | str) -> str:
        return hmac.new(self._key, f"{artifact_id} {expires}".encode(), hashlib.sha256).hexdigest()


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def _error(status: int, message: str) -> Response:
    body = models.Error(
        is_fatal=status >= http.HTTPStatus.INTERNAL_SERVER_ERROR,
        serial=secrets.token_hex(16),
        status=f"{status} {http.HTTPStatus(status).phrase}",
        error_code=_CODES.get(status, "error"),
        error_msg=message,
    )
    return _json(body, status)


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    response = _error(error.status_code, error.detail)
    response.headers.update(error.headers or {})  # what is allowed, where the method is not
    return response


async def _invalid(_request: Request, error: Exception) -> Response:
    return _error(400, str(error))


def _page(request: Request, items: Sequence[T], shown: Callable[[T], object]) -> Response:
    """Answer one page of a list, newest first as it was handed in."""
    number, size = _positive(request, "page", 1), _positive(request, "page_size", LARGEST_PAGE)
    if size > LARGEST_PAGE:
        raise Invalid(f"page_size: must be {LARGEST_PAGE} or less")
    total = max(1, math.ceil(len(items) / size))

    def address(other: int) -> str | None:
        return str(request.url.include_query_params(page=other)) if 1 <= other <= total else None

    meta = models.Meta(
        page=number,
        page_size=size,
        total_pages=total,
        count=len(items),
        next=address(number + 1),
        previous=address(number - 1),
    )
    return _json({"meta": meta, "results": [shown(item) for item in items[(number - 1) * size : number * size]]})


def _positive(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise Invalid(f"{name}: must be a whole number of 1 or more")
    return int(text)
