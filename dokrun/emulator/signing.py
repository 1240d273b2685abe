"""Addresses and tokens that work for a limited time, for one thing only."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from dokrun.emulator.clock import Clock

LIFETIME_S = 900


class Signer:
    """Signs with a key that only this process has."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)

    def sign(self, what: str) -> str:
        """Make a signature that is good for a quarter of an hour."""
        expires = int(self._clock.now().timestamp()) + LIFETIME_S
        return f"{expires}-{self._digest(what, expires)}"

    def problem(self, what: str, signature: str) -> str | None:
        """Tell what is wrong with a signature, if anything is."""
        text, _, digest = signature.partition("-")
        if not (text.isascii() and text.isdigit()):
            return "the signature does not match"
        if not hmac.compare_digest(self._digest(what, int(text)).encode(), digest.encode()):
            return "the signature does not match"
        return "the signature has expired" if self._clock.now().timestamp() > int(text) else None

    def _digest(self, what: str, expires: int) -> str:
        return hmac.new(self._key, f"{what} {expires}".encode(), hashlib.sha256).hexdigest()
