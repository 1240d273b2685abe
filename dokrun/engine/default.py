"""The engines that calls go through where nobody names one: one for each profile, made when it is first used."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import TYPE_CHECKING

from dokrun import config

if TYPE_CHECKING:
    from dokrun.engine.engine import Engine

_engines: dict[str | None, Engine] = {}
_engines_lock = threading.Lock()
_pid = os.getpid()


def get(profile: str | None = None) -> Engine:
    """Tell the engine of a profile, made when first asked for; None is the profile that the environment chooses."""
    global _pid  # noqa: PLW0603 - the one replaceable default client, and the process that it belongs to
    with _engines_lock:
        if _pid != os.getpid():
            # After a fork the threads are the parent's, and so are the tasks.
            _engines.clear()
            _pid = os.getpid()
        engine = _engines.get(profile)
        if engine is None:
            settings = config.load(profile)
            config.begin(settings)
            from dokrun.engine.engine import Engine  # it takes a while, in which a local emulator starts

            # The profile that the environment chooses may be one that somebody has named as well.
            engine = _engines.get(settings.profile) or Engine(settings)
            _engines[profile] = _engines[settings.profile] = engine
            # Last registered is first called: before the local emulator, which the engine has just started, ends.
            atexit.unregister(reset)
            atexit.register(reset)
            _at_the_end_of_a_child()
        return engine


def _at_the_end_of_a_child() -> None:
    """Have the engines closed where multiprocessing ends this process, which calls none of `atexit`'s."""
    if "multiprocessing.util" in sys.modules:  # it costs milliseconds, and has been loaded in every such child
        from multiprocessing import parent_process, util

        if parent_process() is not None:
            util.Finalize(None, reset, exitpriority=0)


def use(made: Engine) -> None:
    """Let an engine stand for its profile and for the one that the environment chooses, until `reset` closes it."""
    reset()
    with _engines_lock:
        _engines[None] = _engines[made.settings.profile] = made


def reset() -> None:
    """Close all engines, so that the next call reads the settings anew. Unfinished jobs are cancelled."""
    with _engines_lock:
        engines = set(_engines.values())
        _engines.clear()
    if _pid == os.getpid():
        for engine in engines:
            engine.close()
