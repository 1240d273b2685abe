"""What commands talk to: an account's engine, its client, its settings."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dokrun import config
from dokrun.errors import ConfigError, NotFound, OptionError
from dokrun.keys import UnknownHandle, read_handle

if TYPE_CHECKING:
    from dokrun.api import Client
    from dokrun.config import Settings
    from dokrun.engine.engine import Engine
    from dokrun.engine.live import Live
    from dokrun.future import Future
    from dokrun.map import Map

T = TypeVar("T")

_NAMED = 5
# The form of an id that is whole: nothing need be listed to find it.
_WHOLE = 36


def settings_of(profile: str | None) -> Settings:
    """Tell the settings of an account that other processes see too.

    Raises:
        ConfigError: its tasks live in the process that makes them; or a setting is wrong.
    """
    settings = config.load(profile)
    if not settings.outlasts:
        raise ConfigError(
            f"on the profile {settings.profile} a script's tasks live in its own process, and end with it; to see them "
            "from here, run dokrun emulator and let both use that, or name another profile"
        )
    return settings


def engine_of(profile: str | None) -> Engine:
    """Tell the engine of a profile whose tasks outlast the process that makes them. Raises ConfigError."""
    settings_of(profile)
    from dokrun import engine

    return engine.get(profile)


def attached(engine: Engine, text: str) -> Future[Any] | Map[Any] | Live:
    """Make the future of a call, the map of several, or the session, that a handle, its beginning or a task's id means.

    What this machine's journal does not know is looked for in the project.

    Raises:
        UnknownHandle: there is none.
        OptionError: there are several.
        ApiError: DOK refused or did not answer.
    """
    try:
        return engine.attach(text)
    except UnknownHandle:
        if (handle := read_handle(text)) is not None and handle.digest:
            raise  # a whole one says all that there is to know
    except OptionError:
        if read_handle(text) is not None:
            raise
    return engine.attach(engine.desk.find(text).handle)


@contextmanager
def client_of(profile: str | None) -> Iterator[Client]:
    """Open DOK's API alone. Raises ConfigError."""
    settings = settings_of(profile)
    from dokrun.api import Client

    with Client(settings.access_token, settings.access_token_secret, base_url=settings.api_url) as client:
        yield client


def whole_id(kind: str, text: str, known: Iterable[T]) -> str:
    """Tell the id that a text is, or is the beginning of.

    Args:
        kind: what it is the id of, and how the command that lists them is called.
        text: what the user has written.
        known: what there is; looked at if the text is no whole id.

    Raises:
        NotFound: none begins so.
        OptionError: several do.
    """
    if len(text) == _WHOLE and text.count("-") == 4:  # noqa: PLR2004 - the dashes of a UUID
        return text
    ids = dict.fromkeys(str(_id(one)) for one in known)
    found = [text] if text in ids else [identity for identity in ids if text and identity.startswith(text)]
    if not found:
        raise NotFound(f"there is no {kind} {text!r}; dokrun {_LISTS.get(kind, kind)} list tells which there are")
    if len(found) > 1:
        raise OptionError(f"{text!r} is the beginning of several: {', '.join(found[:_NAMED])}")
    return found[0]


def _id(one: Any) -> object:
    return one.id


_LISTS = {"task": "tasks", "artifact": "artifacts", "ssh key": "ssh-key", "endpoint": "notify endpoint"} | {
    "setting": "notify setting"
}


def read_text(path: Path) -> str:
    """Read a text that the user names; - is standard input.

    Raises:
        OptionError: it cannot be read, or is no text.
    """
    try:
        return sys.stdin.read() if str(path) == "-" else path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is no text") from error


@contextmanager
def local_or(profile: str | None) -> Iterator[Client]:
    """Open DOK's API, or the local emulator's where nothing is configured: for what it says of itself."""
    settings = config.connect(config.load(profile))
    from dokrun.api import Client

    with Client(settings.access_token, settings.access_token_secret, base_url=settings.api_url) as client:
        yield client
