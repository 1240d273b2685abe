"""The open list of a session's calls: each is given out once, unless it was cancelled before, to one lane."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
from brought import put
from sites import Site, site
from waiting import PATIENCE_S, wait_for

from dokrun.shim.blobs import Blobs
from dokrun.shim.envelope import Span
from dokrun.shim.job import Job
from dokrun.shim.mail import Mail
from dokrun.shim.opened import Opened

__all__ = ["site"]

LANES = 2
BRIEFLY_S = 0.2
GIVEN = b"given"
DIGEST = hashlib.sha256(GIVEN).hexdigest()


class World:
    """An open list, and all that is heard of it."""

    def __init__(self, folder: Path, **blobs: Any) -> None:
        self.blobs = Blobs(str(folder), **blobs)
        self.opened = Opened(LANES, self.blobs)
        self.failed: list[tuple[Span, str]] = []
        self.over: list[str] = []
        self.opened.listen(
            lambda span, failure: self.failed.append((span, failure["reason"])), lambda job: self.over.append(job.id)
        )

    def add(self, name: str, count: int, *blobs: str, **more: Any) -> Job:
        header = {"job": name, "calls": [{"count": count, "timeout_s": 1}], **more}
        job = self.opened.add(header, name, blobs, Mail())
        assert job is not None
        return job

    def all_of(self, lane: int, most: int = 100) -> list[int]:
        """Let a lane take all that waits, and bring each call to its end."""
        taken: list[int] = []
        while self.opened.rest():
            span = self.opened.take(lane, most, 0.0)
            assert span is not None
            taken += range(*span)
            self.opened.done(span)
        return taken

    def run(self, *calls: tuple[int, int]) -> None:
        """Let lanes take calls one by one, each this one, and bring it to its end."""
        for lane, number in calls:
            assert self.opened.take(lane, 1, 0.0) == (number, number + 1)
            self.opened.done((number, number + 1))

    @property
    def cancelled(self) -> list[int]:
        assert {reason for _, reason in self.failed} <= {"cancelled"}
        return sorted(number for span, _ in self.failed for number in range(*span))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_calls_are_numbered_on_over_all_jobs_and_given_out_once_each(world: World) -> None:
    first, second = world.add("a", 5), world.add("b", 3)
    assert (first.span, second.span) == ((1, 6), (6, 9))
    assert world.all_of(0) == list(range(1, 9))
    assert world.over == ["a", "b"]
    assert (world.opened.count, world.opened.came_so_far) == (0, 8)


def test_what_is_given_back_is_given_out_again_first(world: World) -> None:
    world.add("a", 10)
    taken = world.opened.take(0, 4, 0.0)
    assert taken == (1, 3), "half of what each lane would have"
    world.opened.give_back(0, (2, 3))
    world.opened.done((1, 2))
    assert world.all_of(1) == list(range(2, 11))


@pytest.mark.parametrize(
    ("numbers", "left"),
    [
        ([1], [2, 3, 4, 5, 6]),
        ([6], [1, 2, 3, 4, 5]),
        ([3, 4], [1, 2, 5, 6]),
        ([2, 5], [1, 3, 4, 6]),
        ([1, 2, 3, 4, 5, 6], []),
    ],
)
def test_calls_that_wait_are_cancelled_one_by_one_and_never_given_out(
    world: World, numbers: list[int], left: list[int]
) -> None:
    job = world.add("a", 6)
    assert world.opened.cancel(job, numbers) == []
    assert world.cancelled == numbers
    assert world.all_of(0) == left
    assert world.over == ["a"]


@pytest.mark.parametrize("steps", [[[1, 2, 3]], [[2]], [[2], [1, 3]], [[3], [2], [1]]])
def test_calls_that_wait_for_what_they_are_given_are_cancelled_too(world: World, steps: list[list[int]]) -> None:
    world.blobs.need("a", {DIGEST: [len(GIVEN), None]})
    job = world.add("a", 3, DIGEST)
    gone = sorted(number for step in steps for number in step)
    for step in steps:
        assert world.opened.cancel(job, step) == []
    assert world.cancelled == gone
    put(world.blobs, GIVEN, 0, GIVEN)
    assert world.all_of(0) == [number for number in (1, 2, 3) if number not in gone]
    assert world.over == ["a"]


def test_what_does_not_come_fails_those_alone_that_still_wait_for_it(world: World, site: Site) -> None:
    world.blobs.need("a", {DIGEST: [len(GIVEN), None]})
    first, _ = world.add("a", 1, DIGEST), world.add("b", 2, DIGEST)
    assert world.opened.cancel(first, [1]) == []
    site.files["/given"] = GIVEN[::-1]
    world.blobs.need("b", {DIGEST: [len(GIVEN), f"{site.url}/given"]})
    wait_for(lambda: world.over == ["a", "b"])
    assert world.failed == [((1, 2), "cancelled"), ((2, 4), "not-begun")]


def test_calls_that_a_lane_has_are_told_and_do_not_run_when_it_gives_them_back(world: World) -> None:
    job = world.add("a", 8)
    assert world.opened.take(0, 100, 0.0) == (1, 3)
    assert world.opened.take(0, 100, 0.0) == (3, 4)
    assert world.opened.cancel(job, range(1, 9)) == [1, 2, 3]
    assert world.opened.unwanted == [1, 2, 3]
    # The worker was ended at its first call.
    world.opened.done((1, 2))
    world.opened.give_back(0, (2, 3))
    assert world.cancelled == [2, 4, 5, 6, 7, 8]
    assert world.opened.unwanted == [3]
    world.opened.done((3, 4))
    assert (world.over, world.opened.unwanted, world.opened.rest()) == (["a"], [], [])


def test_a_job_that_is_over_leaves_no_call_unwanted(world: World) -> None:
    job = world.add("a", 2)
    world.opened.done(world.opened.take(0, 1, 0.0) or (0, 0))
    assert world.opened.take(0, 1, 0.0) == (2, 3)
    assert world.opened.cancel(job, [1, 2]) == [1, 2]
    world.opened.done((2, 3))
    assert world.opened.unwanted == []


def test_calls_wait_until_all_is_there_that_they_are_given_and_others_do_not(world: World) -> None:
    world.blobs.need("a", {DIGEST: [len(GIVEN), None]})
    world.add("a", 1, DIGEST)
    world.add("b", 1)
    assert world.opened.take(0, 1, 0.0) == (2, 3)
    world.opened.done((2, 3))
    assert world.opened.idle_since() is None
    put(world.blobs, GIVEN, 0, GIVEN)
    assert world.opened.take(0, 1, 0.0) == (1, 2)
    world.opened.done((1, 2))
    assert world.opened.idle_since() is not None


def test_what_a_job_is_given_is_kept_until_it_is_over_once_it_has_come(tmp_path: Path) -> None:
    world = World(tmp_path, room=0, waited_s=0.0)
    world.blobs.need("a", {DIGEST: [len(GIVEN), None]})
    put(world.blobs, GIVEN, 0, GIVEN)
    world.add("a", 1, DIGEST)
    world.blobs.release_awaited()
    assert world.blobs.have([DIGEST])
    assert world.all_of(0) == [1]
    assert not world.blobs.have([DIGEST])


def test_an_actor_stays_in_its_lane_and_each_new_one_goes_where_there_are_the_fewest(world: World) -> None:
    for actor in ("one", "two", "three"):
        world.add(f"made {actor}", 1, actor=actor, makes=True)
    # Each lane is given the calls of its own actors, and those that are nobody's.
    assert [world.opened.take(0, 1, 0.0), world.opened.take(0, 1, 0.0)] == [(1, 2), (3, 4)]
    assert world.opened.take(1, 1, 0.0) == (2, 3)
    world.add("nobody's", 1)
    world.add("one's", 1, actor="one")
    assert world.opened.take(1, 1, 0.0) == (4, 5)
    assert world.opened.take(0, 1, 0.0) == (5, 6)
    world.opened.give_back(0, (5, 6))
    world.add("nobody's", 1)
    assert world.opened.take(1, 1, 0.0) == (6, 7)
    assert world.opened.take(0, 1, 0.0) == (5, 6)


def test_what_an_actor_is_asked_waits_for_what_it_was_asked_before(world: World) -> None:
    world.blobs.need("made", {DIGEST: [len(GIVEN), None]})
    world.add("made", 1, DIGEST, actor="one", makes=True)
    world.add("another's", 1, actor="two", makes=True)
    world.add("asked", 1, actor="one")
    assert world.opened.take(0, 1, 0.0) == (2, 3)
    assert world.opened.rest() == [(1, 2), (3, 4)]
    put(world.blobs, GIVEN, 0, GIVEN)
    assert [world.opened.take(1, 1, 0.0), world.opened.take(1, 1, 0.0)] == [(1, 2), (3, 4)]


def test_what_an_actor_is_asked_does_not_wait_for_what_was_cancelled(world: World) -> None:
    world.blobs.need("made", {DIGEST: [len(GIVEN), None]})
    made = world.add("made", 1, DIGEST, actor="one", makes=True)
    world.add("asked", 1, actor="one")
    assert world.opened.cancel(made, [1]) == []
    assert world.opened.take(0, 1, 0.0) == (2, 3)


def test_an_actor_that_was_ended_makes_place_for_another_one(world: World) -> None:
    for actor in ("one", "two", "three"):
        world.add(f"made {actor}", 1, actor=actor, makes=True)
    world.run((0, 1), (1, 2), (0, 3))
    world.add("ended", 1, actor="one", ends=True)
    world.run((0, 4))
    # It is asked for once more, which brings it no lane.
    world.add("asked", 1, actor="one")
    world.run((0, 5))
    for actor in ("four", "five"):
        world.add(f"made {actor}", 1, actor=actor, makes=True)
    world.run((0, 6), (1, 7))


def test_of_a_job_that_is_tried_again_only_the_chosen_calls_are_run(world: World) -> None:
    job = world.add("a", 5, chosen=[3], ticket="a.3.2")
    assert (job.id, job.span, job.left) == ("a.3.2", (1, 6), 1)
    assert world.all_of(0) == [4]
    assert world.over == ["a.3.2"]


def test_a_jobs_attempts_are_told_together_and_no_other_jobs(world: World) -> None:
    first = world.add("a", 3)
    again = world.add("a", 3, ticket="a.1.2", chosen=[1])
    world.add("ab", 1)
    assert world.opened.attempts("a") == [first, again]
    assert world.opened.cancel(again, [again.packs.base + 1]) == []
    assert world.opened.attempts("a") == [first]


def test_nothing_is_given_out_or_taken_when_it_is_over(world: World) -> None:
    job = world.add("a", 2)
    assert not world.opened.close_if(lambda: False)
    assert world.opened.close_if(lambda: True)
    assert world.opened.take(0, 1, 0.0) is None
    assert world.opened.add({"job": "b", "calls": []}, "b", (), job.mails[0]) is None
    assert world.opened.rest() == [(1, 3)]
    assert world.opened.attempts("a") == [job]


def test_a_call_that_nobody_has_is_of_no_job(world: World) -> None:
    world.add("a", 2)
    for number in (0, 3):
        with pytest.raises(KeyError):
            world.opened.job_of(number)


# Calls that have come one by one.

QUICK = 10_000.0


def test_quick_calls_of_several_jobs_are_given_out_together(world: World) -> None:
    for name in "abcdefgh":
        world.add(name, 1)
    # As many as there are for each lane, and no more at a time than were asked for, or take long.
    assert world.opened.take(0, 100, QUICK) == (1, 5)
    assert world.opened.take(0, 2, QUICK) == (5, 7)
    assert world.opened.take(0, 100, 0.0) == (7, 8)
    assert world.over == []
    world.opened.done((1, 5))
    assert world.over == ["a", "b", "c", "d"]


def test_those_that_come_together_are_taken_when_all_are_there(world: World) -> None:
    taken: list[Span | None] = []
    lane = threading.Thread(target=lambda: taken.append(world.opened.take(0, 100, QUICK)))
    lane.start()
    with world.opened.together():
        for name in "abcdefgh":
            world.add(name, 1)
            lane.join(BRIEFLY_S / 8)
    lane.join(PATIENCE_S)
    assert taken == [(1, 5)]


def test_of_calls_that_were_given_out_together_any_may_come_back(world: World) -> None:
    jobs = [world.add(name, 2) for name in "abcd"]
    taken = [world.opened.take(lane, 1, 0.0) for lane in (0, 1, 0, 1, 0, 1)]
    assert taken == [(number, number + 1) for number in range(1, 7)]
    world.opened.done((1, 2))
    assert world.opened.cancel(jobs[1], [3, 4]) == [3, 4]
    world.opened.give_back(0, (2, 7))
    assert world.cancelled == [3, 4]
    assert world.opened.rest() == [(2, 3), (5, 7), (7, 9)]
    assert world.all_of(1) == [2, 5, 6, 7, 8]
    assert world.over == ["b", "a", "c", "d"]


def test_calls_that_do_not_follow_one_another_are_not_given_out_together(world: World) -> None:
    jobs = [world.add(name, 1) for name in "abcdef"]
    assert world.opened.cancel(jobs[2], [3]) == []
    assert world.opened.take(0, 100, QUICK) == (1, 3)
    assert world.opened.take(0, 100, QUICK) == (4, 6)
