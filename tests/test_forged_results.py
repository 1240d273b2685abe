"""Whoever can write the bucket, or a line of the log, has no results of theirs opened and no call run a second time.

The judge is the one of test_forgery.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import chores
import pytest
from account import Account
from ahead import Ahead
from forged import account, bucket, evil, evil_results, job_of
from places import failure, wait_for

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket
from dokrun.shim import protocol

__all__ = ["account", "bucket", "evil"]

PATIENCE_S = 60


@pytest.mark.parametrize("longer", [0, 64])
def test_cell_map_to_forged_results_are_not_opened_and_the_artifact_has_the_right_ones(
    account: Account, bucket: Bucket, evil: Path, longer: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dokrun.engine")
    ahead = Ahead(account, bucket)
    account.here("another machine")  # the first one's client has gone
    ahead.forge(evil, longer)
    results = ahead.attach()
    wait_for(lambda: "some results of pass_on wait for its artifact" in caplog.text)
    ahead.gate.touch()
    assert tuple(results) == ahead.VALUES
    assert chores.started(account.starts) == ahead.COUNT


@pytest.mark.parametrize("longer", [0, 64])
def test_cell_map_to_forged_results_are_not_opened_where_there_is_no_artifact_either(
    account: Account, bucket: Bucket, evil: Path, longer: int, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = Ahead(account, bucket)
    account.here("another machine")
    ahead.forge(evil, longer)
    ahead.lose()
    told = [failure(future) for future in ahead.attach().futures]
    assert {type(error) for error in told} == {dok.TaskFailed}
    assert {error.ran for error in told} == {"yes"}, "the log says so"
    assert "some results of pass_on were sent ahead, and cannot be had" in caplog.text
    assert chores.started(account.starts) == ahead.COUNT


@pytest.mark.parametrize(
    "body", [b'{"begun": 0}', b'{"begun": -1e400}', b'{"begun": 1e400}', b'{"begun": [1]}', b"", b"[]", b"[" * 50_000]
)
def test_a_forged_account_of_how_far_a_container_came_lets_nothing_run_twice(
    account: Account, bucket: Bucket, body: bytes
) -> None:
    ahead = Ahead(account, bucket)
    last = ahead.results.futures[-1]
    key = keys.begun(job_of(last), 1)
    assert bucket.read(key) is not None
    bucket.put(key, body)
    ahead.lose()
    error = failure(last)
    assert isinstance(error, dok.TaskFailed)
    assert error.ran == "yes", "the log says so"
    assert len(list(account.client.tasks.iterate())) == 1
    assert chores.started(account.starts) == ahead.COUNT


def test_a_claim_that_is_taken_away_lets_nothing_run_twice(account: Account, bucket: Bucket) -> None:
    ahead = Ahead(account, bucket)
    last = ahead.results.futures[-1]
    assert bucket.read(keys.claim(job_of(last), 1)) is not None
    bucket.delete(keys.claim(job_of(last), 1))
    ahead.lose()
    assert failure(last).ran == "yes"
    assert len(list(account.client.tasks.iterate())) == 1
    assert chores.started(account.starts) == ahead.COUNT


def test_results_that_a_function_only_says_to_have_sent_are_not_opened(
    account: Account, bucket: Bucket, evil: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dokrun.engine")
    forged, gate = evil_results(evil), account.folder / "gate"
    said = protocol.RESULTS.format("b" * 16, 40, hashlib.sha256(b"what it says").hexdigest(), len(forged))
    results = chores.answer.starmap([(account.starts, 1, said), (account.starts, 2)])
    other = chores.stay(account.folder / "other", gate)
    bucket.put(keys.results(job_of(results.futures[0]), 1, 40), forged)
    assert list(results) == [1, 2]
    gate.touch()
    assert other.result(timeout=PATIENCE_S) == 42


def test_a_function_that_says_to_have_started_very_many_calls_changes_no_outcome(account: Account) -> None:
    said = protocol.STARTED.format(0, 10**15 - 1, 1)
    results = chores.answer.starmap([(account.starts, 1, said), (account.starts, 2, said)])
    assert list(results) == [1, 2]
    error = failure(chores.vanish(account.starts, said))
    assert (error.ran, error.log) == ("yes", ())
