"""Who is let in: from this machine, with the key, once the terms are agreed to."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from dokrun.emulator import answers


class LoopbackOnly:
    """Refuse requests that name another host: a page in a browser may have been told that it is this one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope.get("headers", [])).get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if scope["type"] in ("http", "websocket") and name not in ("127.0.0.1", "localhost", "[::1]"):
            await answers.error(403, "this emulator answers on the loopback address only")(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Authenticate:
    """Let nobody in without the API key, by Basic authentication."""

    def __init__(self, app: ASGIApp, token: str, secret: str) -> None:
        self._app = app
        self._expected = b"Basic " + base64.b64encode(f"{token}:{secret}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._expected):
            message = "Invalid credentials" if given else "Authentication credentials not provided"
            await answers.error(401, message)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class TermsAgreed:
    """Let nobody do anything but agree, until somebody has agreed to the terms of service."""

    def __init__(self, app: ASGIApp, agreed: Callable[[], bool]) -> None:
        self._app = app
        self._agreed = agreed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._agreed() and "/auth/" not in scope["path"]:
            await answers.error(403, "the terms of service are not agreed to: POST /auth/agree/")(scope, receive, send)
            return
        await self._app(scope, receive, send)
