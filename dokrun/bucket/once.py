"""What is put into a bucket once: objects whose keys tell their content, however many calls, jobs and days use them."""

from __future__ import annotations

import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from dokrun import keys
from dokrun.bucket import compression
from dokrun.bucket.reader import Reader
from dokrun.bucket.store import PATIENCE_S, Store
from dokrun.config import LOOPBACK, BucketSettings
from dokrun.errors import StorageError
from dokrun.shim import protocol

# What has lain there for longer is sent again where it is needed.
RENEWED_AFTER = timedelta(days=7)
# How often whoever sweeps says so, how long that holds, and how often it is looked for.
_SWEEP_TOLD_S = 20.0
_SWEEP_GOES_ON = timedelta(minutes=2)
_SWEEP_LOOK_S = 1.0


class Bucket(Store):
    """A bucket of dokrun's. Every failure is a StorageError, whose text holds no address and no key.

    Args:
        settings: which one.
        patience_s: how long an answer may keep silent before it is asked for again, in seconds.
        near: whether it lies on this machine, so that nothing is compressed for it; its address tells if nothing else.

    Raises:
        ConfigError: there can be no such bucket.
    """

    def __init__(self, settings: BucketSettings, *, patience_s: float = PATIENCE_S, near: bool | None = None) -> None:
        super().__init__(settings, patience_s=patience_s)
        # When some objects were last seen there, by the monotonic clock.
        self._seen: dict[str, float] = {}
        host = urllib.parse.urlsplit(settings.endpoint_url or "").hostname
        self._near = host in LOOPBACK if near is None else near

    def put_once(self, key: str, data: bytes | memoryview, sha256: str, *, good_for_s: float = 0.0) -> bool:
        """Store an object whose key tells its content, unless it is there already. Tells whether it was sent.

        What was sent is hashed on its way: wrong bytes under this key would be everybody's, for ever. What has lain
        there for a week is sent again: `dokrun gc` goes by the time at which an object was stored. What was seen there
        `good_for_s` ago is not looked for again. It may lie there compressed, and says so then (`protocol.UNPACKED`).
        """
        seen = self._seen.get(key)
        if seen is not None and time.monotonic() < seen + good_for_s:
            return False
        sent = self._put_once(key, data, sha256)
        if good_for_s:
            self._seen[key] = time.monotonic()
        return sent

    def _put_once(self, key: str, data: bytes | memoryview, sha256: str) -> bool:
        size = memoryview(data).nbytes
        there = self.look(key)
        if there is not None and there.size == size and there.age < RENEWED_AFTER:
            return False
        self._bring(key, data, sha256)
        if there is not None:
            # Somebody may have seen how old it was, and be about to remove it.
            while self._is_swept():
                time.sleep(_SWEEP_LOOK_S)
            if self.look(key) is None:
                self._bring(key, data, sha256)
        return True

    def _bring(self, key: str, data: bytes | memoryview, sha256: str) -> None:
        view = memoryview(data).cast("B")
        if not self._near and compression.pays(view):
            with suppress(OSError):  # there is no room for it on this machine
                self._bring_compressed(key, view, sha256)
                return
        reader = Reader(view, hashed=True)
        self.put(key, reader)
        if reader.digest() != sha256:
            self.delete(key)
            raise self._changed()

    def _bring_compressed(self, key: str, data: memoryview, sha256: str) -> None:
        with tempfile.TemporaryFile(prefix="dokrun-") as file:
            if compression.compress(data, file) != sha256:
                raise self._changed()
            file.seek(0)
            self.put(key, file, metadata={protocol.UNPACKED: str(data.nbytes)})

    def _changed(self) -> StorageError:
        return StorageError(f"bucket {self.name!r}: an argument was changed while it was being sent; call again")

    @contextmanager
    def sweeping(self) -> Iterator[Callable[[], None]]:
        """Let everybody know that old objects are being removed; call what it gives before each one that is.

        Whoever needs an old object stores it again and then looks for this: so either it is seen here that the object
        is not old any more, or there that it may be gone.

        Raises:
            StorageError: somebody else is at it; or the bucket refused, or gave no answer.
        """
        if self._is_swept():
            wait_s = int(_SWEEP_GOES_ON.total_seconds())
            raise StorageError(
                f"bucket {self.name!r} is being swept by somebody else, or was until just now; try again in {wait_s} s"
            )
        told_at = [0.0]

        def tell() -> None:
            if time.monotonic() - told_at[0] > _SWEEP_TOLD_S:
                self.put(keys.sweep(), b"")
                told_at[0] = time.monotonic()

        try:
            tell()
            yield tell
        finally:
            self.delete(keys.sweep())

    def _is_swept(self) -> bool:
        there = self.look(keys.sweep())
        return there is not None and there.age < _SWEEP_GOES_ON
