"""DOK's REST API as an ASGI application: who is let in, and what is found where."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount

from dokrun.emulator import answers
from dokrun.emulator.account import Account, Missing
from dokrun.emulator.account_routes import AccountRoutes
from dokrun.emulator.clock import Clock
from dokrun.emulator.guards import Authenticate, LoopbackOnly, TermsAgreed
from dokrun.emulator.ports import BASE_PATH
from dokrun.emulator.signing import Signer
from dokrun.emulator.state import Project
from dokrun.emulator.task_routes import TaskRoutes
from dokrun.emulator.validate import Invalid


def application(
    project: Project, account: Account, clock: Clock, key: tuple[str, str], fault_routes: list[BaseRoute]
) -> Starlette:
    """Make the application: the API below its path, and beside it the addresses that it hands out.

    Args:
        project: the tasks.
        account: the rest.
        clock: what tells the time.
        key: the API key's token and secret.
        fault_routes: the admin path of the faults, for those who have the key.
    """
    signer = Signer(clock)
    tasks = TaskRoutes(project, account, signer)
    authenticate = Middleware(Authenticate, token=key[0], secret=key[1])
    agreed = Middleware(TermsAgreed, agreed=lambda: account.agreed_at is not None)
    api = Mount(
        BASE_PATH,
        routes=[*tasks.routes(), *AccountRoutes(project, account, clock).routes()],
        middleware=[authenticate, agreed],
    )
    return Starlette(
        routes=[api, *tasks.public_routes(), Mount("/faults", routes=fault_routes, middleware=[authenticate])],
        middleware=[Middleware(LoopbackOnly)],
        exception_handlers={HTTPException: _http_error, Invalid: _invalid, Missing: _missing},
    )


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    response = answers.error(error.status_code, error.detail)
    response.headers.update(error.headers or {})  # what is allowed, where the method is not
    return response


async def _invalid(_request: Request, error: Exception) -> Response:
    return answers.error(400, str(error))


async def _missing(_request: Request, _error: Exception) -> Response:
    return answers.error(404, "there is no such thing")
