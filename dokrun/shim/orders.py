"""Where the payloads lie that have come to a session: those of one request in one file, until all of them are over.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import contextlib
import os
import threading
from typing import Dict, Iterator, Optional

from . import protocol
from .packs import place_of
from .serve import Piece


class Orders:
    """Keeps payloads in a folder. For any thread."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._count = 0
        # How many need each file.
        self._needed: Dict[str, int] = {}

    @contextlib.contextmanager
    def keep(self, data: Piece) -> Iterator["Order"]:
        """Keep what one request has brought, for as long as the block lasts or a payload in it is needed."""
        with self._lock:
            self._count += 1
            file = f"{protocol.PAYLOAD}-{self._count}"
            self._needed[file] = 1
        trouble = None
        try:
            with open(os.path.join(self._folder, file), "wb") as written:
                written.write(data)
        except OSError as error:
            trouble = error
        try:
            yield Order(self, file, trouble)
        finally:
            self.let_go(file)

    def need(self, file: str) -> None:
        """Keep a file for one more."""
        with self._lock:
            self._needed[file] += 1

    def let_go(self, name: str) -> None:
        """Keep a file for one less: that of a payload, or itself."""
        file, _ = place_of(name)
        with self._lock:
            self._needed[file] -= 1
            if self._needed[file]:
                return
            del self._needed[file]
        with contextlib.suppress(OSError):  # a function may have removed it
            os.unlink(os.path.join(self._folder, file))


class Order:
    """What one request has brought: `file` is its name, `trouble` why it could not be kept."""

    def __init__(self, orders: Orders, file: str, trouble: Optional[OSError]) -> None:
        self._orders = orders
        self._file = file
        self._trouble = trouble

    def part(self, start: int, end: int) -> str:
        """Keep a payload that lies there. Tells its name, which it is let go by. Raises OSError."""
        if self._trouble is not None:
            raise self._trouble
        self._orders.need(self._file)
        return f"{self._file}@{start}-{end}"
