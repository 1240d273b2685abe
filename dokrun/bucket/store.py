"""Any S3-compatible store: put, claim, fetch, presign. The only file that imports botocore.

Kept to what every store does: no vendor's extras, no newer checksum defaults, an ETag is never taken for a digest.
"""

from __future__ import annotations

import email.utils
import functools
import io
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import botocore.config
import botocore.exceptions
import botocore.loaders
import botocore.session

from dokrun import redact
from dokrun.bucket.reader import Reader
from dokrun.config import LOOPBACK, BucketSettings
from dokrun.errors import ConfigError, StorageError
from dokrun.shim import protocol

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

redact.guard_logs()

# An address must outlive the queue, not the run; seven days is the signature's own limit.
ADDRESS_LIFETIME = timedelta(days=6)
# What is read into memory: claims, which are a line of JSON.
LARGEST_READ_BYTES = 64 << 10
LONGEST_READ_S = 60.0
# What comes more slowly than this is given up.
SLOWEST_BYTES_PER_S = 500_000
CHUNK = 256 << 10
# How often an object is read on before it is given up.
READINGS = 5
_BROKEN_OFF = (
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ReadTimeoutError,
    botocore.exceptions.ResponseStreamingError,
)
_PRECONDITION_FAILED = 412
# How long an answer may keep silent.
PATIENCE_S = 60.0


class Stored(NamedTuple):
    """An object that is there: its key, its size in bytes, and when it was stored, by the store's clock."""

    key: str
    size: int
    modified: datetime


class Store:
    """One bucket, object by object. Every failure is a StorageError, whose text holds no address and no key.

    Args:
        settings: which one.
        patience_s: how long an answer may keep silent before it is asked for again, in seconds.

    Raises:
        ConfigError: there can be no such bucket.
    """

    def __init__(self, settings: BucketSettings, *, patience_s: float = PATIENCE_S) -> None:
        self.name = settings.name
        try:
            self._s3 = self._client(settings, patience_s)
        except ValueError:
            # The error's text would show the address, and with it whatever password stands in it.
            raise ConfigError("the bucket's address is not a URL; look at DOKRUN_S3_ENDPOINT_URL") from None
        except botocore.exceptions.BotoCoreError as error:
            raise ConfigError(f"the settings of the AWS tools cannot be used: {error}; look at AWS_PROFILE") from None

    @staticmethod
    def _client(settings: BucketSettings, patience_s: float) -> S3Client:
        secret = settings.secret_access_key
        address = urllib.parse.urlsplit(settings.endpoint_url or "https:")
        session = botocore.session.get_session()
        session.register_component("data_loader", _descriptions())
        # As boto3 would, whose other parts take longer to load than all of these.
        made = session.create_client(
            "s3",
            endpoint_url=settings.endpoint_url,
            # Stores that are not AWS seldom look at the region, but a signature always needs one.
            region_name=settings.region or (None if settings.endpoint_url is None else "us-east-1"),
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=secret.reveal() if secret else None,
            config=botocore.config.Config(
                signature_version="s3v4",
                # Other stores than AWS seldom have a certificate for `<bucket>.<host>`.
                s3={
                    "addressing_style": "auto" if settings.endpoint_url is None else "path",
                    # Where nobody can change what is sent, its bytes need not be hashed once more to be signed.
                    "payload_signing_enabled": address.scheme != "https" and address.hostname not in LOOPBACK,
                },
                retries={"mode": "standard", "total_max_attempts": 5},
                # No proxy leads to this machine's own loopback.
                proxies={"http": "", "https": ""} if address.hostname in LOOPBACK else None,
                connect_timeout=20,
                read_timeout=patience_s,
                # Other stores reject the newer defaults.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        return cast("S3Client", made)

    def put(
        self, key: str, data: bytes | memoryview | Reader | IO[bytes], *, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Store an object, over whatever is there. Bytes are read from where they lie; metadata come back with it."""
        body: Any = Reader(data) if isinstance(data, (bytes, memoryview)) else data
        with self._translated("put"):
            self._s3.put_object(Bucket=self.name, Key=key, Body=body, Metadata=metadata or {})

    def claim(self, key: str, body: bytes) -> bytes | None:
        """Store a small object that nobody has stored yet. Returns None where this was the first, else what is there.

        A store that does not honour `If-None-Match` would let everybody win; `dokrun doctor` looks for that.
        """
        with self._translated("claim"):
            try:
                self._s3.put_object(Bucket=self.name, Key=key, Body=body, IfNoneMatch="*")
            except botocore.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != _PRECONDITION_FAILED:
                    raise
            else:
                return None
        there = self.read(key)
        # An answer that was lost on its way makes the repeated request find its own claim.
        return None if there == body else there

    def read(self, key: str, limit_bytes: int = LARGEST_READ_BYTES, limit_s: float = LONGEST_READ_S) -> bytes | None:
        """Tell what a small object holds; None where there is none. More bytes or seconds than that are an error."""
        with self._translated("read"):
            try:
                body = self._s3.get_object(Bucket=self.name, Key=key)["Body"]
            except self._s3.exceptions.NoSuchKey:
                return None
            data, deadline = bytearray(), time.monotonic() + limit_s
            with closing(body):
                # Byte by byte, since more at once would be waited for: a byte a second beats every read's own timeout.
                for byte in body.iter_chunks(1):
                    data += byte
                    if len(data) > limit_bytes or time.monotonic() > deadline:
                        raise StorageError(
                            f"bucket {self.name!r}: an object of dokrun's is too large, or comes too slowly"
                        )
        return bytes(data)

    def fetch(self, key: str, path: Path, size: int) -> None:
        """Write an object of a size to a file. One that is not there, or has another size, is an error.

        Where reading breaks off it goes on: boto3 repeats what gets no answer, and no reading.
        """
        deadline = time.monotonic() + LONGEST_READ_S + size / SLOWEST_BYTES_PER_S
        with self._translated("fetch"), path.open("wb", buffering=0) as file:
            for reading in range(1, READINGS + 1):
                try:
                    self._read_on(key, file, size, deadline)
                    break
                except _BROKEN_OFF:
                    if reading == READINGS or time.monotonic() > deadline:
                        raise

    def _read_on(self, key: str, file: io.FileIO, size: int, deadline: float) -> None:
        """Write to a file what it lacks of an object."""
        there = file.tell()
        rest: Any = {"Range": f"bytes={there}-"} if there else {}
        answer = self._s3.get_object(Bucket=self.name, Key=key, **rest)
        if there + answer["ContentLength"] != size:
            raise StorageError(f"bucket {self.name!r}: an object of dokrun's has another size than it should")
        with closing(answer["Body"]) as body:
            for chunk in body.iter_chunks(CHUNK):
                file.write(chunk)
                if time.monotonic() > deadline:
                    raise StorageError(f"bucket {self.name!r}: an object of dokrun's comes too slowly")

    def keys(self, beginning: str) -> list[str]:
        """Tell the keys that begin so."""
        with self._translated("list"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=beginning)
            return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def stored(self, beginning: str) -> Iterator[Stored]:
        """Yield the objects whose keys begin so."""
        with self._translated("list"):
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=beginning):
                for found in page.get("Contents", ()):
                    yield Stored(found["Key"], found["Size"], found["LastModified"])

    def modified(self, key: str) -> datetime | None:
        """Tell when an object was stored; None where there is none."""
        there = self.look(key)
        return None if there is None else there.modified

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self._translated("delete"):
            self._s3.delete_object(Bucket=self.name, Key=key)

    def address(self, key: str) -> str:
        """Make an address that anybody can GET the object from for six days: to be treated as a secret."""
        with self._translated("presign"):
            return self._presigned("get_object", key)

    def address_to_put(self, key: str, *, once: bool = False) -> str:
        """Make an address that anybody can PUT an object to for six days; a secret likewise.

        With `once` the store refuses it (412) where there is an object already: the request must bear the header
        `If-None-Match: *`, which the signature covers.
        """
        with self._translated("presign"):
            return self._presigned("put_object", key, **({"IfNoneMatch": "*"} if once else {}))

    def close(self) -> None:
        """Close the connections."""
        self._s3.close()

    def _presigned(self, method: str, key: str, **more: str) -> str:
        parameters = {"Bucket": self.name, "Key": key, **more}
        return self._s3.generate_presigned_url(
            method, Params=parameters, ExpiresIn=int(ADDRESS_LIFETIME.total_seconds())
        )

    def look(self, key: str) -> There | None:
        """Tell of an object without its content; None where there is none."""
        with self._translated("look up"):
            try:
                told = self._s3.head_object(Bucket=self.name, Key=key)
            except botocore.exceptions.ClientError as error:
                # A key that may only write gets 403 for what is not there; sending once more does no harm.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404):
                    return None
                raise
        date = told["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = datetime.now(timezone.utc) if date is None else email.utils.parsedate_to_datetime(date)
        unpacked = told.get("Metadata", {}).get(protocol.UNPACKED, "")
        size = int(unpacked) if unpacked.isdecimal() else told["ContentLength"]
        return There(size, told["LastModified"], now - told["LastModified"])

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except botocore.exceptions.NoCredentialsError:
            problem = (
                "no keys for it were found; set DOKRUN_S3_ACCESS_KEY_ID and DOKRUN_S3_SECRET_ACCESS_KEY, "
                "or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        except botocore.exceptions.ClientError as error:
            told = error.response["Error"]
            problem = redact.text(f"{told.get('Code', '')} {told.get('Message', '')}".strip())
            problem += "; look at DOKRUN_BUCKET" if told.get("Code") == "NoSuchBucket" else ""
        except botocore.exceptions.EndpointConnectionError:
            problem = "nobody answers there; look at DOKRUN_S3_ENDPOINT_URL"
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            problem = type(error).__name__
        else:
            return
        raise StorageError(f"bucket {self.name!r}: could not {action} an object: {problem}") from None


class There(NamedTuple):
    """How large what an object holds is, when it was stored, and how long it has been there, by the store's clock."""

    size: int
    modified: datetime
    age: timedelta


@functools.cache
def _descriptions() -> botocore.loaders.Loader:
    """Have the store's API described once for all buckets of this process: reading that takes a tenth of a second."""
    return botocore.loaders.create_loader()
