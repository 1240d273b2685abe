"""Many calls in one task, and every trouble on the way of their results: each runs once, and what it made comes."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import account as accounts
import chores
import pytest
from account import Account
from ahead import Ahead
from maps import BEGUN, SENT, account, once, ran, tasks, values
from places import failure, wait_for
from proxied import faulty
from storefaults import FaultyStore, StoreFault, expired

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket
from dokrun.emulator import Behaviour, Fault
from dokrun.errors import StorageError

__all__ = ["account", "faulty"]

DOORS = [("PUT", BEGUN), ("PUT", SENT), ("GET", SENT)]


# While the task runs: results are sent and announced, and fetched.


def everywhere(what: Any, **more: Any) -> list[StoreFault]:
    """Let it happen to how far the calls are, to results that are sent, and to those that are fetched."""
    return [StoreFault(what, method, path, **more) for method, path in DOORS]


@pytest.mark.parametrize(
    "faults",
    [
        # Each is a connection that the container makes: it says how far it is, and sends results.
        pytest.param([StoreFault("refuse"), StoreFault("refuse")], id="cell_map_rf"),
        pytest.param(everywhere("reset"), id="cell_map_t0"),
        pytest.param(everywhere("reset", phase="after"), id="cell_map_t1"),
        pytest.param(everywhere("status", status=503), id="cell_map_5x-503"),
        pytest.param(everywhere("status", status=429, phase="after"), id="cell_map_5x-429"),
        pytest.param(everywhere("garbage"), id="cell_map_mb"),
        pytest.param([StoreFault("cut", "GET", SENT, at_byte=100)], id="cell_map_mb-cut"),
        pytest.param(
            [
                *(StoreFault("slow-status", *door, every_s=0.002) for door in DOORS),
                StoreFault("drip", "GET", SENT, at_byte=0, every_s=0.001),
            ],
            id="cell_map_sb",
        ),
    ],
)
def test_results_come_while_the_task_runs_though_their_way_meets(
    account: Account, faulty: FaultyStore, faults: list[StoreFault]
) -> None:
    first, last = account.folder / "first", account.folder / "last"
    gates = [first, None, None, last]
    futures = chores.pass_on.starmap([(account.starts, number, gate) for number, gate in enumerate(gates)]).futures
    # Here it has nothing to ask of the store.
    wait_for(lambda: chores.started(account.starts) == 1)
    for fault in faults:
        faulty.add(fault)
    first.touch()
    assert values(futures[:3]) == [0, 1, 2]
    assert sorted(it.what for it in faulty.injected) == sorted(fault.what for fault in faults)
    last.touch()
    assert values(futures[3:]) == [3]
    assert ran(account.starts) == once(futures)
    assert tasks(account) == 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(StoreFault("refuse"), id="cell_map_rf-lost"),
        pytest.param(StoreFault("reset", "GET", SENT), id="cell_map_t0-lost"),
        pytest.param(StoreFault("reset", "GET", SENT, phase="after"), id="cell_map_t1-lost"),
        pytest.param(StoreFault("status", "GET", SENT, status=500), id="cell_map_5x-lost"),
        pytest.param(StoreFault("cut", "GET", SENT, at_byte=100), id="cell_map_mb-lost"),
        pytest.param(StoreFault("drip", "GET", SENT, at_byte=0, every_s=0.001), id="cell_map_sb-lost"),
    ],
)
def test_results_that_nothing_else_holds_are_had_though_their_fetching_meets(
    account: Account, faulty: FaultyStore, fault: StoreFault
) -> None:
    ahead = Ahead(account, Bucket(faulty.settings))
    assert values(ahead.results.futures[:-1]) == [*ahead.VALUES[:-1]], "all of them were announced"
    account.here("another machine")
    ahead.lose()
    wait_for(lambda: account.client.tasks.get(ahead.task_id).ended)
    faulty.add(fault)
    futures = ahead.attach().futures
    assert values(futures[:-1]) == [*ahead.VALUES[:-1]]
    assert [it.what for it in faulty.injected] == [fault.what]
    error = failure(futures[-1])
    assert isinstance(error, dok.TaskFailed)
    assert error.ran == "yes"
    assert ran(account.starts) == once(futures)


@pytest.mark.parametrize("cuts", [4, 5])
def test_an_object_whose_reading_breaks_off_is_read_on_from_there_five_times_in_all(
    faulty: FaultyStore, tmp_path: Path, cuts: int
) -> None:
    bucket, key, data = Bucket(faulty.settings), f"tests/{keys.new_id()}", os.urandom(600_000)
    bucket.put(key, data)
    for _ in range(cuts):
        faulty.add(StoreFault("cut", "GET", f"*/{key}", at_byte=100_000))
    with pytest.raises(StorageError) if cuts == 5 else nullcontext():
        bucket.fetch(key, tmp_path / "object", len(data))
    assert (tmp_path / "object").read_bytes() == data[: len(data) if cuts == 4 else 500_000]
    told = [request.headers.get("Range") for request in faulty.asked("GET", f"*/{key}")]
    assert told == [None, *(f"bytes={part}00000-" for part in range(1, 5))]
    assert len(faulty.injected) == cuts


@pytest.mark.parametrize(
    "method", [pytest.param("PUT", id="cell_map_ce-container"), pytest.param("GET", id="cell_map_ce-client")]
)
def test_results_that_may_not_be_sent_or_fetched_any_more_come_with_the_artifact(
    account: Account, faulty: FaultyStore, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dokrun.engine")
    gate = account.folder / "gate"
    faulty.add(expired(SENT, method=method, occurrence=None))
    futures = chores.pass_on.starmap([(account.starts, n, gate if n == 3 else None) for n in range(4)]).futures
    faulty.wait_for("status")
    gate.touch()
    assert values(futures) == [0, 1, 2, 3]
    assert ("some results of pass_on wait for its artifact" in caplog.text) == (method == "GET")
    assert ran(account.starts) == once(futures)
    assert tasks(account) == 1


def test_cell_map_ce_a_key_that_is_refused_ends_the_wait_with_the_handle_and_a_good_one_gets_every_result(
    account: Account,
) -> None:
    gate = account.folder / "gate"
    futures = chores.pass_on.starmap([(account.starts, n, gate if n == 3 else None) for n in range(4)]).futures
    assert values(futures[:3]) == [0, 1, 2]
    (rule,) = account.faults(Fault("status", "GET", "/tasks/", None, status=401))
    error = failure(futures[3])
    assert account.injected(rule)
    assert (error.ran, error.still_runs, error.handle) == ("maybe", True, futures[3].handle)
    account.service.faults.remove(rule)
    gate.touch()
    assert list(dok.attach(error.handle)) == [0, 1, 2, 3]
    assert ran(account.starts) == once(futures)
    assert tasks(account) == 1


# What comes twice.


def test_cell_map_du_results_that_the_artifact_brings_again_count_once(account: Account, faulty: FaultyStore) -> None:
    for method, path in DOORS:
        faulty.add(StoreFault("twice", method, path))
    gate = account.folder / "gate"
    coming = chores.pass_on.starmap([(account.starts, n, gate if n == 3 else None) for n in range(4)], order=False)
    futures = coming.futures
    assert values(futures[:3]) == [0, 1, 2]
    # So that the last one comes with the artifact, which has the others too.
    faulty.add(expired(SENT, method="PUT", occurrence=None))
    gate.touch()
    assert sorted(coming) == [0, 1, 2, 3]
    assert [it.what for it in faulty.injected] == ["twice", "twice", "twice", "status"]
    assert ran(account.starts) == once(futures)


def test_cell_map_du_of_two_tasks_that_the_service_made_of_a_map_one_runs_its_calls(
    faulty: FaultyStore, tmp_path: Path
) -> None:
    with accounts.opened(faulty.url, faulty.bucket, tmp_path, behaviour=Behaviour(slots=2)) as own:
        # The client cannot see that there are two before all calls have run.
        duplicate, unseen = own.faults(
            Fault("duplicate", "POST", "/tasks/", phase="after"), Fault("status", "GET", "/tasks/", None)
        )
        coming = chores.pass_on.starmap([(own.starts, number) for number in range(20)], order=False)
        wait_for(lambda: chores.started(own.starts) >= 20)
        own.service.faults.remove(unseen)
        futures = coming.futures
        assert sorted(coming) == list(range(20))
        assert own.injected(duplicate) == 1
        assert own.injected(unseen)
        assert tasks(own) == 2
        wait_for(lambda: all(task.ended for task in own.client.tasks.iterate()))
        assert ran(own.starts) == once(futures)
