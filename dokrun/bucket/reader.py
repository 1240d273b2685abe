"""Memory that is read like a file, again and again, and not copied: a request that fails is sent once more."""

from __future__ import annotations

import io

from dokrun.shim.digests import Digest


class Reader(io.RawIOBase):
    """Reads bytes from where they lie; may hash what it hands out, anew when it goes back to the beginning."""

    def __init__(self, data: bytes | memoryview, *, hashed: bool = False) -> None:
        self._view = memoryview(data).cast("B")
        self._at = 0
        self._hash = Digest() if hashed else None

    def digest(self) -> str | None:
        """Tell the digest of what was read since the last begin."""
        return self._hash.hexdigest() if self._hash else None

    def __len__(self) -> int:
        """Tell how much there is in all."""
        return self._view.nbytes

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Tell where it is."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place. Tells where that is."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._view.nbytes}[whence]
        self._at = max(0, min(base + offset, self._view.nbytes))
        if self._at == 0 and self._hash:
            self._hash = Digest()
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's buffer is wider
        """Read as much as there is room for. Tells how much."""
        target = memoryview(buffer).cast("B")
        size = min(target.nbytes, self._view.nbytes - self._at)
        target[:size] = self._view[self._at : self._at + size]
        self._at += size
        if self._hash:
            self._hash.update(target[:size])
        return size
