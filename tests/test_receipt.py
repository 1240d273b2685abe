"""A receipt is of all that a call has cost, not of its last attempt alone."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

import dokrun as dok
from dokrun.api import Client
from dokrun.cost import Price, Receipt


def test_each_task_is_billed_with_the_plans_minimum() -> None:
    receipt = Receipt((1.0, 90.0), Price("h100-80gb", Decimal("0.28"), 60))
    assert (receipt.seconds, receipt.billed_seconds, receipt.yen) == (91.0, 150.0, Decimal("42.00"))
    assert str(receipt) == "¥42.00 (150 s billed on h100-80gb, 91 s run in 2 tasks)"


@dok.remote(plan="v100-32gb", retries=dok.Retry(2, on=ConnectionError))
def third_time(starts: Path) -> int:
    with starts.open("a") as file:
        file.write("once\n")
    if dok.current().attempt < 3:
        raise ConnectionError
    return dok.current().attempt


@pytest.mark.usefixtures("account")
def test_the_receipt_counts_the_tasks_of_all_attempts_whoever_asks(client: Client, tmp_path: Path) -> None:
    future = third_time(tmp_path / "starts")
    assert future.result(timeout=60) == 3
    mine = [task for task in client.tasks.iterate() if task.name.startswith("third_time-")]
    seconds = [float(task.containers[0].execution_seconds or 0) for task in mine]
    assert len(seconds) == 3
    attached = dok.attach(future.handle)
    assert attached.result(timeout=60) == 3
    for receipt in (future.receipt, attached.receipt):
        assert receipt is not None
        assert sorted(receipt.each_seconds) == sorted(seconds)
        assert receipt.billed_seconds == sum(max(each, 1.0) for each in seconds)
