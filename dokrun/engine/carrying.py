"""What a session's calls are given and is large: sent straight to the container, while the call is being made."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from dokrun import errors, keys
from dokrun.bucket import Bucket
from dokrun.engine.copies import Copies, Copy
from dokrun.engine.keeping import COPIED_BYTES
from dokrun.engine.link import Link
from dokrun.engine.speaking import Gone
from dokrun.engine.ways import Ways
from dokrun.shim.envelope import Segment

_log = logging.getLogger("dokrun.engine")


@dataclass
class Carrying:
    """Brings large segments to a container that is there; else to the bucket, or holds a copy where there is none.

    Nothing that the caller does to an array afterwards changes what is sent. Of what may be needed by another
    container, where the first is lost, a copy is held too; what there is no room for goes to the bucket instead.

    Attributes:
        job_id: whose they are.
        link: the container.
        bucket: where they go while it is not there yet.
        copies: keeps the copies.
        again: whether another container may need them.
        held: copies, by digest, that are sent with the job where they are not there.
        straight: those that the container has, or is being sent.
    """

    job_id: str
    link: Link
    bucket: Bucket | None
    copies: Copies
    again: bool
    held: dict[str, Copy] = field(default_factory=dict)
    straight: set[str] = field(default_factory=set)

    def __call__(self, segment: Segment) -> Segment:
        """Have a segment sent. Returns it without its bytes. Raises StorageError."""
        if segment.data is None:
            return segment
        apart, ways = segment._replace(data=None, digests=()), self.link.ways
        if ways is not None and (self._is_safe(segment) or self.bucket is None):
            try:
                self._straight(ways, segment)
            except (Gone, errors.ApiError) as error:
                _log.info("what a call is given does not get straight to its session: %s", error)
            else:
                return apart
        if self.bucket is None:
            self._hold(segment)
        else:
            self.bucket.put_once(keys.blob(segment.sha256), segment.data, segment.sha256)
        return apart

    def _is_safe(self, segment: Segment) -> bool:
        """Tell whether it can be sent again, where it has to be."""
        return not self.again or self.copies.has_room(segment)

    def _straight(self, ways: Ways, segment: Segment) -> None:
        missing = ways.need(self.job_id, {segment.sha256: (segment.size, None)})
        with_call = missing and segment.size <= COPIED_BYTES
        if with_call or (self.again and self._is_safe(segment)):
            segment = self._hold(segment)
        elif self.again:
            _log.warning("no copy is kept of a call's %d MiB: if its session is lost, call again", segment.size >> 20)
        if missing and not with_call:
            ways.put(self.job_id, segment)
        self.straight.add(segment.sha256)

    def _hold(self, segment: Segment) -> Segment:
        copy = self.held[segment.sha256] = self.copies.of(segment)
        return copy.segment
