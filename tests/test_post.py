"""The reports of a session's calls: each is told, and stays until it is known to have come to whoever wants it."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from dokrun.shim.blobs import Blobs
from dokrun.shim.envelope import pack, unnamed
from dokrun.shim.job import Job
from dokrun.shim.mail import Event, Mail
from dokrun.shim.opened import Opened
from dokrun.shim.post import Post
from dokrun.shim.protocol import PIECE_BYTES
from dokrun.shim.serve import Stretch

SIZE = len(pack({"call": 1}, []))
# How much is told at once: two reports.
MOST = 2 * SIZE + 1


class Box(Mail):
    """Takes note of which calls are told of at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.posts: list[list[int]] = []

    def post(self, *events: Event) -> None:
        self.posts.append([event.told["call"] for event in events])
        super().post(*events)


class World:
    """A job of four calls, which two want to know of, and the post."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = Opened(1, Blobs(str(folder)))
        self.opened.listen(lambda _span, _failure: None, lambda _job: None)
        self.post = Post(str(folder), self.opened.job_of, MOST)
        self.first, self.second = Box(), Box()
        header = {"job": "a", "calls": [{"count": 4, "timeout_s": 1}]}
        job = self.opened.add(header, "a", (), self.first)
        assert job is not None
        self.job: Job = job

    def report(self, *numbers: int) -> None:
        """Hear what calls have come to, in a file."""
        path = self.folder / f"report-{numbers[0]}"
        path.write_bytes(b"".join(pack({"call": number}, []) for number in numbers))
        self.post.add(str(path), {}, good=True)

    def come(self, mail: Mail, *numbers: int) -> None:
        """Hear from somebody which events have come."""
        self.post.come(mail.forget(0, numbers), mail)


def told(mail: Mail, after: int = 0) -> list[tuple[int, int]]:
    """Tell of which calls somebody is told, and how many bytes go with that."""
    return [(event.told["call"], len(event.data)) for _, event in mail.after(after, 0.0, 1 << 20)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_while_much_waits_to_be_taken_reports_are_not_held_but_fetched(world: World) -> None:
    world.report(1, 2, 3)
    assert told(world.first) == [(1, SIZE), (2, SIZE), (3, 0)]
    event = world.first.after(2, 0.0, MOST)[0][1]
    assert event.told["size"] == SIZE, "so it shows that more is to be fetched"
    assert world.post.read(3, 0, SIZE) == pack({"call": 3}, [])
    world.come(world.first, 1)
    world.report(4)
    assert told(world.first) == [(2, SIZE), (3, 0), (4, SIZE)]
    world.come(world.first, 2, 3, 4)
    assert world.post.all_taken
    assert list(world.folder.iterdir()) == []


def test_the_reports_of_a_file_are_told_together_to_each_who_wants_to_know_of_them(world: World) -> None:
    world.job.mails.append(world.second)
    world.report(1, 2, 3)
    world.post.failed((4, 5), {})
    assert world.first.posts == world.second.posts == [[1, 2, 3], [4]]


# Some pieces, the last of them cut; the worker tells of each what it has written.
PIECES = 3
LARGE = pack({"call": 1}, [unnamed(os.urandom(PIECES * PIECE_BYTES - (4 << 20)))])


def sha256(at: int) -> str:
    return hashlib.sha256(LARGE[at : at + PIECE_BYTES]).hexdigest()


def piece(world: World, at: int) -> tuple[bytes, str]:
    """Tell a piece of the large report, as it gets to whoever asks, and the digest that it is vouched for with."""
    data, digest = world.post.piece(1, at)
    if not isinstance(data, Stretch):
        return data, digest
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sending = threading.Thread(target=data.send, args=(theirs,))
        sending.start()
        came = ours.recv(len(data), socket.MSG_WAITALL)
        sending.join(PATIENCE_S)
    return came, digest


@pytest.mark.parametrize("untold", [0, 1, PIECES])
def test_each_piece_of_a_large_report_goes_with_its_digest(world: World, untold: int) -> None:
    before = pack({"call": 2}, [])
    (world.folder / "report").write_bytes(before + LARGE)
    digests = [sha256(number * PIECE_BYTES) for number in range(PIECES - untold)]
    world.post.add(str(world.folder / "report"), {"1": digests}, good=True)
    for at in (0, PIECE_BYTES, 2 * PIECE_BYTES, 0, 1000, len(LARGE)):
        assert piece(world, at) == (LARGE[at : at + PIECE_BYTES], sha256(at))


def test_what_a_worker_has_told_of_a_report_is_taken_once_and_then_what_lies_there(world: World) -> None:
    (world.folder / "report").write_bytes(LARGE)
    world.post.add(str(world.folder / "report"), {"1": ["told"] * PIECES}, good=True)
    assert [piece(world, PIECE_BYTES) for _ in range(3)] == [
        (LARGE[PIECE_BYTES : 2 * PIECE_BYTES], digest) for digest in ("told", *[sha256(PIECE_BYTES)] * 2)
    ]


def test_of_a_report_that_was_cut_what_is_left_is_told_when_it_is_asked_for_again(world: World) -> None:
    path = world.folder / "report"
    path.write_bytes(LARGE)
    world.post.add(str(path), {"1": [sha256(0)]}, good=True)
    path.write_bytes(LARGE[:1000])
    data, _ = world.post.piece(1, 0)
    assert isinstance(data, Stretch)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError, match="was cut"):
        data.send(theirs)
    assert piece(world, 0) == (LARGE[:1000], hashlib.sha256(LARGE[:1000]).hexdigest())


def test_for_somebody_who_is_not_heard_nothing_is_held_and_all_that_nobody_took_is_told_again(world: World) -> None:
    world.report(1, 2)
    world.come(world.first, 1)
    world.post.put_away(world.first)
    world.report(3)
    assert told(world.first) == []
    # Whoever comes in place of that one fetches it.
    assert world.post.tell_too("a", world.second) == [1, 2]
    assert told(world.second) == [(2, 0), (3, 0)]
    world.post.open(world.first)
    assert told(world.first, 2) == [(2, 0), (3, 0)]
    # Nothing is held, so there is room again.
    world.report(4)
    assert told(world.first, 4) == [(4, SIZE)]


def test_what_the_attempts_of_a_job_came_to_is_told_too_and_no_other_jobs(world: World) -> None:
    for ticket in ("a.1.2", "ab"):
        header = {"job": "a", "ticket": ticket, "calls": [{"count": 4, "timeout_s": 1}], "chosen": [1]}
        assert world.opened.add(header, ticket, (), world.first) is not None
    world.report(1)
    world.report(6, 10)
    assert world.post.tell_too("a", world.second) == [0, 1]
    events = [event.told for _, event in world.second.after(0, 0.0, MOST)]
    assert [(told["call"], told["job"]) for told in events] == [(1, "a"), (6, "a.1.2")]


def test_what_one_of_two_is_to_be_told_is_held_though_the_other_is_not_heard(world: World) -> None:
    world.job.mails.append(world.second)
    world.report(1)
    world.post.put_away(world.first)
    world.report(2)
    assert told(world.second) == [(1, SIZE), (2, SIZE)]
