"""What a call may cost, will cost and has cost, on the whole road: an emulator, a store, real child processes."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from attempts import job_of, main_process
from places import JOB, Place, failure, kill, line, place, wait_for

import dokrun as dok
from dokrun import engine, keys
from dokrun.api.models import Container, Task
from dokrun.cost import Price
from dokrun.emulator import Fault
from dokrun.engine.bill import Bill
from dokrun.engine.journal import Record
from dokrun.jobstate import Progress
from dokrun.shim import protocol

__all__ = ["place"]

# Rings in the container's first process when its limit is near.
ALARM = signal.SIGALRM
GIB = 1 << 30


def limit_of(task: Task) -> str | None:
    return task.containers[0].environment.get(protocol.LIMIT_S)


# What it may cost.

DEAR = (
    JOB
    + """
    future = job.options(max_yen=10, timeout=7200)(21, starts, gate)
    print(future.handle, flush=True)
    future.result()
"""
)


def test_a_call_ends_before_it_costs_more_than_its_max_yen_though_its_client_is_dead(place: Place) -> None:
    child = place.start(DEAR)
    handle = line(child)
    wait_for(place.started)
    kill(child)
    (task,) = place.tasks()
    assert (limit_of(task), task.execution_time_limit_sec) == ("625", 625)
    os.kill(main_process(read(handle)), ALARM)
    place.here()
    future = dok.attach(handle)
    error = failure(future)
    assert isinstance(error, dok.TooExpensive)
    assert (error.ran, place.started()) == ("yes", 1)
    assert "before its 625 s were over, which is as long as max_yen pays for; it has cost ¥0." in str(error)
    assert error.spent == future.receipt.yen
    assert any("in job" in text for text in error.log), "its stacks are in the log"
    assert place.tasks()[0].status == "done", "so that the artifact is kept"


def read(handle: str) -> str:
    named = keys.read_handle(handle)
    assert named is not None
    return named.job_id


@dok.remote(plan="v100-32gb", max_yen=5, timeout=600)
def first_stays(number: int, starts: Path) -> int:
    with starts.open("a") as file:
        file.write(f"{number}\n")
    (dok.artifact_dir() / "notes.txt").write_text("what was paid for")
    while number == 0:
        signal.pause()
    return number


def test_of_a_maps_calls_it_is_told_which_were_begun_when_the_money_was_spent(place: Place) -> None:
    place.here()
    futures = first_stays.map(range(3), [place.starts] * 3, workers=1).futures
    wait_for(place.started)
    assert place.tasks()[0].execution_time_limit_sec == 600, "DOK takes no less"
    os.kill(main_process(job_of(futures[0])), ALARM)
    errors = [failure(future) for future in futures]
    assert {type(error) for error in errors} == {dok.TooExpensive}
    assert [error.ran for error in errors] == ["yes", "no", "no"]
    assert place.starts.read_text() == "0\n"
    assert [file.name for file in futures[0].files()] == ["notes.txt"]


@dok.remote(plan="v100-32gb", max_yen=10, timeout="2h", retries=dok.Retry(1, on=ConnectionError))
def second_time() -> int:
    if dok.current().attempt == 1:
        raise ConnectionError
    return dok.current().attempt


def test_a_further_attempt_may_cost_what_the_first_one_has_left(place: Place) -> None:
    place.here()
    future = second_time()
    assert future.result(timeout=60) == 2
    second, first = place.tasks()
    assert limit_of(first) == "625"
    assert limit_of(second) == str(625 - (first.containers[0].execution_seconds or 0))
    assert {task.execution_time_limit_sec for task in (first, second)} == {625}
    assert future.receipt is not None
    assert len(future.receipt.each_seconds) == 2


def test_what_was_spent_counts_though_the_prices_can_no_longer_be_had(place: Place) -> None:
    def refuse() -> dict[str, Price]:
        raise dok.NoAnswer("the service does not tell")

    bill = Bill(replace(place.here()._parts, prices=refuse), Progress(), Price("v100-32gb", Decimal("0.016"), 60))
    record = Record("a" * 32, "second_time", "v100-32gb", 1, "", "")
    for number in range(2):
        container = Container(plan="v100-32gb", execution_seconds=100)
        bill.close(Task(id=str(number), status="done", containers=[container]), record)
    assert bill.spent == Decimal("3.2")


@dok.remote(plan="h100-80gb", max_yen=20, retries=3)
def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_there_is_no_further_attempt_that_max_yen_does_not_pay_for(place: Place) -> None:
    place.here()
    error = failure(dies())
    assert isinstance(error, dok.WorkerDied)
    assert "no further attempt, since what is left of its max_yen does not pay for one" in str(error)
    assert place.posts() == 1


def test_max_yen_that_pays_for_no_task_is_refused_at_the_call_with_the_figure(place: Place) -> None:
    place.here()
    for ask in (dies.options(max_yen=16.79), dies.options(max_yen=16.79).quote):
        with pytest.raises(dok.OptionError, match=r"60 s are billed at least on h100-80gb, which are ¥16\.80; give it"):
            ask()
    assert (place.posts(), place.steps()) == (0, [])


def test_max_yen_is_refused_where_the_prices_cannot_be_had(place: Place) -> None:
    place.here()
    place.dok.faults.add(Fault("status", path="/unit_prices/", status=503, occurrence=None))
    with pytest.raises(dok.OptionError, match=r"DOK does not tell its prices: .*; call again, or write max_yen=None"):
        dies()
    assert place.dok.faults.injected
    assert place.posts() == 0


# What it will cost.


@dok.remote(plan="v100-32gb", timeout="1h")
def double(number: int) -> int:
    return 2 * number


def test_a_quote_rests_on_past_calls_of_the_function_on_the_plan(place: Place) -> None:
    place.here()
    before = double.quote(1)
    assert (before.least, before.expected, before.past) == (Decimal("0.016"), None, 0)
    assert before.most == Decimal("0.016") * (3600 + 600)
    assert before.yen_per_minute == Decimal("0.96")
    assert str(before) == "¥0.02 at least, never called before, ¥67.20 at most; ¥0.96 a minute on v100-32gb"
    future = double(1)
    assert future.result(timeout=60) == 2
    assert future.receipt is not None
    after = double.quote(2)
    assert (after.expected, after.past) == (future.receipt.yen, 1)
    assert "(as in 1 past task)" in str(after)
    assert double.options(plan="h100-80gb").quote(2).past == 0
    assert double.options(max_yen=1, retries=2).quote(2).most == 1
    assert place.posts() == 1, "a quote sends nothing"


def test_what_a_map_has_cost_is_known_though_the_script_ends_with_its_last_result(place: Place) -> None:
    # The relay lets no websockets through, which early results are heard of by.
    place.here(DOKRUN_API_URL=place.dok.api_url)
    assert list(double.map(range(3))) == [0, 2, 4]
    engine.reset()
    place.here(DOKRUN_API_URL=place.dok.api_url)
    assert double.quote.map(range(3)).past == 1


def test_a_map_whose_task_is_not_seen_to_end_is_said_to_go_on_when_the_script_ends(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.here(DOKRUN_API_URL=place.dok.api_url)
    results = first_stays.options(max_yen=None).map([1, 2], [place.starts] * 2)
    assert results.futures[0].handle
    wait_for(lambda: results.futures[0].status == "running")
    rule = place.dok.faults.add(Fault("status", "GET", "/tasks/", None, status=503))
    assert len(list(results)) == 2
    engine.reset()
    assert [one for one in place.dok.faults.injected if one.rule == rule]
    assert "dokrun: first_stays goes on and may cost" in capsys.readouterr().err


def test_a_quote_of_a_map_counts_its_tasks_and_uses_nothing_up(place: Place) -> None:
    place.here()
    quote = double.options(plan="h100-80gb").quote.map(range(7), tasks=3)
    assert (quote.calls, quote.tasks, quote.least) == (7, 3, 3 * Decimal("16.80"))
    with pytest.raises(dok.OptionError, match="would use these up; give it a list"):
        double.quote.map(iter([1, 2]))
    with pytest.raises(dok.OptionError, match="map has no option 'worker'; did you mean 'workers'"):
        double.quote.map([1], worker=2)  # type: ignore[call-arg]
    with pytest.raises(dok.OptionError, match="missing a required argument: 'number'"):
        double.quote()  # type: ignore[call-arg]


# What all may cost on a day.


def test_a_budget_for_the_day_refuses_what_would_go_beyond_it_and_sends_nothing(place: Place) -> None:
    place.here(DOKRUN_BUDGET_YEN_PER_DAY="16")
    assert double(1).result(timeout=60) == 2
    posts, asked = place.posts(), place.relay.count("GET", "*/tasks/")
    error = failure(double.options(plan="h100-80gb")(1))
    assert isinstance(error, dok.BudgetExceeded)
    assert (error.ran, error.budget, place.posts()) == ("no", Decimal(16), posts)
    assert 0 < error.spent < 1
    assert place.relay.count("GET", "*/tasks/") == asked + 1


def test_where_the_days_spending_cannot_be_seen_a_budget_refuses_all(place: Place) -> None:
    place.here(DOKRUN_BUDGET_YEN_PER_DAY="1000")
    place.dok.faults.add(Fault("status", method="GET", path="/tasks/", status=503, occurrence=None))
    error = failure(double(1))
    assert isinstance(error, dok.SubmitFailed)
    assert (error.ran, place.posts()) == ("no", 0)
    assert "there is a budget, and what was spent today cannot be seen" in str(error)


# What it has cost.


@dok.remote(plan="h100-80gb")
def with_torch() -> int:
    # A stand-in: what matters is what it tells.
    cuda = SimpleNamespace(is_initialized=lambda: True, device_count=lambda: 2, max_memory_reserved=lambda number: GIB)
    storage = SimpleNamespace(TypedStorage=type("TypedStorage", (), {}))
    sys.modules["torch"] = SimpleNamespace(cuda=cuda, storage=storage)  # type: ignore[assignment]
    return 1


def test_a_receipt_tells_what_the_time_went_into_how_much_memory_and_what_would_be_cheaper(place: Place) -> None:
    place.here()
    future = with_torch()
    assert future.result(timeout=60) == 1
    receipt = future.receipt
    assert receipt is not None
    told = receipt.phases
    assert None not in (told.queued_s, told.downloading_s, told.running_s, told.uploading_s)
    # The service counts whole seconds, upwards.
    assert 0 < (told.downloading_s or 0) + (told.running_s or 0) + (told.uploading_s or 0) < receipt.seconds + 1
    assert (told.peak_memory_bytes or 0) > 1 << 20
    assert told.peak_gpu_memory_bytes == 2 * GIB
    assert receipt.advice is not None
    assert "on v100-32gb one alone costs less" in receipt.advice


@pytest.fixture
def spent(place: Place) -> Place:
    """A place where some tasks have ended."""
    place.here()
    futures = [double(1), double(2), with_torch()]
    assert [future.result(timeout=60) for future in futures] == [2, 4, 1]
    return place


def test_the_command_cost_sums_up_by_day_function_and_plan_and_tells_what_was_billed(spent: Place) -> None:
    done = spent.dokrun("cost", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [(row["function"], row["plan"], row["tasks"]) for row in told["costs"]] == [
        ("with_torch", "h100-80gb", 1),
        ("double", "v100-32gb", 2),
    ]
    ran = [task.containers[0].execution_seconds or 0 for task in spent.tasks()]
    assert sum(row["seconds"] for row in told["costs"]) == sum(ran)
    assert Decimal(told["yen"]) == sum(Decimal(row["yen"]) for row in told["costs"])
    assert Decimal("16.80") < Decimal(told["yen"]) < 20
    assert Decimal(told["billed_yen"]) == 17, "the bill is in whole yen"
    assert told["problem"] is None
    shown = spent.dokrun("cost", "--days", "1").stdout.splitlines()
    assert shown[0].split("\t")[1:4] == ["with_torch", "h100-80gb", "1"]
    assert shown[-1] == "¥17.00 billed by DOK for these days"


def test_the_command_cost_tells_what_it_can_where_the_bills_cannot_be_had(spent: Place) -> None:
    spent.dok.faults.add(Fault("status", path="/billing_infos/", status=403, occurrence=None))
    done = spent.dokrun("cost", "--since", "2026-01-01")
    assert done.returncode == 0, done.stderr
    assert "since 2026-01-01: tasks that dokrun has made" in done.stdout
    assert "what DOK has billed cannot be seen: " in done.stdout
    told = json.loads(spent.dokrun("cost", "--json").stdout)
    assert (told["billed_yen"], told["problem"] in done.stdout) == (None, True)
