"""`dok.session`: a container that stays warm, and answers calls in milliseconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, cast, overload

from dokrun.errors import OptionError, suggest
from dokrun.function import SESSION, RemoteFunction
from dokrun.options import Duration, Options, count, flag, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from decimal import Decimal

    from typing_extensions import Self, Unpack

    from dokrun.cost import Meter
    from dokrun.engine.live import Live
    from dokrun.engine.tunnel import Tunnel as Passing
    from dokrun.future import Future
    from dokrun.image.spec import Image
    from dokrun.progress import Far

P = ParamSpec("P")
R = TypeVar("R")

IDLE_TIMEOUT = "5m"
TIMEOUT = "4h"


class GivenSession(TypedDict, total=False):
    """The options of a session as the user writes them; None is as if nothing were said."""

    plan: str | None
    image: Image | str | None
    idle_timeout: Duration | None
    timeout: Duration | None
    max_yen: Decimal | float | None
    workers: int | None
    reconnect: bool | None
    env: Mapping[str, str] | None
    secrets: Iterable[str] | Mapping[str, str] | None
    tags: Iterable[str] | None
    name: str | None
    detach: bool | None
    profile: str | None


class Session:
    """A warm container; `dok.session` makes it.

    Examples:
        >>> session = dok.session(plan="v100-32gb", idle_timeout="5m")
        >>> session.submit(pow, 2, 10).result()
        1024
        >>> session.status, session.meter.calls
        ('running', 0)
        >>> session.close()
        >>> session.closed
        True
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._former: list[Token[Any]] = []
        from dokrun.display import Display

        self._display = Display(
            live.wanted.options.name or "session",
            self._far,
            more=self._told,
            again=lambda: not self.closed,
        )

    @overload
    def submit(self, function: RemoteFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call of a function, with `@remote` or without, to the session; raises what a call of it does."""
        remote = function if isinstance(function, RemoteFunction) else RemoteFunction(function, Options())
        return remote.options(session=self)(*args, **kwargs)

    def close(self, *, cancel: bool = False) -> None:
        """End the session when all its calls have come to an end, or at once, with what still runs.

        Returns at once. Nothing more can be sent to it.
        """
        self._live.close(now=cancel)

    @property
    def handle(self) -> str:
        """A short text for `dok.attach(handle)`, in any other process that has the same API key. No secret.

        It is there once the task's definition is made, which waits for the image.

        Raises:
            CallFailed: the session failed before that.
        """
        return self._future.handle

    @property
    def task_id(self) -> str | None:
        """DOK's id of the container's task; None until DOK has taken it."""
        return self._future.task_id

    @property
    def status(self) -> str:
        """How far the container is: as a future's, "running" while calls are answered."""
        return self._future.status

    @property
    def closed(self) -> bool:
        """Whether nothing more can be sent to it."""
        return self._live.closed

    @property
    def meter(self) -> Meter:
        """What it costs so far, and how long it may still last, as of now."""
        return self._live.meter

    def logs(self) -> Iterator[str]:
        """Yield what the container writes, of all calls, piece by piece as it grows, until it has ended."""
        return self._future.logs()

    def tunnel(self, port: int, *, local_port: int = 0) -> Tunnel:
        """Let a port of this machine's loopback lead to one in the container, where a server of yours listens.

            with s.tunnel(8888) as jupyter:
                print(jupyter.url)

        Whatever is said over it keeps the session from being idle.

        Args:
            port: the port in the container; the server listens on its loopback, or everywhere.
            local_port: the port here; any free one if nothing is said.

        Raises:
            OptionError: the port here is taken.
        """
        from dokrun.engine.tunnel import Tunnel as Passing

        try:
            return Tunnel(Passing(self._live.speaking, count("port", port), local_port))
        except OSError as error:
            raise OptionError(f"local_port={local_port} cannot be used: {error.strerror}") from error

    def wait(self) -> None:
        """Wait until every call that was sent has come to an end. What takes long shows the meter."""
        with self._display.wait() as wait:
            while not self._live.wait(wait.pause_s):
                wait.look()

    def _far(self) -> Far:
        """Tell how far the container is, with what the meter says in place of what it costs."""
        from dokrun.progress import Far

        meter = self.meter
        return Far("done", done=1, yen=meter.yen) if self._ended else Far(self.status, yen=meter.yen, note=str(meter))

    def _told(self) -> str:
        if not self._ended:
            return "session.close() ends it"
        return "" if self.closed else "its container has ended; the next call gets another one"

    @property
    def _ended(self) -> bool:
        """Whether no container is there, and none is about to be."""
        return self._live.run.calls.over and (self.closed or not self._live.busy)

    @property
    def _future(self) -> Future[None]:
        return self._live.run.calls.future(0)

    def __enter__(self) -> Self:
        """Send the calls that are made in the block, by this thread or coroutine, to the session."""
        self._former.append(SESSION.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the calls that were sent, and end the session; where the block has failed, end it at once."""
        self._leave()
        if kind is None:
            try:
                self.wait()
            except BaseException:
                self._end()
                raise
            self.close()
        else:
            self._end()

    def _end(self) -> None:
        """End it at once, and say so where that ends calls."""
        calls = self.meter.calls
        self.close(cancel=True)
        if calls:
            ended = "1 call that has" if calls == 1 else f"{calls} calls that have"
            print(f"dokrun: ended the session, and {ended} no result", file=sys.stderr)

    def _leave(self) -> None:
        try:
            SESSION.reset(self._former.pop())
        except ValueError:
            pass  # it was entered in another context, which has ended

    async def __aenter__(self) -> Self:
        """Do as `with` does."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do as `with` does, without blocking the event loop."""
        import asyncio

        self._leave()
        loop = asyncio.get_running_loop()
        if kind is None:
            try:
                await loop.run_in_executor(None, self.wait)
            except BaseException:
                self._end()
                raise
            await loop.run_in_executor(None, self.close)
        else:
            self._end()

    def __reduce__(self) -> Any:
        raise TypeError("a session cannot be sent or stored; pass session.handle to dok.attach")

    def _ipython_display_(self) -> None:
        """Show in a notebook's cell what it costs and how long it may last, until it has ended."""
        if not self._display.show():
            print(repr(self))

    def __repr__(self) -> str:
        """Tell its plan, how far it is, and what it costs."""
        plan, meter = self._live.plan, str(self.meter)
        told = f"{plan} {self.status}" if plan else self.status
        return f"<dokrun.Session {told}{f', {meter}' if meter else ''}>"


class Tunnel:
    """A port of this machine that leads to one in a session's container; `Session.tunnel` makes it.

    Attributes:
        port: the port here.
        url: the same, as an address.

    Examples:
        >>> import urllib.request
        >>> def serve(port: int) -> None:
        ...     import http.server, threading
        ...     server = http.server.ThreadingHTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler)
        ...     threading.Thread(target=server.serve_forever, daemon=True).start()
        >>> with dok.session(plan="v100-32gb") as session:
        ...     session.submit(serve, 18592).result()
        ...     with session.tunnel(18592) as tunnel:
        ...         urllib.request.urlopen(tunnel.url).status
        200
    """

    def __init__(self, passing: Passing) -> None:
        self._passing = passing
        self.port = passing.port
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Take no more connections. Those that there are go on."""
        self._passing.close()

    def __enter__(self) -> Self:
        """Use it; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Tell the address here."""
        return f"<dokrun.Tunnel {self.url}>"


def session(**given: Unpack[GivenSession]) -> Session:
    """Open a session: one task, one container, its workers warm, and calls of functions over its http port.

    Calls of decorated functions that are made in the block go to it; outside of one, `s.submit(f, x)` and
    `f.options(session=s)(x)` do. Without `with`, as in a notebook, it is open from the start: `s = dok.session(…)`,
    until `s.close()`. Functions keep their own timeouts, secrets and files; what they leave in memory stays there,
    for the next call that the same worker runs.

    Args:
        plan: the machine, as for `@remote`.
        image: a `dok.Image`, or the name of any image that has Python of this version.
        idle_timeout: how long the container waits for a call before it ends; five minutes if nothing is said. While
            the time is not over that is billed at least, it waits longer, for nothing.
        timeout: how long the session may last in all; four hours if nothing is said.
        max_yen: how much it may cost.
        workers: how many calls run at the same time; one on each GPU if nothing is said. If there are more, they share
            the GPUs.
        reconnect: whether another container is made when this one has ended or is lost, as soon as a call is sent. What
            calls are given is kept in this process until they have ended, as it is for functions with `retries`: up to
            2 GiB, and what is more goes through the bucket.
        env: environment variables for the container. The project's members can read them.
        secrets: environment variables that only the workers have.
        tags: more tags for the task.
        name: the name that the task bears.
        detach: let it go on when this process ends; `dok.attach(session.handle)` finds it.
        profile: whose account, in place of the one that the environment chooses.
        **given: all of them are named.

    Raises:
        OptionError: an option is not known, or its value is wrong; or no plan is given.
        ConfigError: the profile is not complete.

    Examples:
        >>> @dok.remote
        ... def add(number: int, other: int) -> int:
        ...     return number + other
        >>> with dok.session(plan="v100-32gb", idle_timeout="5m"):
        ...     add(1, 2).result()  # milliseconds, once the container is there
        ...     list(add.starmap([(3, 4), (5, 6)]))
        3
        [7, 11]
    """
    unknown = [name for name in given if name not in GivenSession.__annotations__]
    if unknown:
        raise OptionError(f"session has no option {unknown[0]!r}{suggest(unknown[0], GivenSession.__annotations__)}")
    told = {name: value for name, value in given.items() if value is not None}
    idle_s = seconds("idle_timeout", cast("Duration", told.pop("idle_timeout", IDLE_TIMEOUT)))
    workers = count("workers", told.pop("workers")) if "workers" in told else None
    reconnect = flag("reconnect", told.pop("reconnect", False))
    options = Options().updated({"timeout": TIMEOUT, **told})
    from dokrun import engine
    from dokrun.engine.wanted import Asked

    return Session(engine.get(options.profile).session(options, Asked(idle_s, workers, reconnect)))


def attach(handle: str, *, profile: str | None = None) -> Any:
    """Make the future of a call that another process has made, or this one before; nothing is submitted.

    Of a map's handle, it makes the map; of a session's, the session, as long as its container is there. Of a call of
    this process's own that has not ended yet, it is the future that there is.

    Args:
        handle: what `future.handle` told; on the machine that made the call its beginning will do, as in "train-7f3a".
        profile: whose account, in place of the one that the environment chooses.

    Raises:
        OptionError: it is no handle, or not one that can be found.
        ConfigError: the profile is not complete.

    Examples:
        >>> @dok.remote(plan="v100-32gb")
        ... def double(number: int) -> int:
        ...     return 2 * number
        >>> handle = double(21).handle
        >>> dok.attach(handle).result()
        42
    """
    from dokrun import engine
    from dokrun.engine.live import Live

    found = engine.get(profile).attach(handle)
    return Session(found) if isinstance(found, Live) else found
