"""What calls need that lies in the bucket: fetched in the order of their turns, ahead of them, and verified.

So the first call begins when it has what it needs, and what the others need comes while it runs. What no call needs any
more is removed: of many large files there are only a few here at a time.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import collections
import itertools
import os
import shutil
import threading
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from . import fetch, protocol
from .envelope import Segment, Span
from .packs import Packs

# How many objects are fetched at the same time.
STREAMS = 4
# How much may lie here before its turn.
ROOM_BYTES = 8 << 30


class Supplies:
    """Brings segments that lie elsewhere into a folder, each under its digest. For any thread.

    Args:
        segments: the payload's.
        addresses: where they are to be had, by digest.
        folder: where they come to.
        first: the numbers of those that are needed before any call.
        needs: which ones each call needs, in the order of their turns; see `needs_of`.
        room_bytes: how much may lie there before its turn.
    """

    def __init__(
        self,
        segments: List[Segment],
        addresses: Dict[str, str],
        folder: str,
        first: Iterable[int],
        needs: Dict[int, Tuple[int, ...]],
        *,
        room_bytes: int = ROOM_BYTES,
    ) -> None:
        self._segments = segments
        self._addresses = addresses
        self._folder = folder
        self._needs = needs
        self._room_bytes = room_bytes
        self._first = {number for number in first if segments[number].data is None}
        self._users = collections.Counter(itertools.chain(self._first, *map(set, needs.values())))
        self._coming = list(dict.fromkeys(itertools.chain(self._first, *needs.values())))[::-1]
        self._there: Set[int] = set()
        self._failed: Dict[int, Exception] = {}
        self._held_bytes = 0
        self._awaited: List[int] = []
        self._closed = False
        self._changed = threading.Condition()
        for _ in range(min(STREAMS, len(self._coming))):
            threading.Thread(target=self._run, daemon=True).start()

    def wait(self, calls: Iterable[int] = ()) -> None:
        """Wait for what is needed before any call, and for what some calls need. Raises OSError and ValueError."""
        for number in itertools.chain(self._first, *(self._needs.get(call, ()) for call in calls)):
            self._await(number)

    def reach(self, first: int, end: int) -> Tuple[int, Optional[Dict[str, Any]]]:
        """Wait for what the first of some calls needs. Tells up to which one all is there, or why it will not be."""
        try:
            self.wait([first])
        except (OSError, ValueError) as error:
            reason = protocol.TAMPERED if isinstance(error, fetch.DigestError) else protocol.NOT_BEGUN
            return first, protocol.failure(reason, "no", f"what the call is given could not be received: {error}")
        with self._changed:
            reached = first + 1
            while reached < end and self._there.issuperset(self._needs.get(reached, ())):
                reached += 1
            return reached, None

    def release(self, span: Span) -> None:
        """Remove what only calls need that have come to an end."""
        with self._changed:
            for number in itertools.chain.from_iterable(set(self._needs.pop(call, ())) for call in range(*span)):
                self._users[number] -= 1
                if not self._users[number] and number in self._there:
                    segment = self._segments[number]
                    self._there.remove(number)
                    self._held_bytes -= segment.size
                    _remove(self._path(segment))
            self._changed.notify_all()

    def close(self) -> None:
        """Fetch nothing more, and let nobody wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _await(self, number: int) -> None:
        with self._changed:
            self._awaited.append(number)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or number in self._there or number in self._failed)
            self._awaited.remove(number)
            if number in self._failed:
                raise self._failed[number]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_go_on)
                if self._closed or not self._coming:
                    return
                number = self._coming.pop()
                if not self._users[number]:
                    continue  # the calls that needed it have failed for want of something else
                self._held_bytes += self._segments[number].size
            try:
                self._fetch(self._segments[number])
            except Exception as error:  # noqa: BLE001 - it is told to whoever needs it
                self._tell(number, error)
            else:
                self._tell(number)

    def _may_go_on(self) -> bool:
        if self._closed or not self._coming:
            return True
        return self._held_bytes < self._room_bytes or self._coming[-1] in self._awaited

    def _fetch(self, segment: Segment) -> None:
        fetch.fetch(self._addresses.get(segment.sha256, ""), self._path(segment), segment.sha256, segment.size)

    def _tell(self, number: int, error: Optional[Exception] = None) -> None:
        with self._changed:
            if error is None:
                self._there.add(number)
            else:
                self._failed[number] = error
            self._changed.notify_all()

    def _path(self, segment: Segment) -> str:
        return os.path.join(self._folder, segment.sha256)


def needs_of(packs: Packs, segments: List[Segment], spans: List[Span]) -> Dict[int, Tuple[int, ...]]:
    """Tell which segments that lie elsewhere each of some calls needs; calls that need none are left out."""
    needs = {}
    for number in itertools.chain.from_iterable(itertools.starmap(range, spans)):
        record = packs.record(number, segments)
        there = tuple(it for it in (*record.buffers, *record.given) if segments[it].data is None)
        if there:
            needs[number] = there
    return needs


def _remove(path: str) -> None:
    os.unlink(path)
    # Under its own name it may be there too.
    shutil.rmtree(path + protocol.NAMED, ignore_errors=True)
