"""A container's collected standard output and error: written as it comes, followed by whoever wants to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

_CHUNK = 1 << 16


class Log:
    """A file that grows until it is ended. Lives in one event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._grown = asyncio.Event()

    def append(self, data: bytes) -> None:
        """Write what has come, and wake those who follow."""
        self._file.write(data)
        self._wake()

    def end(self) -> None:
        """Say that nothing more will come."""
        self._file.close()
        self._wake()

    async def follow(self) -> AsyncIterator[bytes]:
        """Yield everything from the beginning, and what comes, until the end."""
        with self.path.open("rb") as file:
            while True:
                grown, ended = self._grown, self._file.closed
                if data := file.read(_CHUNK):
                    yield data
                elif ended:
                    return
                else:
                    await grown.wait()

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()


class Pipe:
    """Brings what a process writes into a log, whoever else holds the pipe's other end."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        asyncio.get_running_loop().add_reader(self._reader, self._read)

    def close(self) -> None:
        """Take what is still in the pipe, and end the log: the process that wrote it is gone."""
        while self._read():
            pass
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
        self._log.end()

    def _read(self) -> bool:
        try:
            data = os.read(self._reader, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(self._reader)
            return False
        self._log.append(data)
        return True
