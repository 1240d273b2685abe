"""The project's line: who stands where, asked for seldom, by whoever shows it or asks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from account import Account, account
from chores import started, stay
from emulated import STAYS, Lines, lines, request
from places import Place, abandoned, place
from waiting import wait_for

import dokrun as dok
from dokrun.api.models import Container, Task
from dokrun.emulator import Fault
from dokrun.engine.queue import INTERVAL_S, Queue, places
from dokrun.progress import Place as InLine

__all__ = ["account", "lines", "place"]

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=timezone.utc)


def task(name: str, status: str = "waiting", limit_s: int | None = 600, ran_s: float | None = None) -> Task:
    start_at = None if ran_s is None else NOW - timedelta(seconds=ran_s)
    return Task(name, containers=[Container(start_at=start_at)], status=status, execution_time_limit_sec=limit_s)


def test_whoever_came_first_is_before_and_time_limits_tell_the_longest_wait() -> None:
    newest_first = [task("c"), task("b", limit_s=1200), task("a"), task("r", "running", 3600, ran_s=600)]
    assert places(newest_first, NOW) == {"a": InLine(1, 3000), "b": InLine(2, 3600), "c": InLine(3, 4800)}


def test_a_task_that_has_not_started_yet_or_is_over_its_time_counts_as_such() -> None:
    assert places([task("a"), task("r", "running", 600)], NOW)["a"] == InLine(1, 600)
    assert places([task("a"), task("r", "running", 600, ran_s=700)], NOW)["a"] == InLine(1, 0)


def test_nothing_is_said_of_the_time_behind_a_task_without_a_limit() -> None:
    newest_first = [task("c"), task("b", limit_s=None), task("a")]
    assert places(newest_first, NOW) == {"a": InLine(0, 0), "b": InLine(1, 600), "c": InLine(2, None)}


def test_a_task_that_comes_on_two_pages_counts_once() -> None:
    assert places([task("b"), task("a"), task("a")], NOW)["b"] == InLine(1, 600)


class Asker:
    """A queue of this account's, whose time passes by hand and whose other thread is this one, when it is let."""

    def __init__(self, account: Account) -> None:
        self.now = 0.0
        self.aside: list[Callable[[], object]] = []
        self.queue = Queue(account.client, self.put_aside, lambda: self.now)

    def put_aside(self, work: Callable[[], object]) -> bool:
        self.aside.append(work)
        return True

    def run(self) -> int:
        """Do what was put aside. Tells how much that was."""
        works, self.aside[:] = list(self.aside), []
        for work in works:
            work()
        return len(works)


def test_the_service_is_asked_once_in_ten_seconds(account: Account, lines: Lines) -> None:
    line = lines(STAYS)
    account.client.tasks.create(request(line.code))
    assert line.hear() == "R"
    asker, second = Asker(account), account.client.tasks.create(request("pass"))
    assert asker.queue.place(second.id, ask=True) == asker.queue.place(second.id, ask=False) is not None
    third = account.client.tasks.create(request("pass"))
    asker.now += INTERVAL_S - 1
    assert asker.queue.place(third.id, ask=True) is None
    asker.now += 1
    found = asker.queue.place(third.id, ask=True)
    assert found is not None
    assert found.before == 2
    assert found.longest_s is not None
    assert 1100 < found.longest_s <= 1200


def test_whoever_only_shows_it_never_waits_for_an_answer(account: Account, lines: Lines) -> None:
    line = lines(STAYS)
    account.client.tasks.create(request(line.code))
    assert line.hear() == "R"
    asker, second = Asker(account), account.client.tasks.create(request("pass"))
    assert asker.queue.place(second.id, ask=False) is None
    assert asker.queue.place(second.id, ask=False) is None
    assert asker.run() == 1
    found = asker.queue.place(second.id, ask=False)
    assert found is not None
    assert found.before == 1
    assert asker.run() == 0
    asker.now += INTERVAL_S
    account.faults(Fault("status", method="GET", path="/tasks/", status=403))
    assert asker.queue.place(second.id, ask=False) == found
    assert asker.run() == 1
    assert account.injected() == 1
    assert asker.queue.place(second.id, ask=False) == found


def test_a_future_tells_its_position_while_it_waits(account: Account, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    futures = [stay(account.starts, gate) for _ in range(3)]
    wait_for(lambda: started(account.starts) == 1 and all(future.status == "waiting" for future in futures[1:]))
    wait_for(futures[0].running)
    assert [future.position for future in futures] == [None, 1, 2]
    gate.touch()
    assert [future.result(timeout=60) for future in futures] == [42] * 3
    assert [future.position for future in futures] == [None] * 3


def test_asking_for_a_position_tells_that_the_service_refuses(account: Account, tmp_path: Path) -> None:
    futures = [stay(account.starts, tmp_path / "gate") for _ in range(2)]
    wait_for(lambda: started(account.starts) == 1 and futures[1].status == "waiting")
    account.faults(Fault("status", method="GET", path="/tasks/", status=403))
    with pytest.raises(dok.ApiError):
        futures[1].position  # noqa: B018 - it asks
    assert account.injected() >= 1


def test_ls_tells_how_many_are_before_those_that_wait(place: Place) -> None:
    abandoned(place)
    abandoned(place, until=lambda: len(place.tasks()) == 2)
    rows = [row.split("\t") for row in place.dokrun("ls").stdout.splitlines()]
    assert [(row[1], row[5]) for row in rows] == [("waiting", "1"), ("running", "")]
