"""Compression where it pays: a sample of the bytes shows how small they get and how fast, against a usual line.

Level 1 of zlib, which every Python has: what is slower wins little on a line of this kind, and the container, which is
paid for by the second, unpacks it several times as fast as its own line brings it.
"""

from __future__ import annotations

import time
import zlib
from typing import IO

from dokrun.shim.digests import Digest

# A good line from an office or a home, upwards: 250 Mbps.
LINE_BYTES_PER_S = 250e6 / 8
# What is smaller takes no time worth a sample.
SMALLEST_BYTES = 1 << 20
# What takes more of the time than this is sent as it is.
WORTH = 0.8

_LEVEL = 1
_SAMPLES, _SAMPLE_BYTES = 8, 32 << 10
_CHUNK = 1 << 20


def pays(data: memoryview) -> bool:
    """Tell whether bytes are sent sooner compressed, the time for that included."""
    if data.nbytes < SMALLEST_BYTES:
        return False
    places = range(0, data.nbytes - _SAMPLE_BYTES, data.nbytes // _SAMPLES)
    sample = b"".join(data[at : at + _SAMPLE_BYTES] for at in places)
    began = time.perf_counter()
    small = len(zlib.compress(sample, _LEVEL))
    return time.perf_counter() - began + small / LINE_BYTES_PER_S < WORTH * len(sample) / LINE_BYTES_PER_S


def compress(data: memoryview, into: IO[bytes]) -> str:
    """Write bytes to a file, compressed. Returns the digest of the bytes as they were read. Raises OSError."""
    digest, packer = Digest(), zlib.compressobj(_LEVEL)
    for at in range(0, data.nbytes, _CHUNK):
        chunk = bytes(data[at : at + _CHUNK])  # which nobody changes between the two
        digest.update(chunk)
        into.write(packer.compress(chunk))
    into.write(packer.flush())
    return digest.hexdigest()
