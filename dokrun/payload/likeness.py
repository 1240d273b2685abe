"""Whether two calls are alike: the same code with the same arguments, told from one process to another.

A pickle is no measure of that: what cloudpickle writes of a function holds the file that it was read from, which for a
notebook's cell is another one with each kernel, and of a class a number of its own. So both are told by what they are
made of. Where it cannot be told, or sets of texts come in another order, two calls that are alike are not seen to be.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FunctionType
from typing import Any

from dokrun.payload.serialize import Pickler, Serializer, apart

# What cloudpickle knows a class by, in one process.
_TRACKED = re.compile("[0-9a-f]{32}")


def likeness(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], others: Iterable[str]
) -> str:
    """Tell what is the same for calls that are alike; nothing where that cannot be told.

    Args:
        function: what is called.
        args: what it is called with.
        kwargs: likewise.
        others: what else must be the same: where the call shall run, and the digests of what goes along beside the
            pickles, which are files and the contents of large arrays.
    """
    file = io.BytesIO()
    called = function, tuple(map(apart, args)), {name: apart(value) for name, value in kwargs.items()}
    try:
        _Pickler(file, Serializer(), protocol=5, buffer_callback=lambda _: None).dump(called)
    except Exception:  # noqa: BLE001 - pickling runs the user's code, which has gone well when the call was sent
        return ""
    digest = hashlib.sha256(file.getvalue())
    for other in others:
        digest.update(other.encode())
    return digest.hexdigest()


class _Pickler(Pickler):
    """Writes what functions and classes of `__main__` are made of, and of code nothing of where it stands."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, CodeType):
            return _told, _parts(value)
        reduced = super().reducer_override(value)
        if isinstance(value, (FunctionType, type)) and isinstance(reduced, tuple):
            made, arguments, *rest = reduced
            plain = tuple("" if isinstance(it, str) and _TRACKED.fullmatch(it) else it for it in arguments)
            return (made, plain, *rest)
        return reduced


def _parts(code: CodeType) -> tuple[Any, ...]:
    constants = tuple(sorted(map(repr, it)) if isinstance(it, frozenset) else it for it in code.co_consts)
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
    names = code.co_name, code.co_names, code.co_varnames, code.co_freevars
    return code.co_name, code.co_code, constants, names, counts, code.co_flags


def _told(*parts: Any) -> Any:
    """Stand for some code; nobody ever reads such a pickle."""
    raise pickle.UnpicklingError(f"{parts[0]} is told only to be compared")
