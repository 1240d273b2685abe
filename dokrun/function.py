"""`@remote`: a function that runs on a GPU somewhere else when it is called.

The engine, with all that it loads, comes in when a function is first called. In the container it never does: this file
is there too (`payload/shim.py`), for modules that put `@remote` on their functions.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from dokrun.errors import OptionError, suggest
from dokrun.options import GivenOptions, Options
from dokrun.shim import protocol
from dokrun.trial import Quoting, Rehearsal, here, size_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from dokrun.cost import Price, Quote
    from dokrun.engine.target import Target
    from dokrun.future import Future
    from dokrun.map import GivenPacking, Map
    from dokrun.payload.explain import Explanation

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


# True while a script is imported only to be looked at.
LOOKING: ContextVar[bool] = ContextVar("LOOKING", default=False)
# The session whose block this is; what one is, is known above this file.
SESSION: ContextVar[Any] = ContextVar("SESSION", default=None)


class RemoteFunction(Generic[P, R_co]):
    """A function that runs on DOK when it is called; the call returns a `Future` at once.

    Examples:
        >>> @dok.remote(plan="v100-32gb")
        ... def double(number: int) -> int:
        ...     return 2 * number
        >>> double(21).result()
        42
        >>> list(double.map([1, 2, 3]))
        [2, 4, 6]
        >>> double.local(21)
        42
        >>> double.rehearse(21)
        42
        >>> double.options(timeout="10m", retries=1)(4).result()
        8
    """

    __name__: str

    def __init__(self, function: Callable[P, R_co], options: Options) -> None:
        # Not its `__dict__`: a callable object's own attributes would stand in the way of ours.
        functools.update_wrapper(self, function, updated=())
        self.__name__ = _name(function)
        _check_kind(function, self.__name__)
        self._function = function
        self._options = options
        self._signature = _signature(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Future[R_co]:
        """Send the call to DOK and return its future at once.

        Raises:
            OptionError: the arguments do not fit the function's signature, no plan is given, or `include` or `exclude`
                cannot be meant so.
            SourceTooLarge: your files that would go along are too many.
            NotSerializable: an argument cannot be pickled; names which, and where inside it.
            ConfigError: the profile is not complete.
        """
        self._check_arguments(args, kwargs)
        target, session = self._target(), self._options.session or SESSION.get()
        if session is not None:
            return cast("Future[R_co]", session._live.call(target, args, kwargs, self._options))  # noqa: SLF001
        from dokrun import engine

        return engine.get(self._options.profile).call(target, args, kwargs, self._options)

    def map(self, *iterables: Iterable[Any], **packing: Unpack[GivenPacking]) -> Map[R_co]:
        """Call the function with each of the items, many calls in one task, and yield the results as they come.

            for metrics in train.map(configs): ...

        Args:
            *iterables: the items; of several iterables, one of each at a time, as for the built-in `map`.
            tasks: how many tasks share the calls, one if nothing is said; the service lets a project run one at a time.
                An iterable that does not know its length, as a generator, is looked at as far as one task holds, and
                further when the next one's turn comes near.
            workers: how many calls run at the same time in each task; "auto", one for each GPU, if nothing is said. If
                there are more, they share the GPUs.
            order: whether results come in the items' order, which they do if nothing is said, or as they are done.
            return_exceptions: whether an exception is handed out as if it were a result.
            progress: whether a wait of more than a second shows how far the calls are, on standard error: one line that
                comes and goes in a terminal, else a line when something changes. It does if nothing is said, unless
                `DOKRUN_PROGRESS=0` is set, or a bar of tqdm's or rich's is there.
            **packing: all of them are named.

        Raises:
            OptionError: as a call does; or one of these is not known or wrong, or the function has `http=`.
            NotSerializable: an item cannot be pickled.
            SourceTooLarge: your files that would go along are too many.
            ConfigError: the profile is not complete, or there is no bucket and the calls are too large without.
            SubmitFailed: the bucket refused what the calls need.
        """
        sizes = [size_of(items) for items in iterables]
        known = [size for size in sizes if size is not None]
        # One whose length nobody knows may be the shortest.
        size = min(known, default=0) if len(known) == len(sizes) else None
        return self._map(zip(*iterables, strict=False), size, packing)

    def starmap(self, items: Iterable[Iterable[Any]], **packing: Unpack[GivenPacking]) -> Map[R_co]:
        """Do as `map` does; each item holds all the positional arguments of a call."""
        return self._map(map(tuple, items), size_of(items), packing)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the function here and now, without pickling anything.

        An argument that `dok.put` or `dok.File` made becomes its value or path, as in a container; one that lies within
        another argument is given as it is. Of `http=` nothing is opened; a server that it starts listens here.
        """
        args_here, kwargs_here = here(args, kwargs, self._options.profile)
        return self._function(*args_here, **kwargs_here)

    @property
    def rehearse(self) -> Rehearsal[P, R_co]:
        """Run the function here through all that a real call goes through, for nothing: `f.rehearse(…)`.

        `f.rehearse.in_container(…)` does so in the call's image, where there is a Docker engine. Of `http=` nothing is
        opened: a server that the function starts listens here, or in a container that nobody reaches.
        """
        return Rehearsal(self._rehearse)

    @property
    def quote(self) -> Quoting[P]:
        """Tell what a call will cost, before it is made: `f.quote(…)`; and a map: `f.quote.map(…)`."""
        return Quoting(self._quote_call, self._quote_map)

    def options(self, **changed: Unpack[GivenOptions]) -> RemoteFunction[P, R_co]:
        """Make a copy with other options, which are those of `remote`; `env` and lists are replaced whole.

        None takes back what was said before: the profile's default holds again, or else dokrun's. So
        `f.options(image=None)` runs in an ordinary image, whatever the decorator says.

        Raises:
            OptionError: an option is not known, or its value is wrong.
        """
        return RemoteFunction(self._function, self._options.updated(changed))

    def explain(self) -> Explanation:
        """Tell which of your files a call would send along, and why; those that only its arguments need are not known.

        Raises:
            OptionError: an `include` matches no file, or `exclude` takes away what the function is defined in.
            NotSerializable: the function cannot be pickled.
            ConfigError: the profile is not complete.
        """
        from dokrun import config
        from dokrun.payload.explain import explain

        options = self._options.over(config.load(self._options.profile).defaults)
        return explain(self._function, self.__name__, include=options.include, exclude=options.exclude)

    @property
    def __dokrun_function__(self) -> Callable[P, R_co]:
        """The function itself: what the container's worker looks for when it has imported the function's module."""
        return self._function

    def __dokrun_call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Target, Options]:
        """Tell what a call is to the engine, and with which options, for whoever sends it in another way.

        Raises:
            OptionError: as the call itself does, before anything is sent.
        """
        self._check_arguments(args, kwargs)
        return self._target(), self._options

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> RemoteFunction[P, R_co]: ...
    @overload
    def __get__(
        self: RemoteFunction[Concatenate[S, Q], R_co], instance: S, owner: type | None = None
    ) -> RemoteFunction[Q, R_co]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind to an instance or a class, as what it was put on does: a method, a class method, a static method."""
        bind = getattr(type(self._function), "__get__", None)
        bound = self._function if bind is None else bind(self._function, instance, owner)
        return self if bound is self._function else RemoteFunction(bound, self._options)

    def __reduce__(self) -> Any:
        return RemoteFunction, (self._function, self._options)

    def __repr__(self) -> str:
        """Tell the function's name and plan."""
        return f"<dokrun.RemoteFunction {self.__name__} plan={self._options.plan}>"

    def _map(self, calls: Iterator[tuple[Any, ...]], size: int | None, packing: GivenPacking) -> Map[R_co]:
        from dokrun.map import Packing

        def checked() -> Iterator[tuple[Any, ...]]:
            for args in calls:
                self._check_arguments(args, {})
                yield args

        target, given = self._target(), Packing.checked(packing)
        session = self._options.session or SESSION.get()
        if session is not None:
            return cast("Map[R_co]", session._live.map(target, checked(), size, self._options, given))  # noqa: SLF001
        from dokrun import engine

        return engine.get(self._options.profile).map(target, checked(), size, self._options, given)

    def _quote_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Quote:
        self._check_arguments(args, kwargs)
        return self._quote([1])

    def _quote_map(self, size: int, packing: GivenPacking) -> Quote:
        from dokrun.engine.portions import counts
        from dokrun.map import Packing

        given = Packing.checked(packing)
        return self._quote(counts(size, given.tasks), given.lanes)

    def _quote(self, counts: list[int], workers: int | None = None) -> Quote:
        target = self._target()
        from dokrun import engine

        return engine.get(self._options.profile).quote(target, self._options, counts, workers)

    def _target(self) -> Target:
        if LOOKING.get():
            raise OptionError(
                f"{self.__name__}() is called when the file is imported, which would have sent it; put the call below "
                f'`if __name__ == "__main__":`, or print {self.__name__}.explain() there in its place'
            )
        if protocol.CALL_ID in os.environ:
            raise OptionError(f"{self.__name__}() was called inside a DOK task, which has no credentials; use .local()")
        from dokrun.engine.target import Target

        return Target(self._function, self._signature, self.__name__)

    def _rehearse(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, container: bool) -> R_co:
        self._check_arguments(args, kwargs)
        target = self._target()
        from dokrun.engine.rehearse import rehearse

        args, kwargs = here(args, kwargs, self._options.profile, files=False)
        return cast("R_co", rehearse(target, args, kwargs, self._options, container=container))

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            parameters = list(self._signature.parameters.values())
            known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            wrong = [name for name in kwargs if name not in known] if "unexpected keyword" in str(error) else []
            hint = suggest(wrong[0], known) if wrong else ""
            # Names only: a default may be a secret.
            bare = [p.replace(annotation=p.empty, default=p.empty) for p in parameters]
            names = self._signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
            raise OptionError(f"{self.__name__}{names}: {error}{hint}") from None


class Decorator(Protocol):
    """What `remote(…)` returns: put on a function, it makes a RemoteFunction of the same types."""

    def __call__(self, function: Callable[P, R], /) -> RemoteFunction[P, R]:
        """Make the function remote."""


@overload
def remote(function: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(**options: Unpack[GivenOptions]) -> Decorator: ...
def remote(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function run on DOK when it is called.

    Args:
        function: the function, where `@remote` is written without parentheses.
        plan: the machine: v100-32gb, h100-80gb, … (https://manual.sakura.ad.jp/koukaryoku-dok-api/spec.html).
        image: a `dok.Image`, or the name of any image that has Python of this version, which is used as it is; without
            one, the official slim image of the client's own version.
        timeout: how long a call may take, as "2h", "90s", seconds or a timedelta; one hour if nothing is said.
            The task gets a time limit of its own somewhat above it, since without one the service allows 20 days.
        env: environment variables for the container. The project's members can read them.
        tags: more tags for the task.
        include: more files of yours that go along: paths and patterns, from the folder of the function's top-level
            module, or of the script.
        exclude: patterns, as in .gitignore, of files that stay here.
        name: the name that the task bears, in place of the function's.
        retries: how often a function that has started may run again: a number, or a `dok.Retry`; never if nothing is
            said. What failed before it started is tried again without it.
        secrets: environment variables that only the function's own process has: names of variables here, or names with
            their values. They travel with the arguments, not in the task's definition, where there is a bucket.
        max_yen: how much a call may cost in all its attempts, or each task of a map: where it comes near, the container
            writes down what it has, saves a checkpoint and ends, and what was not done fails with TooExpensive. It
            keeps to that by itself, whatever becomes of this process.
        http: the port where a server that the function starts listens, as a number or a `dok.Http`; `future.http_uri`
            is its public address, which the whole world can reach: let the server ask for a password or token. Each
            task has one, so that maps have none.
        detach: let the call go on when this process ends; `dok.attach(future.handle)` gets its result.
        session: what `dok.session` has made: the call goes to its warm container.
        linger: let the container stay, for nothing, while the time is not over that the plan is billed for at least:
            the next call of a function with the same plan, image and environment finds it warm. Where each second is
            billed, it makes no difference, and for maps, which are tasks of their own, neither.
        profile: whose account, in place of the one that the environment chooses.
        **options: all of them but `function` are named. None is as if an option were not given.

    Raises:
        OptionError: an option is not known or wrong, or it is a kind of function that cannot be sent.

    Examples:
        >>> @dok.remote(plan="v100-32gb", timeout="2h", max_yen=120)
        ... def train(epochs: int) -> float:
        ...     return 1 / epochs
        >>> future = train(4)
        >>> future.result()
        0.25
    """
    checked = Options().updated(options)

    def decorate(function: Callable[..., Any]) -> RemoteFunction[..., Any]:
        return RemoteFunction(function, checked)

    return decorate if function is None else decorate(function)


def put(value: R, *, profile: str | None = None) -> R:
    """Send a value to the bucket, once, and return what stands for it in calls.

    Large arrays that several calls share are noticed without it. Typed as the value, since a function gets that. It
    stays in the bucket until you remove it there.

    Args:
        value: anything that can be pickled.
        profile: whose bucket, in place of the one that the environment chooses.

    Raises:
        NotSerializable: it cannot be pickled; names which part.
        ConfigError: there is no bucket.
        StorageError: the bucket refused, or gave no answer.

    Examples:
        >>> @dok.remote(plan="v100-32gb")
        ... def count(words: list[str], wanted: str) -> int:
        ...     return words.count(wanted)
        >>> words = dok.put(["spam", "eggs"] * 1000)
        >>> list(count.starmap([(words, "spam"), (words, "ham")]))
        [1000, 0]
    """
    from dokrun import engine

    return cast("R", engine.get(profile).put(value))


def prices(profile: str | None = None) -> dict[str, Price]:
    """Tell what a second costs on each plan, as the service says, by the plan's id.

    Raises:
        ConfigError: the profile is not complete.
        ApiError: the service refused or did not answer.

    Examples:
        >>> dok.prices()["h100-80gb"]
        Price(plan='h100-80gb', yen_per_second=Decimal('0.28'), minimum_seconds=60)
    """
    from dokrun import engine

    return dict(engine.get(profile).prices())


def _check_kind(function: Callable[..., Any], name: str) -> None:
    if isinstance(function, RemoteFunction):
        raise OptionError(f"{name} is a remote function already; write {name}.options(…) for another one like it")
    inner = getattr(function, "__func__", function)  # of a method, a class method, a static method
    if not callable(inner):
        raise OptionError(f"@remote goes on a function, not on {type(function).__name__}; options are named: plan=…")
    call = inner if inspect.isroutine(inner) or hasattr(inner, "func") else type(inner).__call__
    if inspect.isasyncgenfunction(call) or inspect.isgeneratorfunction(call):
        raise OptionError(
            f"{name} is a generator, whose values cannot be sent one by one; return a list, "
            "or call a function that returns one value once for each"
        )
    if inspect.iscoroutinefunction(call):
        raise OptionError(
            f"{name} is a coroutine function; write `def {name}(…)` and `asyncio.run(…)` inside it. "
            "Its future can be awaited all the same"
        )


def _name(function: Callable[..., Any]) -> str:
    inner = getattr(function, "func", function)  # functools.partial
    return str(getattr(inner, "__name__", type(inner).__name__))


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # a class method before it is bound, and some functions written in C, tell nothing
        return inspect.signature(lambda *_args, **_kwargs: None)
