"""Pieces of some bytes are brought to a session's container as its client brings them."""

from __future__ import annotations

import hashlib

from dokrun.shim.blobs import Blobs
from dokrun.shim.digests import digest_of
from dokrun.shim.protocol import PIECE_BYTES


def put(blobs: Blobs, data: bytes, at: int, piece: bytes) -> int:
    """Bring a piece of what is announced to be `data`, whose earlier pieces are what they should be."""
    before = data[at - at % PIECE_BYTES : at]
    return blobs.put(digest_of(data), at, piece, hashlib.sha256(before + piece).hexdigest())
