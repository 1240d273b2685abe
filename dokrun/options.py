"""What can be said about a call in `@remote(…)` or in the profile's `[defaults]`: checked where it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeAlias, TypedDict

from dokrun.errors import OptionError, suggest
from dokrun.image.spec import Image
from dokrun.port import Http
from dokrun.retry import Retry
from dokrun.secret import Secret
from dokrun.shim.protocol import RESERVED_PREFIXES

Duration: TypeAlias = "timedelta | str | int | float"

DEFAULT_TIMEOUT_S = 3600.0
LONGEST_S = 365 * 86400.0
# Keys and values of a container's environment together hold fewer characters than this, the service says. Some of them
# are dokrun's own: ids and digests.
ENVIRONMENT_CHARS = 8192
OWN_ENVIRONMENT_CHARS = 1024

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


class GivenOptions(TypedDict, total=False):
    """The options as the user writes them, for those who read types; None is as if nothing were said."""

    plan: str | None
    image: Image | str | None
    timeout: Duration | None
    env: Mapping[str, str] | None
    tags: Iterable[str] | None
    include: Iterable[str] | None
    exclude: Iterable[str] | None
    name: str | None
    profile: str | None
    retries: int | Retry | None
    secrets: Iterable[str] | Mapping[str, str] | None
    detach: bool | None
    max_yen: Decimal | float | None
    session: Any
    linger: bool | None
    http: int | Http | None


@dataclass(frozen=True)
class Options:
    """The options of a remote function. None and empty mean: the profile's default, else dokrun's.

    `timeout_s` is how long one call may take, in seconds; one hour where nothing says otherwise. `max_yen` is what it
    may cost in all its attempts, or what a map's task may. Of `secrets`, None
    stands for what this process's environment has when the function is called.
    """

    plan: str | None = None
    image: Image | str | None = None
    timeout_s: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    name: str | None = None
    profile: str | None = None
    retries: Retry | None = None
    secrets: Mapping[str, Secret | None] = field(default_factory=dict)
    detach: bool | None = None
    max_yen: Decimal | None = None
    session: Any = None
    linger: bool | None = None
    http: Http | None = None

    def updated(self, given: Mapping[str, Any]) -> Options:
        """Make a copy with what is given, as the user writes it; None takes back what was said before.

        Raises:
            OptionError: an option is not known, or its value is wrong.
        """
        return replace(self, **_checked(given))

    def over(self, defaults: Options) -> Options:
        """Make a copy with the profile's defaults where this says nothing; environments and lists are joined."""
        mine = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        lists = {name: (*getattr(defaults, name), *getattr(self, name)) for name in ("tags", "include", "exclude")}
        maps = {name: {**getattr(defaults, name), **getattr(self, name)} for name in ("env", "secrets")}
        return replace(defaults, **{**mine, **lists, **maps})


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for name, value in given.items():
        check = _CHECKS.get(name)
        if check is None:
            raise OptionError(f"@remote has no option {name!r}{suggest(name, _CHECKS)}")
        key = "timeout_s" if name == "timeout" else name
        checked[key] = getattr(Options(), key) if value is None else check(name, value)
    return checked


def seconds(name: str, value: Duration) -> float:
    """Read a duration: a timedelta, a number of seconds, or text such as "90s", "15m", "1h30m", "2d".

    Raises:
        OptionError: it cannot be read, or is not positive.
    """
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        result = float(value)
    elif isinstance(value, str) and re.fullmatch(rf"(?:{_DURATION.pattern}\s*)+", value.strip()):
        result = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(value))
    else:
        raise OptionError(
            f'{name}={value!r} is not a duration; write "90s", "15m", "1h30m", a number of seconds or a timedelta'
        )
    if not 0 < result <= LONGEST_S:
        raise OptionError(f"{name}={value!r} must be more than zero, and a year at most")
    return result


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise OptionError(f"{name}={value!r} must be a text that is not empty")
    return value


def _environment(name: str, value: object) -> dict[str, str]:
    given = _mapping(name, value)
    for key, text in given.items():
        if key.startswith(RESERVED_PREFIXES):
            raise OptionError(f"{name}= sets {key!r}, but names that begin with SAKURA_ and DOKRUN_ are reserved")
        if not key or "=" in key or "\0" in key + text:
            raise OptionError(f"{name}= sets {key!r}, which is not a name that an environment can hold")
    size = sum(len(key) + len(text) for key, text in given.items())
    if size > ENVIRONMENT_CHARS - OWN_ENVIRONMENT_CHARS:
        limit = ENVIRONMENT_CHARS - OWN_ENVIRONMENT_CHARS
        raise OptionError(f"{name}= holds {size} characters, and {limit} fit; pass large values as arguments")
    return given


def _texts(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise OptionError(f"{name}={value!r} must be a list of texts")
    return tuple(_text(name, text) for text in value)


def _retries(name: str, value: object) -> Retry:
    if isinstance(value, Retry):
        return value
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise OptionError(f"{name}={value!r} must be a whole number, 0 or more, or a dok.Retry(…)")
    return Retry(value)


def _http(name: str, value: object) -> Http:
    if isinstance(value, Http):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise OptionError(f"{name}={value!r} must be the number of a port, or a dok.Http(…); as in {name}=8000")
    return Http(value)


def _secrets(name: str, value: object) -> dict[str, Secret | None]:
    """Read secrets: names of variables here, or names with their values. No message shows a value."""
    if isinstance(value, Mapping):
        given = _mapping(name, value)
        wrong = [f"{name}= sets {key!r}, which is" for key in given if not _may_be_secret(key)]
        told: dict[str, Secret | None] = {key: Secret(text) for key, text in given.items()}
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        names = list(value)
        # Which one, and not what it says: it may be a value that stands where its name should.
        wrong = [f"{name}[{place}] is" for place, key in enumerate(names) if not _may_be_secret(key)]
        told = {} if wrong else dict.fromkeys(names)
    else:
        raise OptionError(f"{name}= must be a list of names, or map names to texts; as in {name}=['HF_TOKEN']")
    if wrong:
        raise OptionError(f"{wrong[0]} no name that a variable of yours can have; as in {name}=['HF_TOKEN']")
    return told


def _may_be_secret(key: object) -> bool:
    """Tell whether this can be the name of a variable that is the user's own."""
    return isinstance(key, str) and bool(_VARIABLE.fullmatch(key)) and not key.startswith(RESERVED_PREFIXES)


def _mapping(name: str, value: object) -> dict[str, str]:
    """Read names and texts. No message shows a text, nor what stands in place of one."""
    if not isinstance(value, Mapping):
        raise OptionError(f'{name}= must map names to texts; as in {name}={{"NAME": "text"}}')
    for key, text in value.items():
        if not isinstance(key, str):
            raise OptionError(f"{name}= has {key!r} for a name, which must be a text")
        if not isinstance(text, str):
            raise OptionError(f"{name}= must map names to texts, and {key!r} is mapped to {type(text).__name__}")
    return dict(value)


def flag(name: str, value: object) -> bool:
    """Read what is true or false. Raises OptionError."""
    if not isinstance(value, bool):
        raise OptionError(f"{name}={value!r} must be True or False")
    return value


def count(name: str, value: object) -> int:
    """Read a number of things, one or more. Raises OptionError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name}={value!r} must be a whole number, 1 or more")
    return value


def _session(name: str, value: object) -> object:
    # Its class needs the engine, which containers do not have.
    if not hasattr(value, "submit"):
        raise OptionError(f"{name}={value!r} must be what dok.session(…) has returned")
    return value


def yen(name: str, value: object) -> Decimal:
    """Read an amount of money, more than zero.

    Raises:
        OptionError: it is none.
    """
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        amount = Decimal(str(value))
        if amount.is_finite() and amount > 0:
            return amount
    raise OptionError(f"{name}={value!r} must be a number of yen, more than zero")


def _tags(name: str, value: object) -> tuple[str, ...]:
    tags = _texts(name, value)
    for tag in tags:
        if tag.startswith("dokrun"):
            raise OptionError(f"{name}= holds {tag!r}, but tags that begin with dokrun are reserved")
    return tags


def _image(name: str, value: object) -> Image | str:
    if isinstance(value, Image) or (isinstance(value, str) and value):
        return value
    raise OptionError(f'{name}={value!r} must be a text, the name of an image, or a dok.Image; as in "name:tag"')


_CHECKS = {
    "plan": _text,
    "image": _image,
    "timeout": seconds,
    "env": _environment,
    "tags": _tags,
    "include": _texts,
    "exclude": _texts,
    "name": _text,
    "profile": _text,
    "retries": _retries,
    "secrets": _secrets,
    "detach": flag,
    "max_yen": yen,
    "session": _session,
    "linger": flag,
    "http": _http,
}
