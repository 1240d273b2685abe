"""What the client puts into the bucket, and every trouble on the way there."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proxied import faulty, quick, tasks
from storefaults import FaultyStore, StoreFault

import dokrun as dok
from dokrun import engine, keys
from dokrun.bucket import Bucket
from dokrun.emulator import Emulator
from dokrun.errors import StorageError, SubmitFailed, Tampered
from dokrun.payload import pyz

__all__ = ["faulty", "quick"]

DATA = os.urandom(100_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def bucket(faulty: FaultyStore) -> Iterator[Bucket]:
    bucket = Bucket(faulty.settings, patience_s=0.5)
    yield bucket
    bucket.close()


@pytest.fixture
def key() -> str:
    return f"tests/{keys.new_id()}"


def test_what_nobody_can_change_on_its_way_is_not_hashed_once_more_to_be_signed(
    bucket: Bucket, faulty: FaultyStore, key: str
) -> None:
    bucket.put(key, DATA)
    (sent,) = faulty.asked("PUT", f"*/{key}")
    assert sent.headers["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"
    for url, signed in {None: False, "https://s3.example": False, "http://s3.example": True}.items():
        elsewhere = Bucket(replace(faulty.settings, endpoint_url=url))
        assert elsewhere._s3.meta.config.s3["payload_signing_enabled"] == signed, url  # type: ignore[attr-defined]
        elsewhere.close()


def test_what_was_seen_there_is_not_looked_for_again_as_long_as_that_is_good(
    bucket: Bucket, faulty: FaultyStore, key: str
) -> None:
    assert bucket.put_once(key, DATA, SHA256, good_for_s=1e12), "nobody has seen it yet, however long that were good"
    assert not bucket.put_once(key, DATA, SHA256, good_for_s=1e12)
    assert [len(faulty.asked(method, f"*/{key}")) for method in ("HEAD", "PUT")] == [1, 1]
    bucket.delete(key)
    assert bucket.put_once(key, DATA, SHA256), "whoever has to know looks"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(StoreFault("refuse"), id="cell_upload_rf"),
        pytest.param(StoreFault("hang", method="PUT"), id="cell_upload_t0"),
        pytest.param(StoreFault("hang", method="PUT", phase="after"), id="cell_upload_t1"),
        pytest.param(StoreFault("reset", method="PUT"), id="reset-before"),
        pytest.param(StoreFault("reset", method="PUT", phase="after"), id="reset-after"),
        pytest.param(StoreFault("status", method="PUT", status=429), id="cell_upload_5x-429"),
        pytest.param(StoreFault("status", method="PUT", status=500), id="cell_upload_5x-500"),
        pytest.param(StoreFault("status", method="PUT", status=503, phase="after"), id="cell_upload_5x-503-after"),
        pytest.param(StoreFault("garbage", method="PUT"), id="cell_upload_mb"),
        pytest.param(StoreFault("garbage", method="PUT", phase="after"), id="cell_upload_mb-after"),
        pytest.param(StoreFault("twice", method="PUT"), id="cell_upload_du"),
        pytest.param(StoreFault("status", method="HEAD", status=503), id="look-up-fails"),
    ],
)
def test_an_upload_that_meets(bucket: Bucket, faulty: FaultyStore, key: str, fault: StoreFault) -> None:
    faulty.add(fault)
    assert bucket.put_once(key, DATA, SHA256)
    assert [it.what for it in faulty.injected] == [fault.what]
    assert bucket.read(key, len(DATA)) == DATA
    assert not bucket.put_once(key, DATA, SHA256), "it is there, once"


def test_cell_upload_sb_a_refusal_that_comes_slowly_is_heard_to_its_end_and_the_upload_tried_again(
    bucket: Bucket, faulty: FaultyStore, key: str
) -> None:
    faulty.add(StoreFault("slow-status", method="PUT", every_s=0.005))
    bucket.put(key, DATA)
    assert [request.status for request in faulty.asked("PUT", "*")] == [None, 200]
    assert len(faulty.injected) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        pytest.param(403, "ExpiredToken", id="cell_upload_ce"),
        pytest.param(403, "InvalidAccessKeyId", id="cell_upload_ce-key"),
        pytest.param(507, "InsufficientStorage", id="cell_upload_df"),
        pytest.param(403, "QuotaExceeded", id="cell_upload_df-quota"),
        pytest.param(403, "RequestTimeTooSkewed", id="cell_upload_sk"),
    ],
)
@pytest.mark.parametrize("what", ["blob", "payload"])
def test_what_the_store_refuses_fails_the_call_which_did_not_run(
    quick: FaultyStore, dok: Emulator, tmp_path: Path, *, what: str, status: int, code: str
) -> None:
    path = "*/blobs/*" if what == "blob" else "*/payload"
    quick.add(StoreFault("status", method="PUT", path=path, status=status, code=code, occurrence=None))
    before = tasks(dok)
    data = np.frombuffer(os.urandom(2 << 20), np.uint8) if what == "blob" else os.urandom(100_000)
    error = run_with(tmp_path / "started", data).exception(timeout=60)
    assert isinstance(error, SubmitFailed)
    assert error.ran == "no"
    assert code in str(error)
    assert quick.injected
    assert tasks(dok).keys() == before.keys()
    assert not (tmp_path / "started").exists()


def test_an_upload_that_fails_for_good_says_so_and_shows_no_address(
    bucket: Bucket, faulty: FaultyStore, key: str
) -> None:
    faulty.add(StoreFault("reset", method="PUT", occurrence=None))
    with pytest.raises(StorageError) as caught:
        bucket.put(key, DATA)
    assert len(faulty.injected) == 5
    assert faulty.url not in str(caught.value)


def test_cell_upload_to_an_argument_that_changes_while_it_is_sent_is_not_stored(
    bucket: Bucket, faulty: FaultyStore, key: str
) -> None:
    with pytest.raises(StorageError, match="changed while it was being sent"):
        bucket.put_once(key, DATA, "0" * 64)
    assert bucket.read(key) is None


# Through the whole road.


@dok.remote(plan="v100-32gb")
def run_with(started: Path, data: Any) -> str:
    started.touch()
    return hashlib.sha256(data).hexdigest()


def test_cell_upload_to_a_forgery_of_the_same_size_that_lies_in_the_bucket_is_never_opened(
    quick: FaultyStore, bucket: Bucket, tmp_path: Path
) -> None:
    data = np.frombuffer(os.urandom(2 << 20), np.uint8)
    forged = keys.blob(hashlib.sha256(data.tobytes()).hexdigest())
    bucket.put(forged, b"\0" * len(data))
    error = run_with(tmp_path / "started", data).exception(timeout=60)
    assert quick.asked("GET", f"*/{forged}"), "the container has seen it"
    assert not quick.asked("PUT", f"*/{forged}")[1:], "the client took it for its own"
    assert isinstance(error, Tampered)
    assert error.ran == "no"
    assert not (tmp_path / "started").exists()


def test_cell_upload_cx_a_call_that_is_cancelled_while_it_is_uploaded_makes_no_task(
    quick: FaultyStore, dok: Emulator, tmp_path: Path
) -> None:
    bucket = Bucket(quick.settings)
    packed = pyz.build(with_code=True).packed
    bucket.put_once(keys.blob(packed.sha256), packed.data or b"", packed.sha256)
    quick.add(StoreFault("hold", method="PUT", path="*/payload"))
    before = tasks(dok)
    future = run_with(tmp_path / "started", os.urandom(100_000))
    quick.wait_for("hold")
    assert future.cancel()
    quick.let_go()
    engine.reset()
    assert future.cancelled()
    assert tasks(dok).keys() == before.keys()
    assert not (tmp_path / "started").exists()


SCRIPT = """
    import sys
    from pathlib import Path

    import numpy as np

    import dokrun as dok

    # With a secret in it, even a small payload goes into the bucket.
    @dok.remote(plan="v100-32gb", secrets={"S": "1"})
    def run_with(started, data):
        started.write_text("1")
        return len(data)

    data = bytes(range(256)) * int(sys.argv[2])
    future = run_with(Path(sys.argv[1]), np.frombuffer(data, np.uint8))
    print(future.result(timeout=60), flush=True)
"""


@pytest.mark.parametrize("path", ["*/blobs/*", "*/payload"])
def test_cell_upload_k9_a_client_that_is_killed_while_it_uploads_leaves_no_task_and_nothing_in_the_way(
    account: pytest.MonkeyPatch, faulty: FaultyStore, dok: Emulator, tmp_path: Path, path: str
) -> None:
    account.setenv("DOKRUN_S3_ENDPOINT_URL", faulty.url)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    started = tmp_path / "started"
    blocks = 8192 if "blobs" in path else 4
    faulty.add(StoreFault("hang", method="PUT", path=path))
    before = tasks(dok)
    child = subprocess.Popen([sys.executable, script, started, str(blocks)], stdout=subprocess.PIPE)
    faulty.wait_for("hang")
    child.send_signal(signal.SIGKILL)
    told, _ = child.communicate(timeout=60)
    assert told == b""
    assert tasks(dok).keys() == before.keys()
    assert not started.exists()
    again = subprocess.run([sys.executable, script, started, str(blocks)], capture_output=True, timeout=60, check=True)
    assert int(again.stdout.split()[-1]) == blocks * 256
    assert len(tasks(dok).keys() - before.keys()) == 1
