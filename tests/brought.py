"""Pieces of some bytes are brought to a session's container as its client brings them."""

from __future__ import annotations

import hashlib

from dokrun.shim.blobs import Blobs


def put(blobs: Blobs, data: bytes, at: int, piece: bytes) -> int:
    """Bring a piece of what is announced to be `data`, whose earlier pieces are what they should be."""
    return blobs.put(hashlib.sha256(data).hexdigest(), at, piece, hashlib.sha256(data[:at] + piece).hexdigest())
