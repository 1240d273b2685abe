"""How a session's client and its container know each other: numbers count once, and every word is in the seal."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from dokrun.shim import seal
from dokrun.shim.seal import WINDOW, Counts


def test_a_number_counts_once_whenever_it_comes_in_the_window() -> None:
    counts = Counts()
    assert all(counts.take(number) for number in (1, 3, 2, WINDOW))
    assert not any(counts.take(number) for number in (1, 3, 2, WINDOW))


def test_numbers_that_are_far_behind_count_no_more_though_they_are_new() -> None:
    counts = Counts()
    assert counts.take(10 * WINDOW)
    assert not counts.take(9 * WINDOW)
    assert counts.take(9 * WINDOW + 1)
    assert counts.take(10 * WINDOW - 1)
    assert not counts.take(0)


def test_what_is_remembered_has_an_end_and_nothing_of_the_window_is_forgotten() -> None:
    counts = Counts()
    for number in range(1, 5 * WINDOW):
        assert counts.take(number)
        assert not counts.take(max(1, number - WINDOW + 1))
    assert len(counts._seen) <= 2 * WINDOW


REQUEST = {"key": b"key", "path": "/path", "count": 1, "body_sha256": "digest", "size": 5}
ANSWER = {"key": b"key", "count": 1, "status": 200, "body_sha256": "digest", "size": 5}
OTHERS = {"key": b"Key", "path": "/Path", "count": 2, "body_sha256": "Digest", "size": 6, "status": 202}


@pytest.mark.parametrize(("write", "told"), [(seal.of_request, REQUEST), (seal.of_answer, ANSWER)])
def test_each_part_makes_another_seal(write: Callable[..., str], told: dict[str, Any]) -> None:
    seals = [write(**told), *(write(**{**told, name: OTHERS[name]}) for name in told)]
    assert len(set(seals)) == len(told) + 1


def test_a_request_and_an_answer_never_have_the_same_seal() -> None:
    # Where a path may hold any text, nothing but the first word keeps them apart.
    assert seal.of_request(b"key", "1", 200, "digest", 5) != seal.of_answer(b"key", 1, 200, "digest", 5)


def test_each_part_makes_another_key() -> None:
    parts = itertools.product(("token", "Token"), ("speaker", "Speaker"), ("theirs", "Theirs"), ("ours", "Ours"))
    assert len({seal.key_of(*part) for part in parts}) == 16


def test_a_token_is_known_by_its_hash_and_a_hash_is_no_token() -> None:
    sha256 = seal.digest(b"token")
    assert seal.is_token("token", sha256)
    assert not seal.is_token(sha256, sha256)
    assert not seal.is_token("", sha256)
    assert not seal.is_token("", "")
