"""Any S3-compatible store: put once by content, presign, fetch. The only file that imports botocore.

Kept to what every store does: no vendor's extras, no newer checksum defaults, an ETag is never taken for a digest.
"""

from __future__ import annotations

import email.utils
import functools
import hashlib
import io
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import botocore.config
import botocore.exceptions
import botocore.loaders
import botocore.session

from dokrun import compression, keys, redact
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
# What has lain there for longer is sent again where it is needed.
RENEWED_AFTER = timedelta(days=7)
# How often whoever sweeps says so, how long that holds, and how often it is looked for.
_SWEEP_TOLD_S = 20.0
_SWEEP_GOES_ON = timedelta(minutes=2)
_SWEEP_LOOK_S = 1.0


class Stored(NamedTuple):
    """An object that is there: its key, its size in bytes, and when it was stored, by the store's clock."""

    key: str
    size: int
    modified: datetime


class Bucket:
    """One bucket. Every failure is a StorageError, whose text holds no address and no key.

    Args:
        settings: which one.
        patience_s: how long an answer may keep silent before it is asked for again, in seconds.
        near: whether it lies on this machine, so that nothing is compressed for it; its address tells if nothing else.
    """

    def __init__(self, settings: BucketSettings, *, patience_s: float = PATIENCE_S, near: bool | None = None) -> None:
        self.name = settings.name
        # When some objects were last seen there, by the monotonic clock.
        self._seen: dict[str, float] = {}
        try:
            host = urllib.parse.urlsplit(settings.endpoint_url or "").hostname
            self._near = host in LOOPBACK if near is None else near
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

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Store an object, over whatever is there. The bytes are read from where they lie."""
        self._put(key, _Reader(data))

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
        there = self._look(key)
        if there is not None and there.size == size and there.age < RENEWED_AFTER:
            return False
        self._send(key, data, sha256)
        if there is not None:
            # Somebody may have seen how old it was, and be about to remove it.
            while self._is_swept():
                time.sleep(_SWEEP_LOOK_S)
            if self._look(key) is None:
                self._send(key, data, sha256)
        return True

    def _send(self, key: str, data: bytes | memoryview, sha256: str) -> None:
        view = memoryview(data).cast("B")
        if not self._near and compression.pays(view):
            with suppress(OSError):  # there is no room for it on this machine
                self._send_compressed(key, view, sha256)
                return
        reader = _Reader(view, hashlib.sha256)
        self._put(key, reader)
        if reader.digest() != sha256:
            self.delete(key)
            raise self._changed()

    def _send_compressed(self, key: str, data: memoryview, sha256: str) -> None:
        with tempfile.TemporaryFile(prefix="dokrun-") as file:
            if compression.compress(data, file) != sha256:
                raise self._changed()
            file.seek(0)
            self._put(key, file, Metadata={protocol.UNPACKED: str(data.nbytes)})

    def _changed(self) -> StorageError:
        return StorageError(f"bucket {self.name!r}: an argument was changed while it was being sent; call again")

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
        there = self._look(key)
        return None if there is None else there.modified

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
        there = self._look(keys.sweep())
        return there is not None and there.age < _SWEEP_GOES_ON

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

    def _put(self, key: str, body: Any, **more: Any) -> None:
        with self._translated("put"):
            self._s3.put_object(Bucket=self.name, Key=key, Body=body, **more)

    def _look(self, key: str) -> _There | None:
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
        return _There(size, told["LastModified"], now - told["LastModified"])

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


class _There(NamedTuple):
    """How large what an object holds is, when it was stored, and how long it has been there, by the store's clock."""

    size: int
    modified: datetime
    age: timedelta


@functools.cache
def _descriptions() -> botocore.loaders.Loader:
    """Have the store's API described once for all buckets of this process: reading that takes a tenth of a second."""
    return botocore.loaders.create_loader()


class _Reader(io.RawIOBase):
    """Lets boto3 read, and read again after a failure, from memory that is not copied; hashes what it hands out."""

    def __init__(self, data: bytes | memoryview, hasher: Callable[[], hashlib._Hash] | None = None) -> None:
        self._view = memoryview(data).cast("B")
        self._at = 0
        self._hasher = hasher
        self._hash = hasher() if hasher else None

    def digest(self) -> str | None:
        """Tell the digest of what was read since the last begin."""
        return self._hash.hexdigest() if self._hash else None

    def __len__(self) -> int:
        return self._view.nbytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._view.nbytes}[whence]
        self._at = max(0, min(base + offset, self._view.nbytes))
        if self._at == 0 and self._hasher:
            self._hash = self._hasher()
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's buffer is wider
        target = memoryview(buffer).cast("B")
        size = min(target.nbytes, self._view.nbytes - self._at)
        target[:size] = self._view[self._at : self._at + size]
        self._at += size
        if self._hash:
            self._hash.update(target[:size])
        return size
