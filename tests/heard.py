"""All that any logger says, as whoever keeps or formats it may show it."""

from __future__ import annotations

import logging
import traceback
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Heard(logging.Handler):
    """Listens to the logger of this name with all below it, at the level DEBUG, from here to the end of the block."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._logger = logging.getLogger(name)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __enter__(self) -> Self:
        self._level = self._logger.level
        self._logger.setLevel(logging.DEBUG)
        self._logger.addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)

    def messages(self, library: str) -> list[str]:
        return [record.getMessage() for record in self.records if record.name.partition(".")[0] == library]

    def shown(self) -> str:
        return "\n".join(shown(record) for record in self.records)


def shown(record: logging.LogRecord) -> str:
    """Tell a record with its parts, a traceback's local variables among them."""
    words = [record.getMessage(), repr(vars(record))]
    if record.exc_info and record.exc_info[1] is not None:
        words += traceback.TracebackException.from_exception(record.exc_info[1], capture_locals=True).format()
    return "\n".join(words)
