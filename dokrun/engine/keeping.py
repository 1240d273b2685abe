"""Large segments on their way to safety, several at the same time, while the next calls are being pickled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from dokrun import keys
from dokrun.bucket import Bucket
from dokrun.shim.envelope import Segment

STREAMS = 8
# What is no larger is copied, so that whoever it belongs to may change it while it is sent; a larger one is waited for.
COPIED_BYTES = 16 << 20
# How many copies may lie in memory.
COPIES = 2 * STREAMS


class Keeping:
    """Brings large segments into the bucket, by their content; what is small, or is there, stays as it is.

    Nothing that the caller does to an array afterwards changes what is sent.
    """

    def __init__(self, bucket: Bucket | None) -> None:
        self._bucket = bucket
        self._pool: ThreadPoolExecutor | None = None
        self._sent: list[Future[object]] = []
        self._room = threading.BoundedSemaphore(COPIES)

    def __call__(self, segment: Segment) -> Segment:
        """Have a segment sent. Returns it without its bytes. Raises StorageError, maybe for another segment."""
        if self._bucket is None or segment.data is None:
            return segment
        key, data = keys.blob(segment.sha256), segment.data
        if segment.size > COPIED_BYTES:
            self._bucket.put_once(key, data, segment.sha256)
        else:
            self._later(partial(self._bucket.put_once, key, bytes(data), segment.sha256))
        return segment._replace(data=None, digests=())

    def finish(self) -> None:
        """Wait until all is there. Raises StorageError."""
        pool, self._pool = self._pool, None
        sent, self._sent = self._sent, []
        if pool is None:
            return
        try:
            for one in sent:
                one.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _later(self, put: Callable[[], object]) -> None:
        for one in [one for one in self._sent if one.done()]:
            one.result()  # where one could not be sent, the others are of no use
            self._sent.remove(one)
        self._room.acquire()
        self._pool = self._pool or ThreadPoolExecutor(STREAMS, "dokrun-keep")
        self._sent.append(self._pool.submit(put))
        self._sent[-1].add_done_callback(lambda _: self._room.release())
