"""What is never shown: secrets, what a URL has besides its place, and what other libraries log of either."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from dokrun.secret import HIDDEN

_HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
# Each begins where a word does, so that a long text takes no longer than reading it.
_URL = re.compile(r"(?<![\w+.-])[\w+.-]+://[^\s\"'<>\\]*")
_QUERY = re.compile(r"(?<![^\s\"'])([^\s\"'?]*)\?[^\s\"']*")
_VALUE = r"(?:\"[^\"]*\"|'[^']*'|[^\s&,;]+)"
_PAIR = re.compile(
    rf"(?<![\w-])([\w-]*(?:credential|password|secret|signature|token)[\w-]*(?:=|['\"]\s*:\s*)){_VALUE}", re.IGNORECASE
)
# The rest of the line is the header's value, and may be those of others.
_HEADER = re.compile(
    r"(?<![\w-])((?:proxy-)?authorization|(?:set-)?cookie|x-amz-[\w-]+|x-registry-auth)(?:['\"]\s*,|['\"]?\s*[=:]).*",
    re.IGNORECASE,
)


def url(address: object) -> str:
    """Tell scheme, host, port and path of a URL: no credentials, no query, no fragment.

    Of what has no scheme, it is the path; a host that is none is hidden, since a part of a password may stand there.
    """
    plain = re.split(r"[?#]", str(address), maxsplit=1)[0]
    scheme, found, rest = plain.partition("://")
    if not found:
        return plain
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    return f"{scheme}://{host}{slash}{path}" if _HOST.fullmatch(host) else f"{scheme}://{HIDDEN}"


def text(words: str) -> str:
    """Tell a text that somebody else wrote: its URLs as `url` does, and no value that its name calls a secret."""
    shown = _URL.sub(lambda found: url(found[0]), words)
    shown = _QUERY.sub(lambda found: found[1] if "/" in found[1] else found[0], shown)
    return _PAIR.sub(rf"\1{HIDDEN}", _HEADER.sub(rf"\1: {HIDDEN}", shown))


def guard_logs() -> None:
    """Keep secrets out of what httpx, httpcore, urllib3, botocore, boto3 and websockets log, at every level.

    Their records are made without them, whichever of their loggers asks, now or later: a filter on a logger does not
    see what its children log, and a handler comes after the children's own. All other records stay as they are.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "guards_logs", False):
        return

    def guarded(  # noqa: PLR0917 - so records are made
        name: str,
        level: int,
        path: str,
        line: int,
        message: object,
        arguments: Any,
        failure: Any,
        *more: Any,
        **named: Any,
    ) -> logging.LogRecord:
        tell = _LIBRARIES.get(str(name).partition(".")[0])
        if tell is not None:
            message, arguments, failure = _told(tell, message, arguments, failure), (), None
        return make(name, level, path, line, message, arguments, failure, *more, **named)

    guarded.guards_logs = True  # type: ignore[attr-defined]  # a function's own attribute
    logging.setLogRecordFactory(guarded)


def _told(tell: Callable[[object, Any], str], message: object, arguments: Any, failure: Any) -> str:
    # A traceback's frames hold the requests, and its exceptions tell their URLs.
    kind = failure[0] if isinstance(failure, tuple) else None
    told = text(tell(message, arguments))
    return f"{told} ({kind.__name__})" if isinstance(kind, type) else told


def _words(message: object, arguments: Any) -> str:
    """Tell a message with those of its arguments that are numbers, words or addresses."""
    shown = ("str", "URL")  # httpx has its door elsewhere
    return _filled(message, arguments, lambda value: str(value) if type(value).__name__ in shown else HIDDEN)


def _template(message: object, arguments: Any) -> str:
    """Tell a message with those of its arguments that are numbers."""
    return _filled(message, arguments, lambda _: HIDDEN)


def _first_word(message: object, _arguments: Any) -> str:
    """Tell how a message begins that came with its values in it."""
    return (str(message).split(maxsplit=1) or [""])[0]


def _filled(message: object, arguments: Any, show: Callable[[Any], str]) -> str:
    shown = tuple(value if isinstance(value, int | float) else show(value) for value in arguments or ())
    try:
        return str(message) % shown if shown else str(message)
    except (TypeError, ValueError):
        return str(message)


_LIBRARIES: dict[str, Callable[[object, Any], str]] = {
    "httpx": _words,
    "urllib3": _words,
    "httpcore": _first_word,
    "s3transfer": _first_word,
    "boto3": _template,
    "botocore": _template,
    "websockets": _template,
}
