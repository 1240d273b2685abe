"""Any S3-compatible store: objects, what is put there once, and what of it is sent compressed."""

from dokrun.bucket.once import RENEWED_AFTER, Bucket
from dokrun.bucket.store import ADDRESS_LIFETIME, Stored

__all__ = ["ADDRESS_LIFETIME", "RENEWED_AFTER", "Bucket", "Stored"]
