"""How large bytes get to a session's container, and from there: straight, or through the bucket."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dokrun import errors, keys
from dokrun.bucket import Bucket
from dokrun.engine.parts import Parts
from dokrun.engine.pieces import in_pieces
from dokrun.engine.speaking import Speaking, TooLarge
from dokrun.shim import protocol
from dokrun.shim.digests import digest_of, digests_of, whole
from dokrun.shim.envelope import Segment, segment_of

_log = logging.getLogger("dokrun.engine")

# How often a way that may be shut is tried, before another one is taken: for some seconds.
TRIES = 12
SMALLEST_PIECE = 64 << 10
# How long until it is asked again for what goes through the bucket.
COMING_S = 0.2


class Ways:
    """Brings large bytes to one container, and from there. For any thread.

    Args:
        parts: the engine's.
        speaking: asks the container.
        session: the job that it is of.

    Attributes:
        speaking: the same.
        piece: how much goes there in one request.
    """

    def __init__(self, parts: Parts, speaking: Speaking, session: str) -> None:
        self._parts = parts
        self.speaking = speaking
        self._session = session
        self.piece = protocol.PIECE_BYTES

    @property
    def _tries(self) -> int | None:
        return None if self._parts.bucket is None else TRIES

    def need(self, job_id: str, wanted: dict[str, tuple[int, str | None]]) -> list[str]:
        """Have the container keep some bytes for a job. Tells which it has to be sent. Raises as `ask` does."""
        missing: list[str] = json.loads(self.speaking.ask(f"/need/{job_id}", dict(wanted)))["missing"]
        return missing

    def put(self, job_id: str, segment: Segment) -> None:
        """Send some bytes that are needed: straight, or through the bucket, where they stay, if that way is shut.

        Raises:
            Gone, Refused, Tampered: as `Speaking.ask` does.
            NoAnswer: they do not get there.
            StorageError: nor through the bucket.
        """
        try:
            self._put_straight(segment)
        except errors.NoAnswer:
            bucket, key = self._parts.bucket, keys.blob(segment.sha256)
            if bucket is None:
                raise
            bucket.put_once(key, segment.data or b"", segment.sha256)
            self.need(job_id, {segment.sha256: (segment.size, bucket.address(key))})

    @contextmanager
    def order(self, ticket: str, data: bytes) -> Iterator[str]:
        """Send what orders the calls of a job, for as long as the block lasts: it holds their secrets.

        Tells its digest. Raises as `put` does.
        """
        segment, bucket, key = segment_of(data), self._parts.bucket, keys.order(self._session, ticket)
        self.need(ticket, {segment.sha256: (segment.size, None)})
        try:
            self._put_straight(segment)
        except errors.NoAnswer:
            if bucket is None:
                raise
        else:
            yield segment.sha256
            return
        try:
            bucket.put(key, data)
            self.need(ticket, {segment.sha256: (segment.size, bucket.address(key))})
            yield segment.sha256
        finally:
            self._remove(bucket, key)

    def _put_straight(self, segment: Segment) -> None:
        data, vouched = segment.data or memoryview(b""), _Vouched(segment)

        def move(at: int, end: int) -> int:
            tries = itertools.count()

            def digest() -> str:
                if next(tries):
                    vouched.look_again(at)
                return vouched.digest(at, end)

            told = self.speaking.ask(f"/put/{segment.sha256}/{at}", data[at:end], tries=self._tries, digest=digest)
            return int(json.loads(told)["at"])

        at = 0
        while at < segment.size:
            try:
                at = in_pieces(at, segment.size, self.piece, move)
            except TooLarge:
                if self.piece <= SMALLEST_PIECE:
                    raise errors.NoAnswer("not even small pieces get to the session") from None
                self.piece //= 2

    def get(self, number: int, into: memoryview) -> None:
        """Fetch a report: straight, or through the bucket where that way is shut. Raises as `put` does."""

        def move(at: int, end: int) -> int:
            while at < end:
                count = self.speaking.fill(f"/get/{number}/{at}", into[at:end], tries=self._tries)
                if not count:  # the function has cut the file of its report
                    raise errors.StorageError("the container has less of it than there was")
                at += count
            return at

        try:
            in_pieces(0, len(into), protocol.PIECE_BYTES, move)
        except errors.NoAnswer:
            if self._parts.bucket is None:
                raise
            self._get_through(number, into)

    def _get_through(self, number: int, into: memoryview) -> None:
        bucket, key = self._parts.bucket, keys.report(self._session, number)
        if bucket is None:
            return
        address = {"address": bucket.address_to_put(key)}
        while not (told := json.loads(self.speaking.ask(f"/send/{number}", address))):
            self._parts.sleep(COMING_S)
        if "failed" in told:
            raise errors.StorageError(f"the container could not send it to the bucket: {told['failed']}")
        with tempfile.TemporaryDirectory(prefix="dokrun-") as folder:
            path = Path(folder) / "report"
            bucket.fetch(key, path, len(into))
            with path.open("rb") as file:
                file.readinto(into)
        if digest_of(into) != told["sha256"]:
            raise errors.Tampered("what the bucket has of the result is not what the container has sent", ran="yes")
        self._remove(bucket, key)

    def _remove(self, bucket: Bucket, key: str) -> None:
        try:
            bucket.delete(key)
        except errors.StorageError as error:
            # It goes with the rest of the session's own.
            _log.info("what session %s has sent stays in the bucket until it ends: %s", self._session, error)


class _Vouched:
    """Tells what some bytes are as they are sent, and whether they still are what they are known as.

    Raises:
        StorageError: they are not.
    """

    def __init__(self, segment: Segment) -> None:
        self._data = segment.data or memoryview(b"")
        self._digests = segment.digests
        if not self._digests:
            self._digests = tuple(digests_of([self._data]))
            if whole(self._digests) != segment.sha256:
                raise _changed()

    def digest(self, at: int, end: int) -> str:
        """Tell the SHA-256 up to a place, from the last place before that is a multiple of `protocol.PIECE_BYTES`."""
        number, start, last = self._piece(at)
        return self._digests[number] if end == last else hashlib.sha256(self._data[start:end]).hexdigest()

    def look_again(self, at: int) -> None:
        """See whether what lies at a place was changed. Raises StorageError."""
        number, start, last = self._piece(at)
        if hashlib.sha256(self._data[start:last]).hexdigest() != self._digests[number]:
            raise _changed()

    def _piece(self, at: int) -> tuple[int, int, int]:
        number = at // protocol.PIECE_BYTES
        start = number * protocol.PIECE_BYTES
        return number, start, min(start + protocol.PIECE_BYTES, self._data.nbytes)


def _changed() -> errors.StorageError:
    return errors.StorageError("an argument was changed while it was being sent; call again")
