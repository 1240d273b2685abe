"""From the words behind `dokrun run script.py:train` to the function's arguments, read as its annotations say.

    dokrun run script.py:train data.csv --epochs 3 --learning-rate=1e-3 --verbose --no-cache --layers 64 --layers 32

A word that begins with dashes is a parameter's name, and the next one its value; words without are the parameters in
their order. Text, numbers, paths, members of an enumeration and true or false are read as such, lists from an option
that comes several times, everything else from JSON.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dokrun.errors import OptionError, suggest

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_NUMBER = re.compile(r"-\.?[0-9].*")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_NONE = ("none", "null")
_MANY = (list, tuple, set, frozenset)


class Arguments(NamedTuple):
    """What a function is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Cannot(Exception):
    """A text is not of a type; says what would be."""


def read(function: Callable[..., Any], name: str, words: Sequence[str]) -> Arguments:
    """Read the arguments of a function of this name.

    Raises:
        OptionError: a name is none of its parameters, or a value is not what its annotation says.
    """
    return _Reader(function, name).read(words)


def names(function: Callable[..., Any]) -> list[str]:
    """Tell the names of a function's parameters."""
    return list(inspect.signature(function).parameters)


def told(function: Callable[..., Any], name: str) -> str:
    """Tell how the function is called, for `--help` behind its name."""
    reader = _Reader(function, name)
    lines = [f"Usage: dokrun run [OPTIONS] FILE:{name} [ARGUMENT...]", ""]
    documented = inspect.getdoc(function)
    if documented:
        lines += [*(f"  {line}".rstrip() for line in documented.splitlines()), ""]
    lines.append("Arguments:" if reader.parameters else "It takes no arguments.")
    for parameter in reader.parameters.values():
        kind = reader.hints.get(parameter.name, Any)
        of = "" if kind is Any else f"  {_wanted(kind)}"
        # Not the default itself: it may be a secret.
        optional = "" if parameter.default is parameter.empty else "  (optional)"
        lines.append(f"  --{_option(parameter.name)}{of}{optional}")
    return "\n".join(lines)


class _Reader:
    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._name = name
        self.parameters = dict(inspect.signature(function).parameters)
        try:
            self.hints = typing.get_type_hints(function)
        except Exception:  # noqa: BLE001 - an annotation may be any expression, and name what is not there
            self.hints = {}
        self._args: list[Any] = []
        self._texts: dict[str, list[str]] = {}
        self._kwargs: dict[str, Any] = {}

    def read(self, words: Sequence[str]) -> Arguments:
        left, only_positional = list(words), False
        while left:
            word = left.pop(0)
            if word == "--" and not only_positional:
                only_positional = True
            elif only_positional or not word.startswith("-") or _NUMBER.fullmatch(word) or word == "-":
                self._positional(word)
            else:
                self._named(word, left)
        for name, texts in self._texts.items():
            self._kwargs[name] = self._value(name, texts)
        return Arguments(tuple(self._args), self._kwargs)

    def _positional(self, word: str) -> None:
        free = [one for one in self.parameters.values() if one.kind in _POSITIONAL]
        if len(self._args) < len(free):
            self._args.append(self._value(free[len(self._args)].name, [word]))
            return
        rest = next((one for one in self.parameters.values() if one.kind is one.VAR_POSITIONAL), None)
        if rest is None:
            raise OptionError(f"{self._name} takes {len(free)} arguments, and {word!r} is one more")
        self._args.append(self._value(rest.name, [word]))

    def _named(self, word: str, left: list[str]) -> None:
        option, equals, text = word.lstrip("-").partition("=")
        name = option.replace("-", "_")
        if name not in self._known() and name.startswith("no_") and self._is_flag(name[3:]) and not equals:
            self._texts[name[3:]] = ["false"]
            return
        if name not in self._known() and not self._takes_any_name():
            known = suggest(option, map(_option, self._known()))
            raise OptionError(
                f"{self._name} has no parameter {option!r}{known}; dokrun's own options stand before the function"
            )
        if not equals:
            if self._is_flag(name):
                text = "true"
            elif left:
                text = left.pop(0)
            else:
                raise OptionError(f"--{option} of {self._name} has no value; write --{option} VALUE")
        self._texts.setdefault(name, []).append(text)

    def _known(self) -> list[str]:
        return [one.name for one in self.parameters.values() if one.kind in _BY_NAME]

    def _takes_any_name(self) -> bool:
        return any(one.kind is one.VAR_KEYWORD for one in self.parameters.values())

    def _is_flag(self, name: str) -> bool:
        kinds = _alternatives(self.hints.get(name, Any))
        if bool in kinds:
            return True
        parameter = self.parameters.get(name)
        return name not in self.hints and parameter is not None and isinstance(parameter.default, bool)

    def _value(self, name: str, texts: list[str]) -> Any:
        kind = self.hints.get(name, Any)
        if kind is Any and name in self.parameters and isinstance(self.parameters[name].default, bool):
            kind = bool
        try:
            many = _many(kind, texts)
            return _one(kind, texts[-1]) if many is None else many
        except _Cannot as wanted:
            shown = ", ".join(map(repr, texts))
            raise OptionError(f"--{_option(name)} of {self._name} cannot be {shown}: write {wanted}") from None


def _many(kind: Any, texts: list[str]) -> Any:
    """Read a list whose members are said one by one; None where the type is none, or one text tells it all."""
    if len(texts) == 1 and texts[0].lstrip().startswith(("[", "{")):
        return None
    for one in _alternatives(kind):
        origin = typing.get_origin(one) or one
        if origin in _MANY:
            inner = [each for each in typing.get_args(one) if each is not Ellipsis]
            if origin is tuple and len(inner) > 1 and typing.get_args(one)[-1] is not Ellipsis:
                if len(inner) != len(texts):
                    raise _Cannot(f"{len(inner)} values, each with the option's name before it")
                return tuple(_one(of, text) for of, text in zip(inner, texts, strict=True))
            return origin(_one(inner[0] if inner else Any, text) for text in texts)
    return None


def _one(kind: Any, text: str) -> Any:
    alternatives = _alternatives(kind)
    if types.NoneType in alternatives and text.lower() in _NONE:
        return None
    wanted = []
    for each in alternatives:
        if each is types.NoneType:
            continue
        try:
            return _plain(each, text)
        except _Cannot as cannot:
            wanted.append(str(cannot))
    raise _Cannot(" or ".join(dict.fromkeys(wanted)))


def _plain(kind: Any, text: str) -> Any:
    if kind is bool:
        return _chosen({**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}, text.lower(), "true or false")
    if typing.get_origin(kind) is typing.Literal:
        return _chosen({str(value): value for value in typing.get_args(kind)}, text)
    if not isinstance(kind, type):
        return _from_json(kind, text)
    if issubclass(kind, Enum):
        return _chosen({**{str(one.value): one for one in kind}, **kind.__members__}, text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise _Cannot("a whole number" if kind is int else "a number") from None
    return kind(text) if kind is str or issubclass(kind, Path) else _from_json(kind, text)


def _from_json(kind: Any, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        if kind in (Any, object):
            return text
        # As of a date, or an exact number.
        value = text
    if kind in (Any, object):
        return value
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _Cannot(f"{_name(kind)} as JSON ({error})") from None
    except TypeError:
        if isinstance(value, str) and value == text:
            raise _Cannot("it as JSON") from None
        return value  # what msgspec does not know is left to the function


def _chosen(known: dict[str, Any], text: str, words: str = "") -> Any:
    if text not in known:
        raise _Cannot(words or f"one of {', '.join(known)}")
    return known[text]


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Tell the types that a value may have: those of a union, or the one."""
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        # Whatever is written is a text as well.
        return tuple(sorted(typing.get_args(kind), key=lambda each: each is str))
    return (kind,)


def _name(kind: Any) -> str:
    return str(kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else kind).replace("typing.", "")


def _wanted(kind: Any) -> str:
    """Tell a type as what may be written: of an enumeration, its members."""
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(one.value) for one in kind)
    return _name(kind)


def _option(name: str) -> str:
    return name.replace("_", "-")
