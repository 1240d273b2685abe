"""`dok.Actor`: an object that stays in one worker of a session, and whose methods are called from here."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from dokrun import living
from dokrun.engine.prepare import Target
from dokrun.errors import ActorLost, DokrunError, OptionError
from dokrun.function import SESSION
from dokrun.future import Future
from dokrun.keys import new_id
from dokrun.options import Options
from dokrun.sessions import Session

T = TypeVar("T")


class Actor(Generic[T]):
    """An object that lives in a worker of a session: made there once, its methods called one after another.

        with dok.session(plan="h100-80gb"):
            model = dok.Actor(Model, "weights.pt")
            answers = [model.predict(batch).result() for batch in batches]

    A method's call returns a `Future` at once. The object ends with its worker, and so when a call of any function in
    that worker dies, takes too long or is cancelled while it runs; calls after that fail with ActorLost. It has no
    retries: what a method changes cannot be done again.

    Args:
        cls: the class.
        *args: what it is made with.
        session: where it lives; the one whose block this is, if nothing is said.
        timeout: how long each of its calls may take, as for `@remote`.
        **kwargs: what it is made with, too.

    Raises:
        OptionError: there is no session.
        NotSerializable: the class or an argument cannot be pickled.
    """

    def __init__(
        self, cls: Callable[..., T], /, *args: Any, session: Session | None = None, timeout: Any = None, **kwargs: Any
    ) -> None:
        where = session or SESSION.get()
        if where is None:
            raise OptionError("an actor lives in a session; write dok.Actor(…) in the block of one, or session=")
        self._id = new_id()
        self._session = where
        self._name = getattr(cls, "__name__", type(cls).__name__)
        self._options = Options().updated({"timeout": timeout, "retries": 0})
        self._made = self._send(living.make, "", (self._id, cls, *args), kwargs, makes=True)

    def __getattr__(self, name: str) -> Callable[..., Future[Any]]:
        """Tell what calls a method of the object."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def method(*args: Any, **kwargs: Any) -> Future[Any]:
            if self._made.done() and (error := self._made.exception()) is not None:
                raise ActorLost(f"the actor {self._name} could not be made: {error}", ran="no") from error
            return self._send(living.call, name, (self._id, name, *args), kwargs)

        return method

    @property
    def made(self) -> Future[None]:
        """The future of making the object: its `result()` waits for that, and raises what the class raised."""
        return self._made

    def end(self) -> None:
        """Let the object live no longer, when its calls have come to an end."""
        with contextlib.suppress(DokrunError):  # it has ended with its session
            self._send(living.end, "", (self._id,), {})

    def __reduce__(self) -> Any:
        raise TypeError("an actor cannot be sent or stored")

    def __repr__(self) -> str:
        """Tell its class and its session."""
        return f"<dokrun.Actor {self._name} in {self._session!r}>"

    def _send(
        self,
        function: Callable[..., Any],
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        makes: bool = False,
    ) -> Future[Any]:
        name = f"{self._name}.{method}" if method else self._name
        target = Target(function, inspect.signature(function), name)
        return self._session._live.call(target, args, kwargs, self._options, actor=self._id, makes=makes)  # noqa: SLF001
