"""What calls are given that lies in the bucket: in parts, ahead of their turns, and gone when nobody needs it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import chores
import numpy as np
import pytest
from proxied import faulty, quick
from storefaults import FaultyStore, StoreFault, expired
from test_web import serve, servers

import dokrun as dok
from dokrun import keys
from dokrun.api import Client
from dokrun.bucket import Bucket
from dokrun.engine.packing import MOST_HELD_BYTES
from dokrun.shim import fetch, protocol
from dokrun.shim.digests import digest_of
from dokrun.shim.envelope import Segment, segment_of
from dokrun.shim.pending import Pending
from dokrun.shim.supplies import Supplies

__all__ = ["faulty", "quick", "servers"]

LONG_BYTES = 5 * fetch.SMALLEST_PART


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    return tmp_path / "starts"


def stored(faulty: FaultyStore, data: bytes) -> tuple[str, str]:
    """Put some bytes into the bucket. Tells their address and their digest."""
    bucket, sha256 = Bucket(faulty.settings), digest_of(data)
    bucket.put(keys.blob(sha256), data)
    address = bucket.address(keys.blob(sha256))
    bucket.close()
    return address, sha256


def arrays(count: int) -> list[np.ndarray]:
    """Make arrays that differ and travel as objects of their own."""
    return [np.random.default_rng(number).random(200_000) for number in range(count)]


def blob(array: np.ndarray) -> str:
    return f"*/{keys.blob(segment_of(array.data).sha256)}"


# One object.


def test_a_file_that_takes_long_comes_in_parts_at_the_same_time(faulty: FaultyStore, tmp_path: Path) -> None:
    data, path = os.urandom(LONG_BYTES), tmp_path / "file"
    address, sha256 = stored(faulty, data)
    for _ in range(fetch.PARTS - 1):
        # Of those that no rule before it has taken.
        faulty.add(StoreFault("hold", "GET", occurrence=2))
    thread = threading.Thread(target=fetch.fetch, args=(address, str(path), sha256, len(data)), kwargs={"alone_s": 0.0})
    thread.start()
    faulty.wait_for("hold", fetch.PARTS - 1)
    assert not path.exists()
    faulty.let_go()
    thread.join()
    assert path.read_bytes() == data
    ranges = [request.headers.get("Range", "") for request in faulty.asked("GET", "*")]
    assert len(ranges) == fetch.PARTS == len(set(ranges))


def test_a_file_that_comes_soon_is_asked_for_once(faulty: FaultyStore, tmp_path: Path) -> None:
    data, path = os.urandom(LONG_BYTES), tmp_path / "file"
    address, sha256 = stored(faulty, data)
    fetch.fetch(address, str(path), sha256, len(data), alone_s=600.0)
    assert path.read_bytes() == data
    assert len(faulty.asked("GET", "*")) == 1


def test_a_part_that_breaks_goes_on_where_it_broke(faulty: FaultyStore, tmp_path: Path) -> None:
    data, path = os.urandom(LONG_BYTES), tmp_path / "file"
    address, sha256 = stored(faulty, data)
    faulty.add(StoreFault("cut", "GET", occurrence=2, at_byte=1000))
    fetch.fetch(address, str(path), sha256, len(data), alone_s=0.0)
    assert [it.what for it in faulty.injected] == ["cut"]
    assert path.read_bytes() == data
    begun = [begin_of(request.headers["Range"]) for request in faulty.asked("GET", "*") if "Range" in request.headers]
    assert any(start + 1000 in begun for start in begun)


def test_a_file_that_breaks_begins_again_where_the_store_knows_no_ranges(servers: ExitStack, tmp_path: Path) -> None:
    data, path = os.urandom(LONG_BYTES), tmp_path / "file"
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    # Other bytes than those that come then: of what was cut nothing stays.
    server = serve(servers, head + bytes(LONG_BYTES // 2), head + data)
    fetch.fetch(server.url, str(path), digest_of(data), len(data))
    assert path.read_bytes() == data
    assert [b"\r\nRange: " in heard for heard in server.heard] == [False, True]


@pytest.mark.parametrize(
    ("fault", "said"),
    [(expired(occurrence=3), "HTTP 403"), (StoreFault("tamper", "GET", occurrence=3), "do not match the digest")],
)
def test_a_part_that_cannot_be_had_or_is_another_spoils_all_of_it(
    faulty: FaultyStore, tmp_path: Path, fault: StoreFault, said: str
) -> None:
    data, path = os.urandom(LONG_BYTES), tmp_path / "file"
    address, sha256 = stored(faulty, data)
    faulty.add(fault)
    with pytest.raises(fetch.FetchError, match=said):
        fetch.fetch(address, str(path), sha256, len(data), alone_s=0.0)
    assert [it.what for it in faulty.injected] == [fault.what]
    assert not path.exists()


def begin_of(given: str) -> int:
    return int(given.removeprefix("bytes=").partition("-")[0])


# Many of them, in a folder.


def test_no_more_lies_there_than_there_is_room_for(faulty: FaultyStore, tmp_path: Path) -> None:
    segments, addresses = shelf(faulty, 5)
    needs: dict[int, tuple[str, ...]] = dict(enumerate((sha256,) for sha256 in segments))
    supplies = Supplies(segments, addresses, str(tmp_path), [], needs, room_bytes=1)
    for number, sha256 in enumerate(segments):
        assert supplies.reach(number, 5) == (number + 1, None)
        assert [path.name for path in tmp_path.iterdir()] == [sha256]
        supplies.release((number, number + 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(30)
def test_what_cannot_be_had_takes_no_room_and_keeps_nobody_waiting(faulty: FaultyStore, tmp_path: Path) -> None:
    segments, addresses = shelf(faulty, 20)
    digests, needs = list(segments), dict[int, tuple[str, ...]]()
    # Each call needs something of its own that is not there, and something that is.
    needs.update((n, (digests[2 * n], digests[2 * n + 1])) for n in range(10))
    for sha256 in digests[::2]:
        del addresses[sha256]
    supplies = Supplies(segments, addresses, str(tmp_path), [], needs, room_bytes=1)
    for number in range(10):
        reached, failure = supplies.reach(number, 10)
        assert (reached, failure and failure["ran"]) == (number, "no")
        supplies.release((number, number + 1))


def test_calls_that_come_back_while_another_waits_in_vain_go_before_it(faulty: FaultyStore, tmp_path: Path) -> None:
    segments, addresses = shelf(faulty, 1)
    (sha256,) = segments
    faulty.add(StoreFault("hold", "GET", f"*/{sha256}"))
    Bucket(faulty.settings).put(keys.blob(sha256), os.urandom(1000))  # it is not what it was any more
    supplies = Supplies(segments, addresses, str(tmp_path), [], {5: (sha256,)})
    failed: list[Any] = []
    pending = Pending([(3, 6)], 1, "", lambda span, failure: failed.append((span, failure["ran"])), supplies)
    assert [pending.take(1, 0.0), pending.take(1, 0.0)] == [(3, 4), (4, 5)]
    taken: list[Any] = []
    waiting = threading.Thread(target=lambda: taken.append(pending.take(1, 0.0)))
    waiting.start()
    faulty.wait_for("hold")
    pending.give_back((4, 5))
    pending.give_back((3, 4))
    faulty.let_go()
    waiting.join()
    assert taken == [(3, 4)]
    assert failed == []
    assert [pending.take(1, 0.0), pending.take(1, 0.0)] == [(4, 5), None]
    assert failed == [((5, 6), "no")]


def shelf(faulty: FaultyStore, count: int) -> tuple[dict[str, Segment], dict[str, str]]:
    """Put some objects into the bucket. Tells their segments and their addresses, by digest."""
    segments, addresses = {}, {}
    for _ in range(count):
        data = os.urandom(1000)
        address, sha256 = stored(faulty, data)
        segments[sha256], addresses[sha256] = Segment(sha256, len(data)), address
    return segments, addresses


# On the whole road.


def test_what_many_calls_are_given_is_sent_at_the_same_time_and_may_be_changed_meanwhile(
    quick: FaultyStore, starts: Path
) -> None:
    for _ in range(3):
        quick.add(StoreFault("hold", "PUT", "*/blobs/*", occurrence=1))

    def items() -> Iterator[tuple[Path, np.ndarray]]:
        array = np.zeros(200_000)
        for number in range(3):
            array[:] = number
            yield starts, array
        quick.wait_for("hold", 3)
        quick.let_go()

    assert list(first_of.starmap(items())) == [0.0, 1.0, 2.0]
    assert {request.status for request in quick.asked("PUT", "*/blobs/*")} == {200}


@dok.remote(plan="v100-32gb", timeout=60)
def first_of(starts: Path, array: np.ndarray) -> float:
    chores.begin(starts)
    return float(array[0])


def test_of_many_small_arrays_no_more_travels_in_the_payload_than_is_soon_there(
    quick: FaultyStore, starts: Path
) -> None:
    given = [np.full(40_000, number) for number in range(80)]
    assert list(chores.size_of.map([starts] * 80, given)) == [40_000] * 80
    (payload,) = quick.asked("PUT", "*/payload")
    apart = sum(len(request.body) == given[0].nbytes for request in quick.asked("PUT", "*/blobs/*"))
    assert len(payload.body) < MOST_HELD_BYTES + (1 << 20)
    assert apart == 80 - MOST_HELD_BYTES // given[0].nbytes


def test_where_one_cannot_be_sent_nothing_is(quick: FaultyStore, starts: Path, client: Client) -> None:
    before = {task.id for task in client.tasks.iterate()}
    one, other, third = arrays(3)
    quick.add(StoreFault("status", "PUT", blob(other), status=403, occurrence=None))
    with pytest.raises(dok.SubmitFailed, match="AccessDenied"):
        chores.size_of.map([starts] * 3, [one, other, third])
    assert [it.what for it in quick.injected] == ["status"]
    assert {task.id for task in client.tasks.iterate()} == before


def test_a_call_does_not_wait_for_what_the_next_one_is_given(quick: FaultyStore, starts: Path) -> None:
    one, other = arrays(2)
    quick.add(StoreFault("hold", "GET", blob(other)))
    coming = chores.size_of.map([starts] * 2, [one, other])
    assert next(coming) == one.size
    quick.wait_for("hold")
    assert chores.started(starts) == 1
    quick.let_go()
    assert list(coming) == [other.size]


def test_what_could_not_be_fetched_for_one_call_is_fetched_by_another_task(
    quick: FaultyStore, starts: Path, client: Client
) -> None:
    one, other = arrays(2)
    quick.add(expired(blob(other), method="GET"))
    coming = chores.size_of.map([starts] * 2, [one, other])
    assert list(coming) == [one.size, other.size]
    assert [it.what for it in quick.injected] == ["status"]
    assert chores.started(starts) == 2


def test_what_can_never_be_fetched_fails_its_call_alone_which_did_not_run(quick: FaultyStore, starts: Path) -> None:
    one, other, third = arrays(3)
    quick.add(expired(blob(other), method="GET", occurrence=None))
    told: list[Any] = list(chores.size_of.map([starts] * 3, [one, other, third], return_exceptions=True))
    failed = told[1]
    assert [told[0], told[2]] == [one.size, third.size]
    assert isinstance(failed, dok.ShimFailed)
    assert failed.ran == "no"
    assert "could not be received" in str(failed)
    assert chores.started(starts) == 2


def test_what_is_another_than_was_sent_is_refused_to_its_call_alone(quick: FaultyStore, starts: Path) -> None:
    one, other, third = arrays(3)
    quick.add(StoreFault("tamper", "GET", blob(other)))
    told: list[Any] = list(chores.size_of.map([starts] * 3, [one, other, third], return_exceptions=True))
    assert [it.what for it in quick.injected] == ["tamper"]
    assert [told[0], told[2]] == [one.size, third.size]
    assert isinstance(told[1], dok.Tampered)
    assert told[1].ran == "no"
    assert chores.started(starts) == 2


def test_bytes_that_many_calls_are_given_are_uploaded_once_and_arrive_as_bytes(quick: FaultyStore) -> None:
    data = os.urandom(protocol.BLOB_SIZE)
    assert list(looked_at.map([data] * 20, [{"number": number} for number in range(20)])) == [
        (True, data[:4], number) for number in range(20)
    ]
    key = keys.blob(digest_of(data))
    assert [request.status for request in quick.asked("PUT", f"*/{key}")] == [200]


@dok.remote(plan="v100-32gb", timeout=60)
def looked_at(data: bytes, more: dict[str, int]) -> tuple[bool, bytes, int]:
    """Tell what was given."""
    return type(data) is bytes, data[:4], more["number"]


@pytest.mark.usefixtures("account")
def test_a_file_is_gone_when_the_last_call_that_is_given_it_has_ended(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(3)]
    for path in paths:
        path.write_bytes(os.urandom(protocol.BLOB_SIZE))
    first, second, third = map(dok.File, paths)
    told = list(there.map([first, second, first, third], [paths[0]] * 4))
    assert told == [True, True, True, False]


@dok.remote(plan="v100-32gb", timeout=60)
def there(_given: Path, other: Path) -> bool:
    """Tell whether a file of that size and name lies where calls find what they are given."""
    return any(found.name == other.name for found in Path(os.environ[protocol.GIVEN_DIR]).glob("*/*"))
