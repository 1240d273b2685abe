"""`POST /tasks/` goes wrong on the whole road, with real claims and real shims: the function counts its own starts."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from clocks import ManualClock
from emulated import request
from places import Place, killed_at, open_place, place, wait_for
from storefaults import FaultyStore, StoreFault

import dokrun as dok
from dokrun.api import Client
from dokrun.emulator import Behaviour, Fault
from dokrun.emulator.objects import ObjectStore
from dokrun.shim import protocol

__all__ = ["place"]

CREATE: dict[str, Any] = {"method": "POST", "path": "/tasks/"}
LATE_S = 100.0


def call(place: Place, ballast: bytes = b"") -> dok.Future[int]:
    """Call a function that counts its starts and stays until the gate is there; `ballast` goes along."""

    @dok.remote(plan="v100-32gb", timeout=120)
    def double(number: int, starts: Path, gate: Path, _: bytes) -> int:
        with starts.open("a") as file:
            file.write(f"{os.getpid()}\n")
        while not gate.exists():
            time.sleep(0.01)
        return number * 2

    return double(21, place.starts, place.gate, ballast)


def cancel_all(place: Place) -> None:
    with Client(place.dok.token, place.dok.secret, base_url=place.dok.api_url) as client:
        for task in client.tasks.iterate(status=("waiting", "running")):
            client.tasks.cancel(task.id)


def ends(place: Place) -> list[tuple[str, int | None]]:
    """Wait until all tasks have ended, and tell how, with their exit statuses."""
    wait_for(lambda: all(task.ended for task in place.tasks()))
    return [(task.status, task.containers[0].exit_code) for task in place.tasks()]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("reset", **CREATE, phase="after"), id="cell_post_t1"),
        pytest.param(Fault("reset", **CREATE), id="cell_post_t0"),
        pytest.param(Fault("status", **CREATE, status=500, phase="after"), id="cell_post_5x"),
        pytest.param(Fault("garbage", **CREATE, phase="after"), id="cell_post_mb"),
    ],
)
def test_a_call_whose_submission_has_no_answer_brings_its_value_and_starts_once(place: Place, fault: Fault) -> None:
    place.here()
    place.gate.touch()
    place.dok.faults.add(fault)
    assert call(place).result(timeout=60) == 42
    assert len(place.dok.faults.injected) == 1
    assert (place.posts(), len(place.tasks()), place.started()) == (1 if fault.phase == "after" else 2, 1, 1)


@pytest.mark.parametrize("slots", [1, 2])
def test_cell_post_du_a_call_that_the_service_takes_twice_starts_once(
    store: ObjectStore, tmp_path: Path, slots: int
) -> None:
    with open_place(store, tmp_path, behaviour=Behaviour(slots=slots)) as place:
        place.here()
        place.gate.touch()
        place.dok.faults.add(Fault("duplicate", **CREATE, phase="after"))
        assert call(place).result(timeout=60) == 42
        assert [one.what for one in place.dok.faults.injected] == ["duplicate"]
        found = ends(place)
        assert (place.posts(), place.started(), len(found)) == (1, 1, 2)
        assert len([status for status, _ in found if status == "done"]) == 1, found


def test_cell_post_t0_what_is_created_after_it_was_given_up_does_not_start(store: ObjectStore, tmp_path: Path) -> None:
    clock = ManualClock()
    with open_place(store, tmp_path, clock=clock) as place:
        place.here()
        place.dok.faults.add(Fault("status", **CREATE, phase="during", status=504, late_s=LATE_S, occurrence=None))
        error = call(place).exception(timeout=60)
        assert isinstance(error, dok.SubmitFailed)
        assert error.ran == "no"
        assert len(place.dok.faults.injected) == place.posts() == 3
        assert place.tasks() == []
        clock.pass_time(LATE_S)
        wait_for(lambda: len(place.tasks()) == 3)
        assert ends(place) == [("error", protocol.CLAIM_LOST)] * 3
        assert place.started() == 0


def test_cell_post_t1_without_a_bucket_nobody_knows_and_attaching_finds_what_came_late(
    store: ObjectStore, tmp_path: Path
) -> None:
    clock = ManualClock()
    with open_place(store, tmp_path, clock=clock) as place:
        place.here(DOKRUN_BUCKET="")
        place.dok.faults.add(Fault("status", **CREATE, phase="during", status=504, late_s=LATE_S))
        place.dok.faults.add(Fault("status", **CREATE, occurrence=None))
        error = call(place).exception(timeout=60)
        assert isinstance(error, dok.SubmitFailed)
        assert (error.ran, error.still_runs) == ("maybe", True)
        assert [one.phase for one in place.dok.faults.injected] == ["during", "before", "before"]
        clock.pass_time(LATE_S)
        place.gate.touch()
        wait_for(place.tasks)
        assert dok.attach(error.handle).result(timeout=60) == 42
        assert (place.posts(), place.started()) == (3, 1)


@pytest.mark.parametrize(
    ("phase", "faults", "posts"),
    [pytest.param("after", 1, 2, id="cell_post_t1"), pytest.param("before", 2, 4, id="cell_post_t0")],
)
def test_what_is_submitted_again_is_not_taken_for_the_task_that_ended_before_it(
    store: ObjectStore, tmp_path: Path, phase: Any, faults: int, posts: int
) -> None:
    with FaultyStore(store) as faulty, open_place(store, tmp_path) as place:
        place.here(DOKRUN_S3_ENDPOINT_URL=faulty.url)
        place.gate.touch()
        faulty.add(StoreFault("status", method="GET", path="*/payload", status=404))
        for _ in range(faults):  # a rule does not see what another one has caught
            place.dok.faults.add(Fault("status", **CREATE, phase=phase, occurrence=2))
        assert call(place, os.urandom(200_000)).result(timeout=60) == 42
        assert [one.what for one in faulty.injected] == ["status"], "the first task could not fetch"
        assert len(place.dok.faults.injected) == faults
        assert (place.posts(), place.started()) == (posts, 1)
        assert [task.status for task in place.tasks()] == ["done", "done"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_cell_post_cx_a_call_that_is_cancelled_while_it_is_submitted_never_starts(place: Place, when: str) -> None:
    place.here()
    with Client(place.dok.token, place.dok.secret, base_url=place.dok.api_url) as client:
        blocker = client.tasks.create(request("import time; time.sleep(600)"))
    held = place.relay.hold("POST", "*/tasks/", "before" if when == "before" else "after")
    future = call(place)
    held.reached()
    assert len(place.tasks()) == (1 if when == "before" else 2)
    assert future.cancel()
    wait_for(lambda: "given up" in place.steps())
    held.release()
    wait_for(lambda: "settled" in place.steps())
    assert future.cancelled()
    mine = [task for task in place.tasks() if task.id != blocker.id]
    assert [task.status for task in mine] == ["canceled"]
    assert place.posts() == 1
    cancel_all(place)
    ends(place)
    assert place.started() == 0


def test_cell_post_k9_a_request_that_arrives_after_its_client_died_and_was_given_up_does_not_start(
    place: Place,
) -> None:
    held = place.relay.hold("POST", "*/tasks/", "before")
    handle = killed_at(place, held)
    place.here()
    error = dok.attach(handle).exception(timeout=60)
    assert isinstance(error, dok.SubmitFailed)
    assert (error.ran, place.tasks()) == ("no", [])
    held.release()
    wait_for(place.tasks)
    assert ends(place) == [("error", protocol.CLAIM_LOST)]
    assert (place.posts(), place.started()) == (1, 0)


def test_cell_post_k9_a_client_that_dies_while_it_looks_for_its_task_is_followed_by_another(place: Place) -> None:
    place.dok.faults.add(Fault("status", **CREATE, phase="after"))
    held = place.relay.hold("GET", "*/tasks/", "before")
    handle = killed_at(place, held)
    held.drop()
    place.here()
    place.gate.touch()
    assert dok.attach(handle).result(timeout=60) == 42
    assert len(place.dok.faults.injected) == 1
    assert (place.posts(), len(place.tasks()), place.started()) == (1, 1, 1)


def test_cell_post_ce_a_key_that_is_refused_submits_nothing(place: Place) -> None:
    place.here(DOKRUN_ACCESS_TOKEN_SECRET="expired")
    error = call(place).exception(timeout=60)
    assert isinstance(error, dok.SubmitFailed)
    assert isinstance(error.__cause__, dok.Unauthorized)
    assert (error.ran, place.tasks(), place.started()) == ("no", [], 0)
