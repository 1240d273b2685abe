"""The emulator itself: an HTTP server in a thread of this process, on a loopback port."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec
import uvicorn

from dokrun.emulator.account import Account
from dokrun.emulator.clock import Clock, SystemClock
from dokrun.emulator.docker_engine import connect
from dokrun.emulator.faults import FaultMiddleware, Faults
from dokrun.emulator.faults import routes as fault_routes
from dokrun.emulator.ports import BASE_PATH, listen
from dokrun.emulator.records import Records
from dokrun.emulator.routes import application
from dokrun.emulator.runtime import MakeRuntime
from dokrun.emulator.state import Behaviour, Project
from dokrun.emulator.webhooks import Notifier
from dokrun.errors import ConfigError

if TYPE_CHECKING:
    import socket

    from typing_extensions import Self

RECORDS = "records.sqlite"
# The form of a real API key's token.
_REAL_TOKEN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Emulator:
    """DOK on this machine. Start it, point a client at `api_url` with `token` and `secret`, close it.

    `faults` takes rules for what shall go wrong; over HTTP, below `/faults/` on the same host and with the same key.

    Args:
        port: where it listens on 127.0.0.1; a free port if it is 0.
        token: the API key's token; made up if nothing is said, and kept with the data. One that looks real is refused.
        secret: the API key's secret; likewise.
        data: a folder for tasks, artifacts and logs, which it goes on with after a restart; else nothing is kept.
        behaviour: in what ways it may differ from another.
        clock: what tells the time, in place of the machine's.
        runtime: makes what tasks run on, below a folder that is its own, in place of what the behaviour says.
        listening: a socket that listens on 127.0.0.1 already, in place of a port.

    Raises:
        ValueError: the token looks like that of a real API key.
        ConfigError: its tasks are to run on a Docker engine, and none answers; or the folder cannot be used.
        OSError: it cannot listen on that port.

    Examples:
        >>> import httpx
        >>> with Emulator() as service:
        ...     plans = httpx.get(f"{service.api_url}/plans/", auth=(service.token, service.secret))
        >>> plans.status_code, plans.json()["results"][0]["id"]
        (200, 'v100-32gb')
    """

    def __init__(
        self,
        *,
        port: int = 0,
        token: str | None = None,
        secret: str | None = None,
        data: Path | None = None,
        behaviour: Behaviour | None = None,
        clock: Clock | None = None,
        runtime: MakeRuntime | None = None,
        listening: socket.socket | None = None,
    ) -> None:
        if token is not None and _REAL_TOKEN.fullmatch(token):
            raise ValueError("this token looks like that of a real API key; an emulator must not know it")
        key = _kept_key(data)
        self.token = token or key.token
        self.secret = secret or key.secret
        self.faults = Faults()
        self._clock = clock or SystemClock()
        self._behaviour = behaviour or Behaviour()
        self._make_runtime = runtime
        if self._behaviour.runtime == "docker":
            connect().close()  # here, where it can still be told to whoever asked
        self._socket = listening or listen(port)
        self._scratch = Path(tempfile.mkdtemp(prefix="dokrun-emulator-"))
        self._data = data
        self.api_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}{BASE_PATH}"
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        # A daemon, so that a process which forgets to close it can end all the same.
        self._thread = threading.Thread(target=self._run, name="dokrun-emulator", daemon=True)

    def start(self) -> Self:
        """Start to answer. Connections that are made before wait for it."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End all tasks, stop to answer, remove every file that shall not be kept."""
        if self._thread.ident is None:
            self._socket.close()
        else:
            self._ready.wait()
            if self._loop is not None and self._stop is not None and self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start to answer."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        data = self._data or self._scratch / "data"
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        records = Records(None if self._data is None else data / RECORDS)
        account = Account(records, self._clock, agreed=self._behaviour.agreed)
        notifier = Notifier(account)
        project = Project(
            data=data,
            scratch=self._scratch,
            records=records,
            clock=self._clock,
            behaviour=self._behaviour,
            make_runtime=self._make_runtime,
            credentials_of=account.credentials_of,
            on_end=notifier.tell,
            faults=self.faults,
        )
        server = self._server(project, account)
        self._ready.set()
        serving = asyncio.create_task(server.serve(sockets=[self._socket]))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await project.close()
        await notifier.close()
        server.should_exit = True
        await serving
        records.close()

    def _server(self, project: Project, account: Account) -> uvicorn.Server:
        key = (self.token, self.secret)
        app = application(project, account, self._clock, key, list(fault_routes(self.faults)))
        return uvicorn.Server(
            uvicorn.Config(
                FaultMiddleware(app, self.faults, self._clock, BASE_PATH),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="websockets-sansio",
                timeout_graceful_shutdown=1,
            )
        )


class _Key(msgspec.Struct):
    token: str
    secret: str


def _kept_key(data: Path | None) -> _Key:
    """Tell the key that a data folder's emulator has had before, or make one up and keep it there."""
    made_up = _Key(f"emulator-{secrets.token_hex(8)}", secrets.token_hex(16))
    if data is None:
        return made_up
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        records = Records(data / RECORDS)
        key = next(records.all("key", _Key), made_up)
        records.put("key", "key", key)
        records.close()
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"the emulator cannot keep its data in {data}: {reason}; name another folder") from error
    return key
