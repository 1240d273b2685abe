"""The user's own lines of a log: those that the shim writes for the client are left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dokrun.shim import protocol


class Lines:
    """Takes a log piece by piece; holds back only what may be the beginning of a line of the shim's."""

    def __init__(self) -> None:
        self._held = ""
        # Whether a line of the user's has been begun.
        self._within = False

    def take(self, piece: str) -> str:
        """Tell what of the log so far is the user's and has not been told."""
        told = []
        *whole, last = (self._held + piece).split("\n")
        for line in whole:
            if self._within or not line.startswith(protocol.OURS_IN_LOG):
                told.append(f"{line}\n")
            self._within = False
        ours = last.startswith(protocol.OURS_IN_LOG) or protocol.OURS_IN_LOG.startswith(last)
        if self._within or not ours:
            told.append(last)
            self._held, self._within = "", True
        else:
            self._held = last
        return "".join(told)

    def rest(self) -> str:
        """Tell what was held back, when nothing more comes."""
        return "" if self._held.startswith(protocol.OURS_IN_LOG) else self._held


def users_own(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a log without the shim's lines."""
    lines = Lines()
    for piece in pieces:
        told = lines.take(piece)
        if told:
            yield told
    if lines.rest():
        yield lines.rest()


def of_call(pieces: Iterable[str], number: int) -> Iterator[str]:
    """Yield what one call of several has printed, in whole lines."""
    mark, within, rest = protocol.CALL.format(number), False, ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            if not line.startswith(protocol.OURS_IN_LOG):
                if within:
                    yield f"{line}\n"
            elif line.startswith(protocol.CALL.format("")):
                within = line == mark
    if within and rest and not rest.startswith(protocol.OURS_IN_LOG):
        yield rest
