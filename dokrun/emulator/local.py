"""What the profile `local` stands on: one emulator and one object store in this process, started when first needed."""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import dataclass

from dokrun.emulator.objects import REGION, ObjectStore
from dokrun.emulator.server import Emulator

BUCKET = "dokrun-local"


@dataclass(frozen=True)
class Local:
    """Where they are, and the key that opens them."""

    api_url: str
    token: str
    secret: str
    s3_url: str
    region: str
    bucket: str


_lock = threading.Lock()
_running: tuple[int, Local] | None = None


def start() -> Local:
    """Start both, unless they run already in this process. They end with it and leave nothing behind."""
    global _running  # noqa: PLW0603 - there is one of them in a process, by its nature
    with _lock:
        # A fork copies this, but none of the threads behind it.
        if _running is not None and _running[0] == os.getpid():
            return _running[1]
        emulator = Emulator().start()
        store = ObjectStore(BUCKET)
        # `reset` of the engine is registered later and so called earlier: tasks are cancelled while this still answers.
        atexit.register(_close, os.getpid(), emulator, store)
        local = Local(emulator.api_url, emulator.token, emulator.secret, store.url, REGION, store.bucket)
        _running = (os.getpid(), local)
        return local


def _close(pid: int, emulator: Emulator, store: ObjectStore) -> None:
    if pid == os.getpid():
        store.close()
        emulator.close()
