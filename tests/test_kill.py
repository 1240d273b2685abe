"""The client is killed (-9) at every step of its journal; another process attaches, and the function starts once."""

from __future__ import annotations

import pytest
from places import ATTACH, CALL, JOB, Place, kill, killed_at, line, place, wait_for

import dokrun as dok

__all__ = ["place"]


def attached(place: Place, handle: str) -> int:
    """Attach in this process, and see that it submits nothing."""
    before = place.posts()
    place.here()
    result: int = dok.attach(handle).result(timeout=60)
    assert place.posts() == before, "attaching submits nothing"
    return result


def test_cell_journal_k9_a_client_that_is_killed_before_its_intent_is_on_disk_has_sent_nothing(place: Place) -> None:
    place.stop_at("intended")
    child = place.start(CALL)
    place.stopped()
    kill(child)
    place.go_on()
    assert place.rows() == []
    assert place.posts() == 0
    assert place.tasks() == []
    place.here()
    with pytest.raises(dok.OptionError, match="knows no job"):
        dok.attach("job-0123")


@pytest.mark.parametrize(
    ("step", "before"),
    [
        pytest.param("bound", ["intended"], id="cell_journal_k9-bound"),
        pytest.param("ended", ["intended", "bound"], id="cell_journal_k9-ended"),
        pytest.param("settled", ["intended", "bound", "ended"], id="cell_journal_k9-settled"),
    ],
)
def test_a_client_that_is_killed_while_it_writes_a_step_leaves_one_task_and_its_result(
    place: Place, step: str, before: list[str]
) -> None:
    place.stop_at(step)
    child = place.start(CALL)
    handle = line(child)
    place.gate.touch()
    place.stopped()
    kill(child)
    place.go_on()
    assert place.steps(handle) == before
    assert attached(place, handle) == 42
    assert (place.started(), len(place.tasks())) == (1, 1)
    assert place.steps(handle)[-1] == "settled"


def test_cell_journal_k9_a_client_that_is_killed_before_its_request_arrives_has_made_no_task(place: Place) -> None:
    held = place.relay.hold("POST", "*/tasks/", "before")
    handle = killed_at(place, held)
    held.drop()
    assert place.steps(handle) == ["intended"]
    place.here()
    with pytest.raises(dok.SubmitFailed, match="call the function again") as caught:
        dok.attach(handle).result(timeout=60)
    assert caught.value.ran == "no"
    assert (place.posts(), place.tasks(), place.started()) == (0, [], 0)


def test_cell_journal_k9_a_client_that_is_killed_before_it_hears_the_answer_has_one_task(place: Place) -> None:
    held = place.relay.hold("POST", "*/tasks/", "after")
    handle = killed_at(place, held)
    held.drop()
    assert place.steps(handle) == ["intended"]
    place.gate.touch()
    assert attached(place, handle) == 42
    assert (place.posts(), len(place.tasks()), place.started()) == (1, 1, 1)


def test_cell_journal_k9_a_client_that_is_killed_while_its_function_runs_is_not_missed(place: Place) -> None:
    child = place.start(CALL)
    handle = line(child)
    wait_for(place.started)
    kill(child)
    place.gate.touch()
    assert attached(place, handle) == 42
    assert (place.posts(), place.started()) == (1, 1)


@pytest.mark.parametrize("when", ["before", "after"])
def test_cell_attach_k9_a_client_that_is_killed_while_it_downloads_can_be_followed_by_another(
    place: Place, when: str
) -> None:
    held = place.relay.hold("GET", "*/downloads/artifacts/*", "before" if when == "before" else "after")
    child = place.start(CALL)
    handle = line(child)
    place.gate.touch()
    held.reached()
    assert place.steps(handle) == ["intended", "bound"]
    kill(child)
    held.drop()
    again = place.relay.hold("GET", "*/downloads/artifacts/*", "before")
    second = place.start(ATTACH, handle)
    again.reached()
    kill(second)
    again.drop()
    assert attached(place, handle) == 42
    assert (place.posts(), place.started()) == (1, 1)


def test_cell_journal_k9_a_client_that_is_killed_when_all_is_done_has_left_the_result_to_all(place: Place) -> None:
    child = place.start(CALL)
    handle = line(child)
    place.gate.touch()
    assert line(child) == "42"
    kill(child)
    assert place.steps(handle) == ["intended", "bound", "ended", "settled"]
    assert [attached(place, handle), attached(place, handle.partition(".")[0][:12])] == [42, 42]
    assert (place.posts(), place.started()) == (1, 1)


def test_cell_journal_k9_a_client_that_is_killed_before_it_gives_a_call_up_has_not_given_it_up(place: Place) -> None:
    place.stop_at("given up")
    script = """
    first = job(1, starts, gate)
    second = job(21, starts, gate)
    print(second.handle, flush=True)
    while second.status != "waiting": time.sleep(0.01)
    while not first.running(): time.sleep(0.01)
    second.cancel()
    time.sleep(600)
"""
    child = place.start(JOB + script)
    handle = line(child)
    place.stopped()
    kill(child)
    place.go_on()
    assert place.steps(handle) == ["intended", "bound"]
    place.gate.touch()
    assert attached(place, handle) == 42
    assert (place.posts(), place.started()) == (2, 2)


def test_cell_attach_du_two_processes_that_attach_at_once_get_the_same_while_the_first_lives(place: Place) -> None:
    first = place.start(CALL)
    handle = line(first)
    wait_for(place.started)
    others = [place.start(ATTACH, handle) for _ in range(2)]
    place.here()
    future = dok.attach(handle)
    wait_for(future.running)
    place.gate.touch()
    assert [line(child) for child in (first, *others)] == ["42"] * 3
    assert future.result(timeout=60) == 42
    assert (place.posts(), len(place.tasks()), place.started()) == (1, 1, 1)
    assert place.steps(handle)[:2] == ["intended", "bound"]
