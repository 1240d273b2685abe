"""A notebook's cell that runs elsewhere: what it reads goes with it, what it assigns comes back.

In the container this file is there too: it is standard library only, but for the shim's own pickler.

A cell runs as a module's code does, in a namespace that the notebook's own functions have there as theirs. What comes
back finds the notebook's namespace again: a function that the cell has defined reads the notebook's variables, as if it
had been defined there.
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import io
import linecache
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from dokrun.shim.report import Pickler

# What a cell's last line has come to, among what it brings; no name of anybody's is empty.
VALUE = ""


class Cell:
    """What a cell is, for the container.

    Args:
        anchor: a function of the notebook: whatever else of the notebook's goes along shares its namespace.
        body: the compiled cell, without its last line where that is an expression.
        last: that one, compiled; None where there is none.
        names: what of the notebook's the cell reads.
        assigned: the names that it may assign or delete.
        deleted: the names that it may delete, each of which it reads or assigns: one that is not there then is deleted.
        filename: what it is called in tracebacks.
        source: its text.
    """

    def __init__(
        self,
        anchor: Callable[[], None],
        body: types.CodeType,
        last: types.CodeType | None,
        *,
        names: Mapping[str, Any],
        assigned: frozenset[str],
        deleted: frozenset[str],
        filename: str,
        source: str,
    ) -> None:
        self.anchor = anchor
        self.body = body
        self.last = last
        self.names = dict(names)
        self.assigned = assigned
        self.deleted = deleted
        self.filename = filename
        self.source = source

    def run(self) -> Brought:
        """Run it, and tell what it has come to."""
        remember(self.filename, self.source)
        home = self.anchor.__globals__
        home.update(self.names)
        home.setdefault("__builtins__", builtins)
        before = set(home)
        if any(code.co_flags & inspect.CO_COROUTINE for code in (self.body, self.last) if code is not None):
            value = asyncio.run(self._run(home))
        else:
            exec(self.body, home)  # noqa: S102 - it is the user's, and its payload was verified
            value = None if self.last is None else eval(self.last, home)  # noqa: S307 - likewise
        wanted = {name for name in home if not name.startswith("__") and (name in self.assigned or name not in before)}
        names = {name: home[name] for name in wanted}
        if value is not None:
            names[VALUE] = value
        return Brought(names, home, deleted=self.deleted - set(home))

    async def _run(self, home: dict[str, Any]) -> Any:
        value: Any = None
        for code in (self.body, self.last):
            value = None if code is None else eval(code, home)  # noqa: S307 - likewise
            if code is not None and code.co_flags & inspect.CO_COROUTINE:
                value = await value
        return value


class Brought:
    """What a cell has come to: values by name, the modules that it has imported, and what cannot be brought.

    Attributes:
        names: the values; under `VALUE` the last line's.
        modules: what its names for modules stand for.
        left: why others did not come, by their names.
        deleted: the names that are no more.
    """

    def __init__(
        self,
        names: Mapping[str, Any],
        home: dict[str, Any] | None = None,
        *,
        modules: Mapping[str, str] | None = None,
        left: Mapping[str, str] | None = None,
        deleted: frozenset[str] = frozenset(),
    ) -> None:
        self.names = dict(names)
        self.modules = dict(modules or {})
        self.left = dict(left or {})
        self.deleted = deleted
        self._home = {} if home is None else home

    def __reduce_ex__(self, _protocol: Any) -> Any:
        values = dict(self.names)
        modules = {name: values.pop(name).__name__ for name, it in self.names.items() if inspect.ismodule(it)}
        left: dict[str, str] = {}
        try:
            pickled, buffers = _dumps(values, self._home)
        except Exception:  # noqa: BLE001 - pickling runs the user's code, which may raise anything
            for name, value in self.names.items():
                problem = _problem(value, self._home) if name in values else None
                if problem is not None:
                    left[name] = problem
                    del values[name]
            pickled, buffers = _dumps(values, self._home)
        return _brought, (pickled, buffers, {**self.modules, **modules}, {**self.left, **left}, self.deleted)

    def __repr__(self) -> str:
        """Tell the names."""
        return f"<what a cell has brought: {', '.join(sorted({*self.names, *self.modules} - {VALUE})) or 'nothing'}>"


def remember(filename: str, source: str) -> None:
    """Let tracebacks show the cell's lines."""
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)


class _Home(dict[str, Any]):
    """Stands for the namespace that the cell ran in: where its values come to, it is `__main__`'s."""

    def __reduce__(self) -> Any:
        return _main, ()


def _main() -> dict[str, Any]:
    return vars(sys.modules["__main__"])


class _Pickler(Pickler):
    """Pickles what goes back: functions of the cell's namespace come without copies of what they refer to."""

    def __init__(self, file: io.BytesIO, home: dict[str, Any], **options: Any) -> None:
        super().__init__(file, **options)
        self._home = home
        self.globals_ref[id(home)] = _Home()

    def reducer_override(self, value: Any) -> Any:
        reduced = super().reducer_override(value)
        if isinstance(value, types.FunctionType) and value.__globals__ is self._home and isinstance(reduced, tuple):
            _, slots = reduced[2]
            slots["__globals__"] = {}
        return reduced


def _dumps(values: Mapping[str, Any], home: dict[str, Any]) -> tuple[bytes, list[pickle.PickleBuffer]]:
    file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(file, home, protocol=5, buffer_callback=buffers.append).dump(dict(values))
    return file.getvalue(), buffers


def _problem(value: Any, home: dict[str, Any]) -> str | None:
    try:
        _dumps({VALUE: value}, home)
    except Exception as error:  # noqa: BLE001 - likewise
        return str(error) or type(error).__name__
    return None


def _brought(
    pickled: bytes, buffers: list[Any], modules: dict[str, str], left: dict[str, str], deleted: frozenset[str]
) -> Brought:
    names = pickle.loads(pickled, buffers=buffers)  # noqa: S301 - it is of a report that was verified
    return Brought(names, modules=modules, left=left, deleted=deleted)
