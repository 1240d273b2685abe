"""`dokrun rescue` saves what ended calls have left; `dokrun gc` removes what nobody needs, and nothing else."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from account import Account, account
from chores import fail, vanish
from desk import Shell, dokrun
from moto.s3.models import s3_backends
from places import JOB, Place, abandoned, line, open_place, wait_for

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket, Stored
from dokrun.config import BucketSettings
from dokrun.emulator.clock import SystemClock
from dokrun.emulator.objects import ObjectStore
from dokrun.engine.sweep import Lifetime, remove, unneeded
from dokrun.errors import StorageError
from dokrun.secret import Secret

__all__ = ["account", "dokrun"]

DAY = timedelta(days=1)
remote = dok.remote(plan="v100-32gb")


@remote
def grids(number: int) -> Any:
    (dok.artifact_dir() / f"{number}.txt").write_text(str(number))
    return {"number": number, "grid": np.full(50_000, number, dtype=np.int64), "frozen": frozen(number)}


def frozen(number: int) -> Any:
    array = np.full(20_000, number, dtype=np.float64)
    array.flags.writeable = False
    return array


@remote
def refuses(number: int) -> int:
    raise ValueError(f"not {number}")


@pytest.fixture
def told(account: Account, monkeypatch: pytest.MonkeyPatch) -> Account:
    """The account, told by the environment as well."""
    for name, value in {**account.environ, "DOKRUN_STATE_DIR": str(account.folder / "state")}.items():
        monkeypatch.setenv(name, value)
    return account


def folders(at: Path) -> dict[str, Path]:
    return {path.name.rpartition("-")[0]: path for path in at.iterdir()}


def test_results_and_files_are_saved_as_they_are_without_opening_any(
    told: Account, dokrun: Shell, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    single, many, refused = grids(7), grids.map(range(3)), refuses(1)
    list(many)
    lost, died = vanish(told.starts), fail(told.starts, "last words")
    assert single.result(timeout=60)["number"] == 7
    for future in (refused, lost, died):
        assert future.exception(timeout=60) is not None
    saved = dokrun("rescue --all -o", tmp_path / "out")
    assert saved.status == 0, saved.err
    there = tmp_path / "out"
    kept = {path.name: json.loads((path / "outcome.json").read_text()) for path in there.iterdir()}
    assert sorted(told["name"] for told in kept.values()) == ["fail", "grids", "grids", "refuses"]
    of_single = there / keys.shortened(single.handle)
    value = pickle.loads((of_single / "value.pickle").read_bytes())
    assert (value["number"], value["grid"].sum(), value["grid"].flags.writeable) == (7, 350_000, True)
    assert (value["frozen"].sum(), value["frozen"].flags.writeable) == (140_000, False)
    assert (of_single / "files" / "7.txt").read_text() == "7"
    (of_many,) = [path for path in there.iterdir() if path.name.startswith("grids-") and path != of_single]
    values = [pickle.loads((of_many / "calls" / f"{number}.value.pickle").read_bytes()) for number in range(3)]
    assert [each["grid"][0] for each in values] == [0, 1, 2]
    of_refused = there / keys.shortened(refused.handle)
    assert str(pickle.loads((of_refused / "exception.pickle").read_bytes())) == "not 1"
    failed = kept[keys.shortened(died.handle)]["calls"]
    assert [(call["kind"], call["ran"]) for call in failed] == [("failure", "yes")]
    assert "1 with nothing left" in saved.err, "the container that was lost"
    again = dokrun("rescue --all --json -o", there)
    assert {each["what"] for each in again.json} == {"there", "gone"}
    assert not touched.exists()


def test_what_cannot_be_verified_is_told_and_not_kept(told: Account, dokrun: Shell, tmp_path: Path) -> None:
    future = grids(1)
    future.result(timeout=60)
    name = next(name for name in _names(told.archive(future.task_id)) if "/reports/" in name)

    def forge(files: dict[str, bytes]) -> None:
        files[name] = files[name][:-70] + bytes(70)

    told.change(future.task_id, forge)
    done = dokrun("rescue -o", tmp_path / "out", keys.shortened(future.handle))
    assert (done.status, "1 results could not be verified, and are not kept" in done.out) == (1, True)
    outcome = json.loads((tmp_path / "out" / keys.shortened(future.handle) / "outcome.json").read_text())
    assert [(call["kind"], "file" in call) for call in outcome["calls"]] == [("unreadable", False)]
    told.archive(future.task_id).write_bytes(b"no archive")
    failed = dokrun("rescue -o", tmp_path / "other", keys.shortened(future.handle))
    assert (failed.status, list((tmp_path / "other").iterdir())) == (1, [])
    (tmp_path / "file").touch()
    assert dokrun("rescue --all -o", tmp_path / "file").status == 1


def _names(archive: Path) -> list[str]:
    import tarfile

    with tarfile.open(archive) as opened:
        return opened.getnames()


# What nobody needs.


class Past(SystemClock):
    """A clock that is late: what the emulator does now is long ago."""

    def __init__(self, ago: timedelta) -> None:
        self._ago = ago

    def now(self) -> datetime:
        return super().now() - self._ago


def made_old(store: ObjectStore, key: str, days: float) -> None:
    """Let the store say that an object was stored so many days ago."""
    found = s3_backends["123456789012"]["aws"].buckets[store.bucket].keys[key]
    found.last_modified = datetime.now(timezone.utc) - timedelta(days=days)


def bucket_of(store: ObjectStore) -> Bucket:
    return Bucket(BucketSettings(store.bucket, store.url, None, "anybody", Secret("canary-of-the-bucket")))


@pytest.fixture
def late(tmp_path: Path) -> Iterator[tuple[Place, ObjectStore]]:
    """A machine whose tasks were all made twenty days ago, and a store of its own."""
    store = ObjectStore("dokrun-late")
    with closing(store), open_place(store, tmp_path, clock=Past(20 * DAY)) as place:
        yield place, store


GIVEN = (
    JOB
    + """
    import hashlib
    given = b"g" * (2 << 20)

    @dok.remote(plan="v100-32gb", timeout=120)
    def second(data):
        return hashlib.sha256(data).hexdigest()

    first = job(1, starts, gate)
    while not os.path.exists(starts): time.sleep(0.01)
    behind = second(given)
    print(behind.handle, flush=True)
    print(behind.result(), flush=True)
"""
)


def test_a_call_that_waits_for_weeks_finds_all_that_it_needs_and_the_rest_goes(late: tuple[Place, ObjectStore]) -> None:
    place, store = late
    ended = abandoned(place)
    place.gate.touch()
    wait_for(lambda: place.tasks()[0].ended)
    place.gate.unlink()
    place.starts.unlink()
    child = place.start(GIVEN)
    line(child)
    wait_for(lambda: len(place.tasks()) == 3 and place.tasks()[0].status == "waiting")
    with closing(bucket_of(store)) as bucket:
        needed = [key for key in bucket.keys(keys.all_ours()) if "/blobs/" in key]
        put, unused = dok.put, keys.blob("0" * 64)
        place.here()
        kept = put(b"k" * (2 << 20))
        bucket.put(unused, b"nobody's")
        for key in bucket.keys(keys.all_ours()):
            made_old(store, key, 24 if key in needed else 40)
        of_ended = keys.read_handle(ended)
        assert of_ended is not None
        would = place.dokrun("gc", "--older-than", "14d", "--dry-run", "--json")
        listed = {row["key"]: row["why"] for row in json.loads(would.stdout)}
        assert unused in bucket.keys(keys.all_ours()), "it was only asked"
        done = place.dokrun("gc", "--older-than", "14d")
        assert done.returncode == 0, done.stderr
        left = bucket.keys(keys.all_ours())
        assert unused in listed
        assert unused not in left
        assert {key for key in left if keys.parts(key)[1] == of_ended.job_id} == set()
        assert set(needed) <= set(left)
        assert any(keys.parts(key)[0] == "put" for key in left)
        assert dok.put is put
        assert set(listed) & set(left) == set()
        place.gate.touch()
        assert len(line(child)) == 64, "the digest of all that it was given"
        engine_of_kept = place.here()
        assert engine_of_kept.load(kept) == b"k" * (2 << 20)  # type: ignore[arg-type]  # it stands for what it is
        sure = place.dokrun("gc", "--puts", "--older-than", "30d")
        assert sure.returncode == 0
        assert not [key for key in bucket.keys(keys.all_ours()) if keys.parts(key)[0] == "put"]
    short = place.dokrun("gc", "--older-than", "3d")
    assert (short.returncode, "14d is the least" in short.stderr) == (2, True)


def test_what_is_needed_again_while_it_is_removed_is_there_afterwards(store: ObjectStore) -> None:
    data = b"again" * 100
    import hashlib

    digest = hashlib.sha256(data).hexdigest()
    key = keys.blob(digest)
    with closing(bucket_of(store)) as bucket:
        assert bucket.put_once(key, data, digest)
        assert not bucket.put_once(key, data, digest), "it is fresh"
        made_old(store, key, 40)
        before = bucket.modified(key)
        sent: list[bool] = []
        with bucket.sweeping() as tell:
            needs = threading.Thread(target=lambda: sent.append(bucket.put_once(key, data, digest)))
            needs.start()
            wait_for(lambda: bucket.modified(key) != before)
            tell()
            # Whoever sweeps has looked at it before.
            bucket.delete(key)
            assert sent == [], "it waits until nothing is being removed"
        needs.join(60)
        assert sent == [True]
        assert bucket.read(key) == data
        bucket.delete(key)


NOW = datetime(2026, 11, 26, tzinfo=timezone.utc)
OVER, OPEN = "a" * 32, "b" * 32


@pytest.mark.parametrize(
    ("key", "days", "goes"),
    [
        (keys.payload(OVER), 4, True),
        (keys.payload(OVER), 2, False),
        (keys.payload(OPEN), 90, False),
        (keys.payload("c" * 32), 8, True),
        (keys.payload("c" * 32), 6, False),
        (keys.claim(OVER, 1), 6, False),
        (keys.claim(OVER, 1), 8, True),
        (keys.claim(OPEN, 1), 90, False),
        (keys.checkpoint(OVER, 1, 0), 20, False),
        (keys.checkpoint(OVER, 1, 0), 31, True),
        (keys.checkpoint(OPEN, 1, 0), 90, False),
        (keys.blob("d" * 64), 29, False),
        (keys.blob("d" * 64), 31, False),
        (keys.blob("d" * 64), 60, True),
        (keys.blob("e" * 64), 60, False),
        (keys.put("e" * 64), 60, False),
        (keys.probe("left"), 60, False),
        ("dokrun/1/newer/thing", 400, False),
    ],
)
def test_an_object_goes_by_its_job_and_by_its_age(key: str, days: int, *, goes: bool) -> None:
    jobs = {
        OVER: Lifetime(NOW - 5 * DAY, NOW - 4 * DAY),
        # It needs what was stored eight days before it began at the earliest.
        OPEN: Lifetime(NOW - 40 * DAY, None),
    }
    objects = [Stored(key, 1, NOW - days * DAY)]
    if key == keys.blob("e" * 64):
        objects.append(Stored(keys.put("e" * 64), 0, NOW))
    found = list(unneeded(objects, jobs, NOW, 30 * DAY))
    assert [one.stored.key for one in found] == ([key] if goes else [])


@pytest.mark.parametrize(
    ("ended", "goes"), [(None, False), (NOW - DAY / 2, False), (NOW - 2 * DAY, True)], ids=["open", "just over", "over"]
)
def test_what_was_put_goes_only_where_it_is_asked_for_and_no_call_may_be_given_it(
    ended: datetime | None, *, goes: bool
) -> None:
    jobs = {OVER: Lifetime(NOW - 3 * DAY, ended)}
    objects = [Stored(key("e" * 64), 1, NOW - 60 * DAY) for key in (keys.put, keys.blob)]
    found = unneeded(objects, jobs, NOW, 30 * DAY, puts=True)
    assert [one.stored for one in found] == (objects if goes else [])


def test_one_sweeps_at_a_time(store: ObjectStore) -> None:
    with closing(bucket_of(store)) as bucket, bucket.sweeping():
        with pytest.raises(StorageError, match="is being swept by somebody else"), bucket.sweeping():
            pass
        assert bucket.read(keys.sweep()) is not None, "the first one goes on"


def test_what_was_stored_again_after_it_was_found_stays(store: ObjectStore) -> None:
    first, second = keys.blob("1" * 64), keys.blob("2" * 64)
    with closing(bucket_of(store)) as bucket:
        for key in (first, second):
            bucket.put(key, b"old")
            made_old(store, key, 60)
        # Many stores list milliseconds, and tell whole seconds of one object.
        listed = [
            one._replace(modified=one.modified.replace(microsecond=123_000)) for one in bucket.stored(keys.all_ours())
        ]
        found = list(unneeded(listed, {}, datetime.now(timezone.utc), 30 * DAY))
        assert {first, second} <= {one.stored.key for one in found}
        bucket.put(second, b"new")
        gone = {one.stored.key: gone for one, gone in remove(bucket, found)}
        assert (gone[first], gone[second]) == (True, False)
        assert (bucket.read(first), bucket.read(second)) == (None, b"new")
        assert bucket.read(keys.sweep()) is None
        bucket.delete(second)
