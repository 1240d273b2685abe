"""Many calls in one container: real supervisors and workers, which are given several calls at a time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from attempts import Attempt
from attempts import Container as Supervised
from sites import Site, site
from storefaults import FaultyStore, StoreFault
from test_shim import Container, payload_of
from waiting import wait_for

from dokrun import keys
from dokrun.emulator.objects import ObjectStore
from dokrun.shim import envelope, protocol

__all__ = ["site"]

cloudpickle.register_pickle_by_value(sys.modules[__name__])

STARTED = re.compile(r"^\[dokrun\] started calls (\d+) to (\d+) in attempt 1$", re.MULTILINE)
RESULTS = re.compile(r"^\[dokrun\] [0-9a-f]{16} results (\d+) ([0-9a-f]{64}) (\d+)$", re.MULTILINE)
BEGUN = "*/begun"
SENT = "*/results/*"
MANY = 1000
# So many that one of them is not the first or the last that its worker is given at a time.
UNLUCKY = {400, 500, 600}


class Book:
    """What calls write down when they run: a line each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def enter(self, number: int) -> int:
        with self.path.open("a") as file:
            file.write(f"{number}\n")
        return number

    @property
    def times(self) -> Counter[int]:
        return Counter(map(int, self.path.read_text().split()) if self.path.exists() else ())


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "book")


@pytest.fixture
def container(tmp_path: Path, site: Site) -> Container:
    return Container(tmp_path, site)


@pytest.fixture
def faulty(store: ObjectStore) -> Iterator[FaultyStore]:
    with FaultyStore(store) as faulty:
        yield faulty


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def calls(function: Callable[[int], Any], count: int = MANY, **more: Any) -> bytes:
    """Make a payload of calls of one function, each with its number."""
    return payload_of(*((function, (number,)) for number in range(count)), **more)


def portions(output: str) -> list[tuple[int, int]]:
    """Tell which calls a worker was given at a time: the first one's number, and the last one's."""
    return [(int(first), int(last)) for first, last in STARTED.findall(output)]


def others(unlucky: set[int], count: int = MANY) -> dict[int, int]:
    return {number: number for number in range(count) if number not in unlucky}


def assert_amid_others(unlucky: set[int], output: str) -> None:
    """See that something happened to a call that had been given out with some before and some after it."""
    assert any(first < number < last for first, last in portions(output) for number in unlucky), portions(output)


# What becomes of one call among many.


def test_many_short_calls_are_given_out_together_and_each_runs_once(container: Container, book: Book) -> None:
    def work(number: int) -> int:
        return book.enter(number)

    container.give(calls(work))
    output = container.run()
    assert container.values() == others(set())
    assert container.failures() == {}
    assert book.times == Counter(range(MANY))
    assert len(portions(output)) < MANY / 10
    assert portions(output)[0] == (0, 0), "the first is given out alone: nobody knows how long it takes"


def test_of_several_calls_the_one_that_kills_its_worker_is_blamed_alone(container: Container, book: Book) -> None:
    def work(number: int) -> int:
        book.enter(number)
        if number in UNLUCKY:
            os._exit(9)
        return number

    container.give(calls(work))
    output = container.run()
    assert_amid_others(UNLUCKY, output)
    told = {number: (it["reason"], it["ran"], it["exit_code"]) for number, it in container.failures().items()}
    assert told == dict.fromkeys(UNLUCKY, (protocol.EXITED, "yes", 9))
    assert container.values() == others(UNLUCKY)
    assert book.times == Counter(range(MANY))


def test_of_several_calls_the_one_that_takes_too_long_is_blamed_alone(container: Container, book: Book) -> None:
    def work(number: int) -> int:
        book.enter(number)
        if number in UNLUCKY:
            threading.Event().wait()
        return number

    container.give(calls(work, timeout_s=4.0))
    output = container.run()
    assert_amid_others(UNLUCKY, output)
    told = {number: (it["reason"], it["ran"]) for number, it in container.failures().items()}
    assert told == dict.fromkeys(UNLUCKY, (protocol.TIMEOUT, "yes"))
    assert output.count("in work") == len(UNLUCKY), "the log tells where it was"
    assert container.values() == others(UNLUCKY)
    assert book.times == Counter(range(MANY))


def test_a_call_that_ends_when_it_is_asked_where_it_is_has_taken_too_long_and_the_next_one_has_not_begun(
    container: Container, book: Book
) -> None:
    def work(number: int) -> int:
        book.enter(number)
        if number in UNLUCKY:
            # What is asked for ends this call, as it ends a system call of a library's that does not begin again.
            signal.pthread_sigmask(signal.SIG_BLOCK, {protocol.STACKS_SIGNAL})
            signal.sigwait({protocol.STACKS_SIGNAL})
        return number

    container.give(calls(work, timeout_s=4.0))
    output = container.run()
    assert_amid_others(UNLUCKY, output)
    assert {number: it["reason"] for number, it in container.failures().items()} == dict.fromkeys(
        UNLUCKY, protocol.TIMEOUT
    )
    assert container.values() == others(UNLUCKY)
    assert book.times == Counter(range(MANY)), "what had not begun begins in another worker, once"


def test_a_call_that_may_take_less_time_than_those_before_it_is_ended_in_its_time(container: Container) -> None:
    def quick(number: int) -> int:
        return number

    def stuck(_number: int) -> None:
        threading.Event().wait()

    given = ((stuck if number in UNLUCKY else quick, (number,)) for number in range(MANY))
    header, segments = envelope.unpack(payload_of(*given, timeout_s=500.0))
    for pack in header["calls"]:
        pack["timeout_s"] = 2.0 if pack["count"] == 1 else 500.0
    container.give(envelope.pack(header, segments))
    output = container.run()  # which has less patience than the others have time
    assert_amid_others(UNLUCKY, output)
    assert {number: it["reason"] for number, it in container.failures().items()} == dict.fromkeys(
        UNLUCKY, protocol.TIMEOUT
    )
    assert container.values() == others(UNLUCKY)


def test_of_several_calls_the_one_whose_report_cannot_be_written_is_told_as_such(
    container: Container, book: Book
) -> None:
    def work(number: int) -> Any:
        import resource

        book.enter(number)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((1 << 20) if number in UNLUCKY else most, most))
        return bytes(2 << 20) if number in UNLUCKY else number

    container.give(calls(work))
    output = container.run()
    assert_amid_others(UNLUCKY, output)
    told = {number: (it["reason"], it["ran"]) for number, it in container.failures().items()}
    assert told == dict.fromkeys(UNLUCKY, (protocol.NOT_WRITTEN, "yes"))
    assert container.values() == others(UNLUCKY)
    assert book.times == Counter(range(MANY))


def test_a_worker_that_dies_between_calls_costs_none(container: Container, tmp_path: Path, book: Book) -> None:
    lit = tmp_path / "lit"
    os.mkfifo(lit)

    def leave_a_bomb(number: int) -> int:
        book.enter(number)
        if number == 0:
            threading.Thread(target=lambda: (lit.read_bytes(), os._exit(5)), daemon=True).start()
        return number

    class Fuse:
        """Lights it and is not unpickled before it has gone off; the second time there is none."""

        def __reduce__(self) -> Any:
            return light, ()

    def light() -> None:
        if lit.exists():
            with lit.open("wb"):
                lit.unlink()
            threading.Event().wait()

    def work(number: int, _fuse: Any) -> int:
        return book.enter(number)

    container.give(
        payload_of(
            *((leave_a_bomb, (number,)) for number in range(100)),
            *((work, (number, Fuse() if number == 150 else None)) for number in range(100, 300)),
        )
    )
    container.run()
    assert not lit.exists(), "the bomb went off"
    assert container.failures() == {}
    assert container.values() == others(set(), 300)
    assert book.times == Counter(range(300))


def test_a_call_that_cannot_be_unpickled_does_not_hide_from_the_log_what_runs_after_it(container: Container) -> None:
    class Broken:
        def __reduce__(self) -> Any:
            return refuse, ()

    def refuse() -> None:
        raise ImportError("not here")

    def work(number: int, _broken: Any) -> int:
        return number

    broken = set(range(0, MANY, 2))
    container.give(payload_of(*((work, (number, Broken() if number in broken else 0)) for number in range(MANY))))
    output = container.run()
    failed = {number for number, (header, _) in container.reports().items() if header["kind"] == "failure"}
    assert failed == broken
    told = {number for first, last in portions(output) for number in range(first, last + 1)}
    assert told >= set(range(MANY)) - broken


def test_a_function_that_empties_its_artifact_folder_costs_no_more_than_the_reports_in_it(
    container: Container, book: Book
) -> None:
    def work(number: int) -> int:
        book.enter(number)
        if number in UNLUCKY or number + 50 in UNLUCKY:
            for path in container_artifact.iterdir():
                shutil.rmtree(path)
        if number in UNLUCKY:
            os._exit(9)
        return number

    container_artifact = container.artifact
    container.give(calls(work))
    output = container.run()
    assert_amid_others(UNLUCKY, output)
    assert container.manifest["failure"] is None
    assert book.times == Counter(range(MANY)), "a call whose report is gone has run all the same"
    assert container.failures().keys() == UNLUCKY
    after = range(max(UNLUCKY) + 1, MANY)
    assert {number: container.value(number) for number in after} == {number: number for number in after}


def test_only_the_calls_that_are_chosen_run(container: Container, book: Book) -> None:
    def work(number: int) -> int:
        return book.enter(number)

    chosen = {*range(3, 40), 77, 78, 99}
    container.give(calls(work, 100))
    container.chosen = envelope.write_chosen(chosen, 100)
    container.run()
    assert container.values() == {number: number for number in chosen}
    assert container.failures() == {}
    assert book.times == Counter(chosen)


def test_a_choice_that_cannot_be_read_lets_nothing_run(container: Container, book: Book) -> None:
    container.give(calls(book.enter, 100))
    container.chosen = "no choice"
    container.run()
    failure = container.manifest["failure"]
    assert (failure["reason"], failure["ran"]) == (protocol.UNREADABLE_PAYLOAD, "no")
    assert not book.times


# How far the container says that it has come.


def many(folder: Path, faulty: FaultyStore, function: Callable[[int], Any], count: int, **header: Any) -> Attempt:
    """Make an attempt of calls of one function, each with its number, with a place to say how far they are."""
    attempt = Attempt(folder, faulty, data=lambda told: calls(function, count, **{**told, **header}))
    attempt.say_how_far()
    return attempt


def begun(attempt: Attempt) -> int:
    """Tell up to which number calls may have been begun, as it stands in the bucket."""
    further = attempt.bucket.read(keys.begun(attempt.job_id, attempt.number))
    told = [attempt.claim["begun"]] + ([] if further is None else [json.loads(further)["begun"]])
    return int(max(told))


def test_the_claim_says_that_a_call_for_each_lane_may_have_begun(tmp_path: Path, faulty: FaultyStore) -> None:
    attempt = many(tmp_path, faulty, lambda number: number, 10, workers=4)
    container = attempt.container()
    assert container.end() == 0
    assert attempt.claim["begun"] == 4


@pytest.mark.parametrize("lanes", [1, 2])
def test_nothing_begins_before_it_is_written_that_it_may(
    tmp_path: Path, faulty: FaultyStore, book: Book, lanes: int
) -> None:
    faulty.add(StoreFault("hold", "PUT", BEGUN))
    attempt = many(tmp_path, faulty, book.enter, MANY, workers=lanes)
    container = attempt.container()
    faulty.wait_for("hold")
    # The other lanes come to their next calls, and must wait there.
    wait_for(lambda: len(book.times) >= lanes)
    assert attempt.claim["begun"] == lanes
    assert book.times.keys() <= set(range(lanes))
    faulty.let_go()
    assert container.end() == 0, container.output
    assert book.times == Counter(range(MANY))


def test_no_call_runs_beyond_what_is_written(tmp_path: Path, faulty: FaultyStore, book: Book) -> None:
    attempt = many(tmp_path, faulty, book.enter, 5 * MANY, workers=2)
    container = attempt.container()
    slips = []
    while container.process.poll() is None:
        # Read first: what is written may go on meanwhile, what has begun by now may not be beyond it then.
        last = max(book.times, default=-1)
        if last >= 0 and last >= begun(attempt):
            slips.append(last)
    assert container.end() == 0
    assert slips == []
    assert begun(attempt) > max(book.times)
    assert len(faulty.asked("PUT", BEGUN)) < MANY / 10, "it costs a request now and then"


def test_where_it_cannot_be_written_no_more_calls_begin_and_they_are_told_as_such(
    tmp_path: Path, faulty: FaultyStore, book: Book
) -> None:
    faulty.add(StoreFault("status", "PUT", BEGUN, None, status=403, code="ExpiredToken"))
    attempt = many(tmp_path, faulty, book.enter, MANY, workers=2)
    container = attempt.container()
    assert container.end() == 0
    assert faulty.injected
    assert container.values() == {0: 0, 1: 1}
    assert book.times == Counter(range(2))
    told = {(it["reason"], it["ran"]) for it in container.failures().values()}
    assert container.failures().keys() == set(range(2, MANY))
    assert told == {(protocol.NOT_BEGUN, "no")}
    assert "HTTP 403" in container.failed(2)["message"]
    assert "X-Amz" not in container.failed(2)["message"] + container.output


# What is sent ahead.


def sent(attempt: Attempt, output: str) -> dict[int, dict[int, Any]]:
    """Tell the results that were announced, by their places: what lies there is what the line says."""
    found = {}
    for slot, sha256, size in RESULTS.findall(output):
        data = attempt.bucket.read(keys.results(attempt.job_id, attempt.number, int(slot)), 1 << 24)
        assert data is not None
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (sha256, int(size))
        told = {header["call"]: header["kind"] for _, header, _ in envelope.unpack_all(data)}
        assert int(slot) not in found, "no place is used twice"
        found[int(slot)] = told
    return found


def follow(container: Supervised, what: re.Pattern[str]) -> str:
    """Read the log up to a line."""
    assert container.process.stdout is not None
    return next(line for line in container.process.stdout if what.match(line))


def test_results_are_sent_ahead_and_announced_place_by_place(tmp_path: Path, faulty: FaultyStore, gate: Path) -> None:
    def work(number: int) -> int:
        if number in (1, 8):  # what is given out alone comes before the one, and the other
            gate.read_bytes()
        return number

    attempt = many(tmp_path, faulty, work, 9)
    attempt.take_results(10)
    container = attempt.container()
    lines = follow(container, RESULTS)
    assert sent(attempt, lines) == {0: {0: "value"}}, "it is here while the next one runs"
    gate.write_bytes(b"go")
    while len(numbers(sent(attempt, lines))) < 8:
        lines += follow(container, RESULTS)
    assert numbers(sent(attempt, lines)) == list(range(8))
    gate.write_bytes(b"go")
    assert container.end() == 0
    slots = sent(attempt, lines + container.output)
    assert list(slots) == list(range(len(slots)))
    assert numbers(slots) == list(range(9))
    assert container.values() == others(set(), 9), "and all of them are in the artifact too"


def numbers(slots: dict[int, dict[int, Any]]) -> list[int]:
    return sorted(number for told in slots.values() for number in told)


def test_when_no_place_is_left_results_wait_for_the_artifact(tmp_path: Path, faulty: FaultyStore, gate: Path) -> None:
    def work(number: int) -> int:
        if number == 3:
            gate.read_bytes()
        return number

    attempt = many(tmp_path, faulty, work, 9)
    attempt.take_results(1)
    container = attempt.container()
    first = follow(container, RESULTS)
    gate.write_bytes(b"go")
    assert container.end() == 0
    assert list(sent(attempt, first + container.output)) == [0]
    assert len(faulty.asked("PUT", SENT)) == 1
    assert container.values() == others(set(), 9)


def test_results_that_cannot_be_sent_are_not_announced_and_wait_for_the_artifact(
    tmp_path: Path, faulty: FaultyStore
) -> None:
    faulty.add(StoreFault("status", "PUT", SENT, None, status=403, code="ExpiredToken"))
    attempt = many(tmp_path, faulty, lambda number: number, 9)
    attempt.take_results(3)
    container = attempt.container()
    assert container.end() == 0
    assert faulty.injected
    assert sent(attempt, container.output) == {}
    assert "results wait for the artifact: " in container.output
    assert "X-Amz" not in container.output
    assert container.values() == others(set(), 9)
