"""Pickle functions and arguments, and say where inside a value the part lies that cannot be pickled."""

from __future__ import annotations

import functools
import inspect
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from dokrun.errors import NotSerializable
from dokrun.given import File, Put, path_of, value_of
from dokrun.living import kept
from dokrun.payload.cached import Cached, is_cached, stands_alone
from dokrun.shim.beside import Beside
from dokrun.shim.envelope import SMALLEST_BUFFER, Segment, dump_value

# A search that tries to pickle every part of a value: deep enough to name what a person can find, and never endless.
_MAX_DEPTH = 8
_MAX_PARTS = 10_000
# What cloudpickle writes from 3.1.3 on in place of the file that code was read from.
_NO_FILE = "<dynamic-code>"


class Serializer:
    """Pickles what one job sends.

    `modules` gathers the names of the modules that the pickles refer to, which the container must be able to import.
    """

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self._given: dict[str, Segment] = {}
        # The function that is being pickled, and the cached ones that are, in it, on their own.
        self._function: Callable[..., Any] | None = None
        self._alone: list[Cached[Any]] = []
        if "__mp_main__" in sys.modules:
            # What `__main__` is called in a process that multiprocessing has spawned; nobody else can import it either.
            cloudpickle.register_pickle_by_value(sys.modules["__mp_main__"])

    def arguments(
        self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[Segment]:
        """Pickle a call's arguments: the pickle first, then its out-of-band buffers, which stay where they lie.

        Raises:
            NotSerializable: names the argument and the path inside it, as in `argument cfg.logger: cannot pickle …`.
        """
        try:
            given = tuple(map(apart, args)), {name: apart(value) for name, value in kwargs.items()}
            return dump_value(given, self._dumps)
        except Exception as error:
            bound = signature.bind(*args, **kwargs).arguments
            raise _not_serializable("argument", bound.items(), error) from error

    def function(self, function: Callable[..., Any], name: str) -> list[Segment]:
        """Pickle a function by value, with what it refers to.

        Raises:
            NotSerializable: names the global or the closure variable that cannot be pickled.
        """
        self._function = function
        try:
            return dump_value(function, self._dumps)
        except Exception as error:
            raise _not_serializable(f"function {name}:", _references(function), error) from error
        finally:
            self._function = None

    def _dumps(self, value: Any, **options: Any) -> bytes:
        file = io.BytesIO()
        Pickler(file, self, **options).dump(value)
        return file.getvalue()

    def value(self, value: Any) -> list[Segment]:
        """Pickle a value on its own. Raises NotSerializable, which names the path inside it."""
        try:
            return dump_value(value, self._dumps)
        except Exception as error:
            raise _not_serializable("value", [(type(value).__name__, value)], error) from error

    def take_given(self) -> list[Segment]:
        """Tell what lies beside the pickles made since this was asked last: files, and values that were put."""
        given, self._given = self._given, {}
        return list(given.values())

    def cached(self, function: Cached[Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Tell how the container makes a function of `__main__` with a cache, or finds that it has it."""
        parameters, caller = function.cache_parameters(), self._function
        if caller is None or function in self._alone or not stands_alone(function, caller):
            # By its name, as it asks for, it could not be found in another process's `__main__`.
            return functools.lru_cache(**parameters), (function.__wrapped__,)
        self._alone.append(function)
        try:
            pickled = self._dumps(function.__wrapped__)
        finally:
            self._alone.pop()
        return kept, (function.__qualname__, pickled, parameters)

    def place(self, given: Put | File) -> tuple[Callable[..., Any], tuple[str, ...]]:
        """Note what a call is given. Tells how the container finds it."""
        if isinstance(given, Put):
            self.modules.update(given.modules)
            self._given |= {piece.sha256: Segment(*piece) for piece in (*given.pieces, *given.beside)}
            return value_of, tuple(piece.sha256 for piece in given.pieces)
        piece = given.piece()
        if piece.sha256 not in self._given:
            self._given[piece.sha256] = Segment(*piece, given.data())
        return path_of, (piece.sha256, given.path.name)


class _Apart:
    """Bytes whose pickle refers to a buffer, as an array's does: they are not copied, and many calls can share them."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return bytes, (pickle.PickleBuffer(self._value),)


def apart(argument: Any) -> Any:
    """Let bytes that are an argument of their own be no part of its pickle, where they are many."""
    return _Apart(argument) if type(argument) is bytes and len(argument) >= SMALLEST_BUFFER else argument


class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # cloudpickle has no types
    """A cloudpickler that notes whose module each class, function and module is that it meets."""

    def __init__(self, file: io.BytesIO, serializer: Serializer, **options: Any) -> None:
        super().__init__(file, **options)
        self._serializer = serializer
        self._modules = serializer.modules
        self._beside = Beside(bring_home=False)

    def reducer_override(self, value: Any) -> Any:
        """Tell how a value is pickled."""
        if isinstance(value, (Put, File)):
            return self._serializer.place(value)
        found = self._beside.reduce(value)
        if found is not NotImplemented:
            return found
        if isinstance(value, ModuleType):
            self._modules.add(value.__name__)
        elif isinstance(value, (type, FunctionType)) and isinstance(value.__module__, str):
            self._modules.add(value.__module__)
        elif is_cached(value):
            return self._serializer.cached(value)
        elif isinstance(value, CodeType):
            return _with_its_file(value, self.dispatch_table[CodeType](value))
        return super().reducer_override(value)


def _with_its_file(code: CodeType, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let tracebacks name the file that code stands in, whatever cloudpickle says of it."""
    made, arguments, *rest = reduced
    return (made, tuple(code.co_filename if part == _NO_FILE else part for part in arguments), *rest)


def _not_serializable(what: str, parts: Any, error: Exception) -> NotSerializable:
    budget = iter(range(_MAX_PARTS))
    for name, value in parts:
        reason = _problem(value)
        if reason is not None:
            path, reason = _deepest(name, value, reason, _MAX_DEPTH, budget)
            return NotSerializable(
                f"{what} {path}: {reason}; make it inside the function, or pass what it is made from"
            )
    return NotSerializable(f"{what.rstrip(':')}: {_message(error)}")


def plain_pickle(value: Any) -> bytes:
    """Pickle a value into one piece, for a file that `pickle.load` reads.

    Raises:
        NotSerializable: it cannot be pickled.
    """
    try:
        return bytes(cloudpickle.dumps(value, protocol=5))
    except Exception as error:
        raise NotSerializable(f"the value cannot be pickled: {_message(error)}") from error


def _deepest(path: str, value: Any, reason: str, depth: int, budget: Iterator[int]) -> tuple[str, str]:
    if depth == 0:
        return path, reason
    for step, part in _parts(value):
        if next(budget, None) is None:
            break
        inner = _problem(part)
        if inner is not None:
            return _deepest(path + step, part, inner, depth - 1, budget)
    return path, reason


def _problem(value: Any) -> str | None:
    try:
        # Buffers are left out on purpose: they always travel, and copying them here would cost memory.
        cloudpickle.CloudPickler(io.BytesIO(), protocol=5, buffer_callback=lambda _buffer: None).dump(value)
    except Exception as error:  # noqa: BLE001 - pickling runs the user's code, which may raise anything
        return _message(error)
    return None


def _message(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory to pickle it"
    text = str(error)
    return text[:1].lower() + text[1:] if text else type(error).__name__


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value is made of, with the step that leads to it: `.name`, `["key"]`, `[0]`."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"[{key if isinstance(key, (str, int)) else type(key).__name__!r}]", part
    elif isinstance(value, (list, tuple, set, frozenset)):
        for position, part in enumerate(value):
            yield f"[{position}]", part
    elif callable(value) and hasattr(value, "__code__"):
        for name, part in _references(value):
            yield f".{name}", part
    elif (
        isinstance(getattr(value, "__dict__", None), dict)
        and getattr(type(value), "__reduce__", None) is object.__reduce__
    ):
        for name, part in vars(value).items():
            yield f".{name}", part


def _references(function: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a function refers to: its closure, its globals, its defaults, and the instance of a method."""
    if inspect.ismethod(function):
        yield "self", function.__self__
        function = function.__func__
    inner = getattr(function, "func", None)
    if inner is not None:  # functools.partial
        yield "func", inner
        yield "args", function.args
        yield "keywords", function.keywords
        return
    try:
        found = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        return
    yield from found.nonlocals.items()
    yield from found.globals.items()
    for position, default in enumerate(getattr(function, "__defaults__", None) or ()):
        yield f"default {position}", default
