"""What calls need that lies in the bucket: fetched in the order of their turns, ahead of them, and verified.

So the first call begins when it has what it needs, and what the others need comes while it runs. What no call needs any
more is removed: of many large files there are only a few here at a time.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import collections
import contextlib
import itertools
import os
import threading
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from . import fetch, protocol
from .bootstrap import remove_folder
from .envelope import Segment, Span
from .packs import Packs

# How many objects are fetched at the same time.
STREAMS = 4
# How much may lie here before its turn.
ROOM_BYTES = 8 << 30


class Supplies:
    """Brings segments that lie elsewhere into a folder, each under its digest. For any thread.

    Args:
        segments: those that lie elsewhere, by their digests.
        addresses: where they are to be had, by their digests too.
        folder: where they come to.
        first: those that are needed before any call.
        needs: which ones each call needs, in the order of their turns; see `needs_of`.
        room_bytes: how much may lie there before its turn.
    """

    def __init__(
        self,
        segments: Dict[str, Segment],
        addresses: Dict[str, str],
        folder: str,
        first: Iterable[str],
        needs: Dict[int, Tuple[str, ...]],
        *,
        room_bytes: int = ROOM_BYTES,
    ) -> None:
        self._segments = segments
        self._addresses = addresses
        self._folder = folder
        self._needs = needs
        self._room_bytes = room_bytes
        self._first = tuple(dict.fromkeys(first))
        self._users = collections.Counter(itertools.chain(self._first, *needs.values()))
        self._coming = list(dict.fromkeys(itertools.chain(self._first, *needs.values())))[::-1]
        self._there: Set[str] = set()
        self._failed: Dict[str, Exception] = {}
        self._held_bytes = 0
        self._awaited: List[str] = []
        self._closed = False
        self._changed = threading.Condition()
        for _ in range(min(STREAMS, len(self._coming))):
            threading.Thread(target=self._run, daemon=True).start()

    def wait(self, calls: Iterable[int] = ()) -> None:
        """Wait for what is needed before any call, and for what some calls need. Raises OSError and ValueError."""
        for sha256 in itertools.chain(self._first, *(self._needs.get(call, ()) for call in calls)):
            self._await(sha256)

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
            for sha256 in itertools.chain.from_iterable(self._needs.pop(call, ()) for call in range(*span)):
                self._users[sha256] -= 1
                if sha256 in self._there:
                    self._remove_unused(sha256)
            self._changed.notify_all()

    def close(self) -> None:
        """Fetch nothing more, and let nobody wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _await(self, sha256: str) -> None:
        with self._changed:
            self._awaited.append(sha256)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or sha256 in self._there or sha256 in self._failed)
            self._awaited.remove(sha256)
            if sha256 in self._failed:
                raise self._failed[sha256]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_go_on)
                if self._closed or not self._coming:
                    return
                sha256 = self._coming.pop()
                if not self._users[sha256]:
                    continue  # the calls that needed it have failed for want of something else
                size = self._segments[sha256].size
                self._held_bytes += size
            failed = None
            try:
                fetch.fetch(self._addresses.get(sha256, ""), self._path(sha256), sha256, size)
            except Exception as error:  # noqa: BLE001 - it is told to whoever needs it
                failed = error
            self._tell(sha256, failed)

    def _may_go_on(self) -> bool:
        if self._closed or not self._coming or self._held_bytes < self._room_bytes:
            return True
        return self._coming[-1] in self._awaited or not self._users[self._coming[-1]]

    def _tell(self, sha256: str, error: Optional[Exception]) -> None:
        with self._changed:
            if error is None:
                self._there.add(sha256)
                self._remove_unused(sha256)
            else:
                self._failed[sha256] = error
                self._held_bytes -= self._segments[sha256].size
            self._changed.notify_all()

    def _remove_unused(self, sha256: str) -> None:
        if self._users[sha256]:
            return
        self._there.remove(sha256)
        self._held_bytes -= self._segments[sha256].size
        with contextlib.suppress(OSError):  # a function may have removed it
            os.unlink(self._path(sha256))
        # Under its own name it may be there too.
        remove_folder(self._path(sha256) + protocol.NAMED)

    def _path(self, sha256: str) -> str:
        return os.path.join(self._folder, sha256)


def needs_of(packs: Packs, segments: List[Segment], spans: List[Span]) -> Dict[int, Tuple[str, ...]]:
    """Tell which segments that lie elsewhere each of some calls needs; calls that need none are left out."""
    needs = {}
    for number in itertools.chain.from_iterable(itertools.starmap(range, spans)):
        record = packs.record(number, segments)
        needed = (segments[it] for it in (*record.buffers, *record.given))
        there = tuple(dict.fromkeys(segment.sha256 for segment in needed if segment.data is None))
        if there:
            needs[number] = there
    return needs
