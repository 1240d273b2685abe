"""What calls will cost, what they have cost and what for, and who keeps them from costing more: without an account."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

import dokrun as dok
from dokrun import config
from dokrun.api import Client
from dokrun.cost import Past, Phases, Price, Receipt, expected_yen, midnight
from dokrun.engine.receipt import read_spent
from dokrun.engine.spending import Spending, billed
from dokrun.options import Options
from dokrun.shim import protocol

H100 = Price("h100-80gb", Decimal("0.28"), 60)
V100 = Price("v100-32gb", Decimal("0.016"), 1)
PRICES = {price.plan: price for price in (H100, V100)}
DAY = datetime(2026, 11, 25, 15, 0, tzinfo=timezone.utc)  # midnight in Japan
NOON = DAY + timedelta(hours=12)


@pytest.mark.parametrize("wrong", [0, -1, True, "100", float("nan"), float("inf")])
def test_max_yen_is_more_than_nothing(wrong: Any) -> None:
    with pytest.raises(dok.OptionError, match=r"max_yen=.* must be a number of yen, more than zero"):
        dok.remote(max_yen=wrong)


def test_max_yen_may_be_told_in_any_kind_of_number_and_taken_back() -> None:
    assert Options().updated({"max_yen": 0.1}).max_yen == Decimal("0.1")
    told = Options().updated({"max_yen": 2500})
    assert told.max_yen == Decimal(2500)
    assert told.updated({"max_yen": None}).max_yen is None


def test_a_price_pays_for_whole_seconds_and_never_for_one_more() -> None:
    assert V100.seconds_for(Decimal("0.16")) == 10
    assert V100.seconds_for(Decimal("0.159")) == 9
    assert Price("free", Decimal(0), 0).seconds_for(Decimal(1)) is None


def test_the_day_begins_when_it_does_in_japan() -> None:
    assert midnight(DAY) == DAY
    assert midnight(DAY - timedelta(seconds=1)) == DAY - timedelta(days=1)
    assert midnight(NOON) == DAY


def test_what_is_expected_is_what_past_tasks_took_around_their_calls_and_for_each() -> None:
    past = [
        Past(calls=1, lanes=1, seconds=110.0, running_s=100.0),
        Past(calls=10, lanes=2, seconds=510.0, running_s=500.0),
    ]
    # Ten seconds around them, and a hundred for each of eleven calls.
    assert expected_yen(V100, past, [1], 1) == Decimal("0.016") * 110
    assert expected_yen(V100, past, [8, 4], 4) == Decimal("0.016") * (210 + 110)
    assert expected_yen(V100, [], [1], 1) is None
    assert expected_yen(H100, [Past(1, 1, 2.0)], [1], 1) == H100.least_yen, "no less than the plan's minimum"


def test_a_receipt_of_a_call_that_the_minimum_made_dear_says_what_would_have_cost_less() -> None:
    receipt = Receipt((2.0,), H100, prices=tuple(PRICES.values()))
    assert receipt.advice == (
        "60 s are billed for 2 s: f.map(…) lets many calls share a task, "
        "and on v100-32gb one alone costs less if it takes less than 1,050 s there"
    )
    large = Phases(peak_gpu_memory_bytes=60 << 30)
    assert Receipt((2.0,), H100, large, tuple(PRICES.values())).advice == (
        "60 s are billed for 2 s: f.map(…) lets many calls share a task"
    ), "it would not have fitted there"
    assert Receipt((61.0,), H100, prices=tuple(PRICES.values())).advice is None


@pytest.mark.parametrize(
    "told", [None, [], {"running": "1"}, {"running": -1}, {"running": True}, {"running": float("inf")}]
)
def test_of_what_a_container_says_of_its_spending_only_amounts_are_believed(tmp_path: Path, told: Any) -> None:
    (tmp_path / protocol.OWN_DIR).mkdir()
    (tmp_path / protocol.MANIFEST).write_text(json.dumps({"spent": told}))
    assert read_spent(tmp_path) == {}


# The day's budget.


class Service:
    """Tells tasks as the service does, newest first, page by page, and counts how often it is asked."""

    def __init__(self, *tasks: dict[str, Any]) -> None:
        self.tasks = list(tasks)
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        number, size = (int(request.url.params.get(name, least)) for name, least in (("page", 1), ("page_size", 100)))
        rows = self.tasks[(number - 1) * size : number * size]
        following = "https://dok.test/next" if number * size < len(self.tasks) else None
        meta = {"page": number, "page_size": size, "total_pages": 1, "count": len(self.tasks), "next": following}
        return httpx.Response(200, json={"meta": meta, "results": rows})

    def spending(self, budget: str | None) -> Spending:
        client = Client("t", "s", base_url="https://dok.test", transport=httpx.MockTransport(self))
        return Spending(client, lambda: PRICES, None if budget is None else Decimal(budget), lambda: NOON)


def task(
    number: int, status: str, start_h: float | None, end_h: float | None, plan: str = "v100-32gb"
) -> dict[str, Any]:
    """Make a task that started and ended so many hours after the day's beginning."""
    start, end = (None if hours is None else (DAY + timedelta(hours=hours)) for hours in (start_h, end_h))
    container = {
        "plan": plan,
        "start_at": start and start.isoformat(),
        "end_at": end and end.isoformat(),
        "execution_seconds": int((end - start).total_seconds()) if start and end else None,
    }
    return {"id": str(number), "status": status, "containers": [container], "updated_at": end and end.isoformat()}


def test_the_days_spending_is_of_all_that_has_ended_today_runs_or_waits_and_of_nothing_older() -> None:
    service = Service(
        task(6, "waiting", None, None, "h100-80gb"),  # will be billed a minute at least
        task(5, "running", 11, None),  # an hour by now
        task(4, "canceled", None, 3),  # never ran
        task(3, "canceled", None, -1),  # nor did this, yesterday
        task(2, "done", -1, 1),  # two hours, the day that it ended on
        task(1, "done", -3, -2),
        *(task(-number, "done", -9 - number, -8 - number) for number in range(300)),
    )
    hour = Decimal("0.016") * 3600
    assert service.spending(None).today() == H100.least_yen + hour + 2 * hour
    assert len(service.asked) == 1, "yesterday's are not asked for"


def test_a_task_that_would_go_beyond_the_budget_is_refused_and_one_that_just_fits_is_not() -> None:
    service = Service(task(1, "done", 1, 2))
    service.spending("74.40").check("train", "h100-80gb")  # 57.60 and 16.80
    with pytest.raises(dok.BudgetExceeded) as caught:
        service.spending("74.39").check("train", "h100-80gb")
    error = caught.value
    assert (error.spent, error.budget, error.ran) == (Decimal("57.600"), Decimal("74.39"), "no")
    assert "today come to ¥57.60, and this one costs ¥16.80 at least" in str(error)
    assert "raise budget_yen_per_day in config.toml, or DOKRUN_BUDGET_YEN_PER_DAY" in str(error)
    service.spending("74.39").check("train", "v100-32gb")


def test_without_a_budget_nobody_is_asked() -> None:
    service = Service()
    service.spending(None).check("train", "h100-80gb")
    assert service.asked == []


@pytest.fixture
def environ() -> dict[str, str]:
    return {"DOKRUN_ACCESS_TOKEN": "t", "DOKRUN_ACCESS_TOKEN_SECRET": "s"}


def test_the_budget_stands_in_the_file_or_in_the_environment(tmp_path: Path, environ: dict[str, str]) -> None:
    def budget(**more: str) -> tuple[Decimal | None, str]:
        settings = config.load(environ={**environ, **more}, config_dir=tmp_path, home=tmp_path)
        return settings.budget_yen_per_day, settings.source.get("budget_yen_per_day", "")

    assert budget() == (None, "")
    (tmp_path / "config.toml").write_text("budget_yen_per_day = 3000")
    assert budget() == (Decimal(3000), "config.toml")
    assert budget(DOKRUN_BUDGET_YEN_PER_DAY="0.5") == (Decimal("0.5"), "DOKRUN_BUDGET_YEN_PER_DAY")
    assert budget(DOKRUN_PROFILE="local") == (None, ""), "nobody pays there"
    for wrong in ("much", "-1", "inf"):
        with pytest.raises(dok.ConfigError, match="is not a number of yen"):
            budget(DOKRUN_BUDGET_YEN_PER_DAY=wrong)
    (tmp_path / "config.toml").write_text('budget_yen_per_day = "much"')
    with pytest.raises(dok.ConfigError, match="budget_yen_per_day of profile 'default' is not a number"):
        budget()


def test_a_budget_alone_makes_no_account(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("budget_yen_per_day = 3000")
    assert config.load(environ={}, config_dir=tmp_path, home=tmp_path).profile == "local"


def test_a_bill_is_asked_for_day_by_day() -> None:
    asked = []

    def service(request: httpx.Request) -> httpx.Response:
        params = request.url.params
        asked.append("-".join(params[name] for name in ("year", "month", "day")))
        meta = {"page": 1, "page_size": 1, "total_pages": 1, "count": 1, "next": None}
        return httpx.Response(200, json={"meta": meta, "results": [{"details": [{"amount": 5}, {"amount": 7}]}]})

    client = Client("t", "s", base_url="https://dok.test", transport=httpx.MockTransport(service))
    assert billed(client, DAY.date(), DAY.date() + timedelta(days=1)) == 24
    assert asked == ["2026-11-25", "2026-11-26"]
