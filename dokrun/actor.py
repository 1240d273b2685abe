"""`dok.Actor`: an object that stays in one worker of a session, and whose methods are called from here."""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from dokrun import living
from dokrun.engine.live import Live
from dokrun.engine.reports import described
from dokrun.engine.target import Target
from dokrun.errors import ActorLost, DokrunError, OptionError
from dokrun.function import SESSION
from dokrun.future import Future
from dokrun.keys import new_id
from dokrun.options import Options
from dokrun.sessions import Session

T = TypeVar("T")


class Actor(Generic[T]):
    """An object that lives in a worker of a session: made there once, its methods called one after another.

    A method's call returns a `Future` at once. The object lives until `end()`, or until nothing here refers to the
    actor any more, as when a notebook's cell makes it anew. It ends with its worker, too, and so when a call of any
    function in that worker dies, takes too long or is cancelled while it runs; calls after that fail with ActorLost.
    It has no retries: what a method changes cannot be done again.

    Args:
        cls: the class.
        *args: what it is made with.
        session: where it lives; the one whose block this is, if nothing is said.
        timeout: how long each of its calls may take, as for `@remote`.
        **kwargs: what it is made with, too.

    Raises:
        OptionError: there is no session.
        NotSerializable: the class or an argument cannot be pickled.

    Examples:
        >>> class Counter:
        ...     def __init__(self, start: int) -> None:
        ...         self.number = start
        ...     def add(self, more: int) -> int:
        ...         self.number += more
        ...         return self.number
        >>> with dok.session(plan="v100-32gb"):
        ...     counter = dok.Actor(Counter, 10)
        ...     [counter.add(1).result(), counter.add(2).result()]
        [11, 13]
    """

    def __init__(
        self, cls: Callable[..., T], /, *args: Any, session: Session | None = None, timeout: Any = None, **kwargs: Any
    ) -> None:
        where = session or SESSION.get()
        if where is None:
            raise OptionError("an actor lives in a session; write dok.Actor(…) in the block of one, or session=")
        name = getattr(cls, "__name__", type(cls).__name__)
        self._session = where
        self._sender = _Sender(where._live, new_id(), name, Options().updated({"timeout": timeout, "retries": 0}))  # noqa: SLF001
        self._made = self._sender.send(living.make, "", (cls, *args), kwargs, makes=True)
        # At the end of the process the session ends, or goes on with all that it has.
        self._forgotten = weakref.finalize(self, self._sender.end_later)
        self._forgotten.atexit = False

    def __getattr__(self, name: str) -> Callable[..., Future[Any]]:
        """Tell what calls a method of the object."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def method(*args: Any, **kwargs: Any) -> Future[Any]:
            if self._made.done() and (error := self._made.exception()) is not None:
                raise ActorLost(
                    f"the actor {self._sender.name} could not be made: {described(error)}", ran="no"
                ) from error
            return self._sender.send(living.call, name, (name, *args), kwargs)

        return method

    @property
    def made(self) -> Future[None]:
        """The future of making the object: its `result()` waits for that, and raises what the class raised."""
        return self._made

    def end(self) -> None:
        """Let the object live no longer, when its calls have come to an end."""
        if self._forgotten.detach() is not None:
            self._sender.end()

    def __reduce__(self) -> Any:
        raise TypeError("an actor cannot be sent or stored")

    def __repr__(self) -> str:
        """Tell its class and its session."""
        return f"<dokrun.Actor {self._sender.name} in {self._session!r}>"


class _Sender:
    """Sends an actor's calls; knows nothing of the `Actor`, so that it can end with the last one who refers to that."""

    def __init__(self, live: Live, actor: str, name: str, options: Options) -> None:
        self._live = live
        self._actor = actor
        self._options = options
        self.name = name

    def send(
        self, function: Callable[..., Any], method: str, args: tuple[Any, ...], kwargs: dict[str, Any], **told: bool
    ) -> Future[Any]:
        name = f"{self.name}.{method}" if method else self.name
        target = Target(function, inspect.signature(function), name)
        more = {"makes": False, **told}
        return self._live.call(target, (self._actor, *args), kwargs, self._options, actor=self._actor, **more)

    def end_later(self) -> None:
        """Have the object live no longer, in another thread: in the one that clears up, any lock may be held."""
        self._live.later(self.end)

    def end(self) -> None:
        """Let the object live no longer."""
        with contextlib.suppress(DokrunError):  # it has ended with its session
            self.send(living.end, "", (), {}, ends=True)
