"""What a remote function does besides being sent: it runs here, all the way or in part, and tells what it would cost.

In the container this file is there too, for modules that put `@remote` on their functions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sized
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from dokrun.errors import OptionError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from dokrun.cost import Quote
    from dokrun.map import GivenPacking

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Rehearsal(Generic[P, R_co]):
    """A remote function whose calls run here: the same pickles, the same files of yours, the same shim.

    A missing file, a value that cannot be pickled, an exception: all show before a GPU is paid for. Both ways raise
    what `future.result()` would, and before that OptionError and NotSerializable as a call does.
    """

    def __init__(self, run: Callable[..., R_co]) -> None:
        self._run = run

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run it in a child process, with this machine's Python and its installed packages."""
        return self._run(args, kwargs, container=False)

    def in_container(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run it in a container of the local Docker engine, in the call's own image. Raises ImageError too."""
        return self._run(args, kwargs, container=True)


class Quoting(Generic[P]):
    """A remote function whose calls tell what they would cost: written as the call, with `.quote` before it.

        print(train.quote(config))
        print(train.quote.map(configs))

    What is expected comes from this machine's past calls of a function of that name on the plan, whatever they were
    called with. Nothing is sent but the question what the plans cost.
    """

    def __init__(
        self,
        call: Callable[[tuple[Any, ...], dict[str, Any]], Quote],
        many: Callable[[int, GivenPacking], Quote],
    ) -> None:
        self._call = call
        self._many = many

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Quote:
        """Tell what a call costs.

        Raises:
            OptionError: as the call itself does.
            ApiError: the service does not tell its prices.
        """
        return self._call(args, kwargs)

    def map(self, *iterables: Iterable[Any], **packing: Unpack[GivenPacking]) -> Quote:
        """Tell what a map costs, packed as `map` would: all its tasks together.

        Raises:
            OptionError: as `map` itself does; or no iterable knows its length, which counting would use up.
            ApiError: the service does not tell its prices.
        """
        sizes = [size for size in map(size_of, iterables) if size is not None]
        if not sizes:
            raise OptionError("quote.map counts its items, and would use these up; give it a list of them")
        return self._many(min(sizes), packing)


def size_of(items: Iterable[Any]) -> int | None:
    """Tell how many items there are, None where that cannot be told without using them up."""
    try:
        return len(items) if isinstance(items, Sized) else None
    except TypeError:  # of another map, for one
        return None


def here(args: Any, kwargs: Any, profile: str | None, *, files: bool = True) -> tuple[Any, Any]:
    """Put values in the place of what `dok.put` made of them, and paths in that of files, for a call that runs here."""
    given = sys.modules.get("dokrun.given")
    if given is None:
        return args, kwargs  # nobody has made any

    def own(argument: Any) -> Any:
        if isinstance(argument, given.Put):
            from dokrun import engine

            return engine.get(profile).load(argument)
        return argument.path if files and isinstance(argument, given.File) else argument

    return tuple(map(own, args)), {name: own(argument) for name, argument in kwargs.items()}
