"""Tell which files would go along with a function, without sending anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dokrun.payload import source
from dokrun.payload.serialize import Serializer


def explain(
    function: Callable[..., Any], name: str, *, include: Iterable[str] = (), exclude: Iterable[str] = ()
) -> source.Source:
    """List the files that a call of a function would send, but for those that only its arguments need.

    Raises:
        NotSerializable: the function cannot be pickled.
        OptionError: an `include` matches no file.
    """
    serializer = Serializer()
    where = source.locate(function)
    if where is None:
        serializer.function(function, name)
    else:
        serializer.modules.add(where.module)
    return source.collect(
        serializer.modules, module=source.module_of(function), name=name, include=include, exclude=exclude
    )
