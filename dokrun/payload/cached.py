"""What functions of `__main__` depend on, beside their arguments: which of them may be kept while others change.

In a notebook the cell with `infer` is run again and again, and the model that it gets from a cached `load` shall be
loaded once. So `load` is pickled on its own, and a worker that has it goes on with what it has cached. That is as if
nothing had happened as long as `load` depends on code and constants alone: it has its globals for itself then, and
would not see what others do to a variable that they share. Where it might, it travels with them, and begins anew.

A function of that kind needs no pickling again, either, as long as it refers to the very same objects.
"""

from __future__ import annotations

import dis
import enum
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType, NoneType
from typing import Any

from dokrun.payload.source import MAIN

Cached = functools._lru_cache_wrapper  # noqa: SLF001 - it has no public name

_CONSTANTS = (str, bytes, int, float, complex, range, NoneType, PurePath, enum.Enum, logging.Logger)
# A class that was pickled by value is one and the same wherever it is unpickled again.
_CODE = (FunctionType, BuiltinFunctionType, ModuleType, type)
_WRITES = ("STORE_GLOBAL", "DELETE_GLOBAL")


def is_cached(value: object) -> bool:
    """Tell whether it is a function of `__main__` behind `functools.cache` or `lru_cache`."""
    return isinstance(value, Cached) and value.__module__ in MAIN


def stands_alone(cached: Cached[Any], caller: Callable[..., Any]) -> bool:
    """Tell whether a cached function depends on code and constants alone, which one that refers to it does not change.

    Only where its name is its own: functions that were made in others share theirs.
    """
    if "<" in cached.__qualname__:
        return False
    functions = list(_functions(cached))
    if not all(_is_constant(one) for function in functions for one in _references(function)):
        return False
    names = {name for function in functions for name in _names(function.__code__)}
    return names.isdisjoint(name for function in _functions(caller) for name in _written(function.__code__))


def constants_of(function: Callable[..., Any]) -> list[object] | None:
    """Tell all that a function of `__main__` is and refers to; None where that is more than code and constants.

    As long as each of these objects is the same, so is the function's pickle.
    """
    found: list[object] = []
    for one in _functions(function):
        references = _references(one)
        if not all(_is_constant(each) and not _is_own_class(each) for each in references):
            return None
        found += [one, one.__code__, *references]
    return found or None


def _functions(first: object) -> Iterator[FunctionType]:
    """Yield a function of `__main__`, and those that it leads to."""
    seen: set[int] = set()
    left = [first]
    while left:
        one = left.pop()
        if getattr(one, "__module__", None) not in MAIN or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, FunctionType):
            yield one
            left += _references(one)
        elif isinstance(one, type):
            left += vars(one).values()
        else:  # a method, or what a decorator has made
            left += [getattr(one, name, None) for name in ("__wrapped__", "__func__")]


def _references(function: FunctionType) -> list[Any]:
    found = [function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            pass  # it is empty
    return [*found, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]


def _is_constant(value: Any) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_constant, value))
    return isinstance(value, (*_CONSTANTS, *_CODE)) or is_cached(value)


def _is_own_class(value: Any) -> bool:
    """Tell whether it is a class of `__main__`: what it is changes while it stays the same object."""
    return isinstance(value, type) and value.__module__ in MAIN


@functools.lru_cache(1024)
def _names(code: CodeType) -> frozenset[str]:
    """Tell what is named in some code: its globals, and more."""
    return frozenset(name for one in _codes(code) for name in one.co_names)


@functools.lru_cache(1024)
def _written(code: CodeType) -> frozenset[str]:
    """Tell which globals some code writes to."""
    steps = (step for one in _codes(code) for step in dis.get_instructions(one))
    return frozenset(str(step.argval) for step in steps if step.opname in _WRITES)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
