"""What a session's calls are given: it comes piece by piece, is whole or is not, and makes room for others."""

from __future__ import annotations

import hashlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from brought import put
from sites import Site, site
from waiting import PATIENCE_S, wait_for

from dokrun.shim.blobs import Altered, Blobs
from dokrun.shim.digests import digest_of
from dokrun.shim.protocol import PIECE_BYTES

__all__ = ["site"]

BRIEFLY_S = 0.1

DATA = bytes(range(256)) * 8
DIGEST = hashlib.sha256(DATA).hexdigest()
LARGE = os.urandom(1 << 20) * (PIECE_BYTES >> 19) + b"and more"


class World:
    """Blobs in a folder, and how often something came."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = Blobs(str(folder), turn_s=0.0)
        self.came = 0
        self.blobs.listen(self._come)

    def _come(self) -> None:
        self.came += 1

    def need(self, size: int = len(DATA), address: str | None = None, job: str = "job") -> list[str]:
        return self.blobs.need(job, {DIGEST: [size, address]})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_pieces_count_in_their_order_only_and_each_once(world: World) -> None:
    assert world.need() == [DIGEST]
    assert put(world.blobs, DATA, 1000, DATA[1000:]) == 0, "it comes too early"
    assert put(world.blobs, DATA, 0, DATA[:1000]) == 1000
    assert put(world.blobs, DATA, 0, DATA[:1000]) == 1000, "it was sent again"
    assert put(world.blobs, DATA, 500, DATA[500:1500]) == 1000, "it overlaps"
    assert put(world.blobs, DATA, 1000, DATA[1000:] + b"more") == 1000, "it is more than there shall be"
    assert (world.need(), world.blobs.have([DIGEST]), world.came) == ([DIGEST], False, 0)
    assert put(world.blobs, DATA, 1000, DATA[1000:]) == len(DATA)
    assert put(world.blobs, DATA, 1000, DATA[1000:]) == len(DATA)
    assert (world.need(), world.blobs.have([DIGEST]), world.came) == ([], True, 1)
    assert (world.folder / DIGEST).read_bytes() == DATA


def test_what_has_another_digest_than_was_announced_is_not_there(world: World) -> None:
    world.need()
    put(world.blobs, DATA, 0, DATA[:1000])
    changed = DATA[1001:] + b"x"
    assert put(world.blobs, DATA, 1000, changed) == len(DATA)
    assert (world.blobs.have([DIGEST]), world.came) == (False, 1)
    assert "not what was announced" in world.blobs.trouble([DIGEST])
    assert world.need() == [DIGEST]
    assert put(world.blobs, DATA, 0, DATA) == len(DATA)
    assert (world.blobs.have([DIGEST]), world.blobs.trouble([DIGEST])) == (True, "")


def test_a_piece_that_is_not_what_was_vouched_for_does_not_count_and_may_come_again(world: World) -> None:
    world.need()
    put(world.blobs, DATA, 0, DATA[:500])
    with pytest.raises(Altered):
        world.blobs.put(DIGEST, 500, DATA[:500], hashlib.sha256(DATA[:1000]).hexdigest())
    assert put(world.blobs, DATA, 500, DATA[500:1000]) == 1000
    with pytest.raises(Altered):
        world.blobs.put(DIGEST, 1000, DATA[:-1000], DIGEST)
    assert (world.blobs.have([DIGEST]), world.blobs.trouble([DIGEST]), world.came) == (False, "", 0)
    assert put(world.blobs, DATA, 1000, DATA[1000:]) == len(DATA)
    assert (world.folder / DIGEST).read_bytes() == DATA


def test_what_somebody_has_begun_wrongly_is_begun_anew_by_whoever_brings_it_rightly(world: World) -> None:
    world.need()
    wrong = bytes(1000)
    world.blobs.put(DIGEST, 0, wrong, hashlib.sha256(wrong).hexdigest())
    for _ in range(2):
        assert put(world.blobs, DATA, 0, DATA[:1000]) == 1000, "as far as anybody knows"
        with pytest.raises(Altered):
            put(world.blobs, DATA, 1000, DATA[1000:])
    assert put(world.blobs, DATA, 1000, DATA[1000:]) == 0
    assert put(world.blobs, DATA, 0, DATA[:1000]) == 1000
    assert put(world.blobs, DATA, 1000, DATA[1000:]) == len(DATA)
    assert (world.folder / DIGEST).read_bytes() == DATA


def test_what_is_large_is_made_of_its_pieces_however_they_are_cut(tmp_path: Path) -> None:
    data, half = LARGE, PIECE_BYTES // 2
    name = digest_of(data)
    blobs = Blobs(str(tmp_path), turn_s=0.0)
    blobs.listen(lambda: None)
    blobs.need("job", {name: [len(data), None]})
    with pytest.raises(Altered):
        put(blobs, data, half, data[half : half + PIECE_BYTES])  # nothing tells what it would be
    for at, end, reached in (
        (0, half, half),
        (half, PIECE_BYTES, PIECE_BYTES),
        (PIECE_BYTES, 2 * PIECE_BYTES, 2 * PIECE_BYTES),
        (2 * PIECE_BYTES, len(data), len(data)),
    ):
        assert not blobs.have([name])
        assert put(blobs, data, at, data[at:end]) == reached
    assert (blobs.have([name]), blobs.trouble([name])) == (True, "")
    assert (tmp_path / name).read_bytes() == data


def test_of_what_is_large_only_the_piece_that_was_begun_wrongly_is_begun_anew(tmp_path: Path) -> None:
    data, half = LARGE, PIECE_BYTES // 2
    name, middle = digest_of(data), PIECE_BYTES + half
    blobs = Blobs(str(tmp_path), turn_s=0.0)
    blobs.listen(lambda: None)
    blobs.need("job", {name: [len(data), None]})
    put(blobs, data, 0, data[:PIECE_BYTES])
    put(blobs, data, PIECE_BYTES, bytes(half))
    for _ in range(2):
        with pytest.raises(Altered):
            put(blobs, data, middle, data[middle : 2 * PIECE_BYTES])
    assert put(blobs, data, middle, data[middle : 2 * PIECE_BYTES]) == PIECE_BYTES
    assert put(blobs, data, PIECE_BYTES, data[PIECE_BYTES : 2 * PIECE_BYTES]) == 2 * PIECE_BYTES
    assert put(blobs, data, 2 * PIECE_BYTES, data[2 * PIECE_BYTES :]) == len(data)
    assert (blobs.have([name]), (tmp_path / name).read_bytes()) == (True, data)


def test_what_nobody_needs_is_not_taken(world: World) -> None:
    with pytest.raises(KeyError):
        put(world.blobs, DATA, 0, DATA)
    assert list(world.folder.iterdir()) == []


def test_nothing_is_there_at_once(world: World) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    assert world.blobs.need("job", {empty: [0, None]}) == []
    assert world.blobs.have([empty])
    assert (world.folder / empty).read_bytes() == b""


def test_what_came_with_a_job_is_needed_no_more(world: World) -> None:
    world.blobs.add("job", DIGEST, DATA)
    assert world.need(job="other") == []
    assert world.blobs.have([DIGEST])


def test_what_has_an_address_is_fetched_and_put_by_nobody(world: World, site: Site) -> None:
    site.files["/data"] = DATA
    assert world.need(address=f"{site.url}/data") == []
    assert put(world.blobs, DATA, 0, b"other") in (0, len(DATA))
    wait_for(lambda: world.came)
    assert world.blobs.have([DIGEST])
    assert (world.folder / DIGEST).read_bytes() == DATA


def test_what_is_fetched_and_is_not_what_it_should_be_is_told_and_may_be_had_another_way(
    world: World, site: Site
) -> None:
    site.files["/data"] = DATA[::-1]
    assert world.need(address=f"{site.url}/data?signature=canary") == []
    wait_for(lambda: world.came)
    assert not world.blobs.have([DIGEST])
    assert "do not match the digest" in world.blobs.trouble([DIGEST])
    assert "canary" not in world.blobs.trouble([DIGEST])
    assert not (world.folder / DIGEST).exists()
    assert world.need() == [DIGEST]
    assert world.blobs.trouble([DIGEST]) == ""
    assert put(world.blobs, DATA, 0, DATA) == len(DATA)
    assert (world.folder / DIGEST).read_bytes() == DATA


@pytest.fixture
def small(world: World) -> Iterator[World]:
    """Where the disk takes files of a thousand bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield world
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_a_full_disk_does_not_take_is_not_there_and_may_be_sent_again(small: World) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert small.need() == [DIGEST]
    assert put(small.blobs, DATA, 0, DATA[:900]) == 900
    with pytest.raises(OSError, match="large"):
        put(small.blobs, DATA, 900, DATA[900:])
    with pytest.raises(OSError, match="large"):
        small.blobs.add("other", DIGEST, DATA)
    assert not small.blobs.have([DIGEST])
    resource.setrlimit(resource.RLIMIT_FSIZE, (before[1], before[1]))
    assert put(small.blobs, DATA, 900, DATA[900:]) == len(DATA)
    assert (small.folder / DIGEST).read_bytes() == DATA


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_no_job_needs_any_more_makes_room_the_oldest_first(tmp_path: Path) -> None:
    kept = Blobs(str(tmp_path), room=2)
    kept.listen(lambda: None)
    names = [hashlib.sha256(bytes([number])).hexdigest() for number in range(5)]

    def bring(job: str, number: int) -> None:
        kept.need(job, {names[number]: [1, None]})
        put(kept, bytes([number]), 0, bytes([number]))

    bring("kept", 0)
    for number in (1, 2, 3):
        bring(f"job {number}", number)
        kept.release(f"job {number}")
    assert files(tmp_path) == {names[0], *names[2:4]}
    # What is needed again is the last to go.
    kept.need("again", {names[2]: [1, None]})
    kept.release("again")
    # So is what has come with a job.
    kept.add("job 4", names[4], b"4")
    kept.release("job 4")
    assert files(tmp_path) == {names[0], names[2], names[4]}
    kept.release("kept")
    assert files(tmp_path) == {names[2], names[4]}
    assert kept.need("other", {names[1]: [1, None]}) == [names[1]], "it is asked for again"


def test_what_a_job_that_does_not_come_was_given_makes_room_too(tmp_path: Path) -> None:
    other = hashlib.sha256(b"01234").hexdigest()
    kept = Blobs(str(tmp_path), room=len(DATA), waited_s=0.0)
    kept.listen(lambda: None)
    kept.need("does not", {other: [5, None], DIGEST: [len(DATA), None]})
    kept.need("comes", {DIGEST: [len(DATA), None]})
    put(kept, b"01234", 0, b"0123")
    put(kept, DATA, 0, DATA)
    kept.taken("comes")
    kept.release_awaited()
    assert files(tmp_path) == {DIGEST, other}, "there is room for what may still be needed"
    kept.release("comes")
    assert files(tmp_path) == {DIGEST}
    with pytest.raises(KeyError):
        put(kept, b"01234", 4, b"4")
    assert kept.need("another", {DIGEST: [len(DATA), None]}) == []


def test_as_long_as_pieces_come_a_job_is_waited_for(tmp_path: Path) -> None:
    kept = Blobs(str(tmp_path), room=0, waited_s=PATIENCE_S)
    kept.listen(lambda: None)
    kept.need("job", {DIGEST: [len(DATA), None]})
    put(kept, DATA, 0, DATA[:1000])
    kept.release_awaited()
    assert put(kept, DATA, 1000, DATA[1000:]) == len(DATA)


def test_what_is_fetched_for_a_job_that_does_not_come_is_there_for_others(tmp_path: Path, site: Site) -> None:
    kept = Blobs(str(tmp_path), room=0, waited_s=0.0)
    came = threading.Event()
    kept.listen(came.set)
    arrived, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        arrived.set()
        assert go_on.wait(PATIENCE_S)

    site.files["/slow"], site.before["/slow"] = DATA, slowly
    kept.need("does not come", {DIGEST: [len(DATA), f"{site.url}/slow"]})
    assert arrived.wait(PATIENCE_S)
    kept.release_awaited()
    assert kept.need("comes", {DIGEST: [len(DATA), None]}) == [], "it is under way"
    kept.taken("comes")
    go_on.set()
    assert came.wait(PATIENCE_S)
    kept.release_awaited()
    assert kept.have([DIGEST])
    kept.release("comes")
    assert files(tmp_path) == set(), "there is no room"


def test_pieces_that_overtake_one_another_wait_for_their_turn(tmp_path: Path) -> None:
    blobs, data = Blobs(str(tmp_path)), bytes(range(90))
    blobs.listen(lambda: None)
    digest = hashlib.sha256(data).hexdigest()
    blobs.need("a", {digest: [len(data), None]})
    told: list[int] = []
    threads = [
        threading.Thread(target=lambda at=at: told.append(put(blobs, data, at, data[at : at + 30]))) for at in (60, 30)
    ]
    for thread in threads:
        thread.start()
    assert not told
    assert put(blobs, data, 0, data[:30]) >= 30
    for thread in threads:
        thread.join()
    assert (blobs.have([digest]), blobs.trouble([digest]), max(told)) == (True, "", 90)
    assert (tmp_path / digest).read_bytes() == data


def test_what_lies_there_is_what_was_hashed_whoever_comes_for_the_same_place(tmp_path: Path) -> None:
    blobs, data = Blobs(str(tmp_path)), bytes(range(90))
    blobs.listen(lambda: None)
    digest = hashlib.sha256(data).hexdigest()
    blobs.need("a", {digest: [len(data), None]})
    first = threading.Thread(target=put, args=(blobs, data, 30, data[30:60]))
    first.start()
    wait_for(lambda: (tmp_path / digest).exists() and (tmp_path / digest).stat().st_size == 60)
    # Its client sends it once more, and has changed it meanwhile; another piece overlaps.
    others = [threading.Thread(target=put, args=(blobs, data, at, bytes(30))) for at in (30, 45)]
    for other in others:
        other.start()
        other.join(BRIEFLY_S)
        assert other.is_alive()
    put(blobs, data, 0, data[:30])
    for thread in (first, *others):
        thread.join(PATIENCE_S)
    assert put(blobs, data, 60, data[60:]) == 90
    assert (blobs.have([digest]), (tmp_path / digest).read_bytes()) == (True, data)
