"""A plan that the service does not have is refused where the function is called; the service says which it has."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import httpx
import pytest
from places import Place, place

import dokrun as dok
from dokrun.api import Client
from dokrun.emulator import Fault
from dokrun.engine.plans import Plans

__all__ = ["place"]


@dok.remote(plan="v100-32gb")
def train(number: int) -> int:
    return number


@pytest.mark.parametrize(
    ("plan", "told"),
    [("h100", "; did you mean 'h100-80gb'?"), ("a100", "; known are h100-80gb, h100-8gpu-80gb, v100-32gb")],
)
def test_a_plan_that_dok_does_not_have_is_refused_at_the_call_and_nothing_is_sent(
    place: Place, plan: str, told: str
) -> None:
    place.here()
    with pytest.raises(dok.OptionError) as caught:
        train.options(plan=plan)(1)
    assert str(caught.value) == f"train asks for the plan {plan!r}, which DOK does not have{told}"
    assert (place.posts(), place.steps()) == (0, [])


def test_a_well_known_plan_is_not_asked_for(place: Place) -> None:
    place.here()
    future = train(1)
    assert future.handle
    assert place.relay.count("GET", "*/plans/") == 0


def test_where_dok_does_not_tell_its_plans_it_refuses_the_task_itself(place: Place) -> None:
    place.here()
    place.dok.faults.add(Fault("status", path="/plans/", status=503, occurrence=None))
    error = train.options(plan="a100")(1).exception(timeout=60)
    assert isinstance(error, dok.SubmitFailed)
    assert error.ran == "no"
    assert isinstance(error.__cause__, dok.BadRequest)
    assert "'a100' is not one of v100-32gb, h100-80gb" in str(error)
    assert place.dok.faults.injected


def page(results: list[dict[str, Any]], number: int, pages: int) -> httpx.Response:
    following = f"https://dok.test/?page={number + 1}" if number < pages else None
    meta = {"page": number, "page_size": 1, "total_pages": pages, "count": pages, "next": following}
    return httpx.Response(200, json={"meta": meta, "results": results})


def test_a_new_plan_that_only_the_service_knows_is_taken() -> None:
    listed = [[{"id": "v100-32gb", "name": "V100"}], [{"id": "b300-288gb", "name": "B300"}]]
    asked = []

    def service(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params.get("page", 1))
        asked.append((request.url.path, number))
        return page(listed[number - 1], number, len(listed))

    with Client("t", "s", base_url="https://dok.test", transport=httpx.MockTransport(service)) as client:
        plans = Plans(client)
        plans.check("b300-288gb", "train")
        assert asked == [("/plans/", 1), ("/plans/", 2)]
        with pytest.raises(dok.OptionError, match="known are b300-288gb, v100-32gb"):
            plans.check("b300", "train")


def test_a_service_that_tells_no_plans_refuses_none() -> None:
    def service(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/plans/"
        return page([], 1, 0)

    with Client("t", "s", base_url="https://dok.test", transport=httpx.MockTransport(service)) as client:
        Plans(client).check("b300-288gb", "train")


def test_prices_are_those_of_all_pages_and_are_asked_for_once() -> None:
    listed: dict[str, list[dict[str, Any]]] = {
        "/plans/": [{"id": name, "minimum_execution_seconds": 60} for name in ("a", "b")],
        "/unit_prices/": [{"plan": name, "price": "0.5"} for name in ("a", "b")],
    }
    asked = []

    def service(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params.get("page", 1))
        asked.append(request.url.path)
        rows = listed[request.url.path]
        return page([rows[number - 1]], number, len(rows))

    with Client("t", "s", base_url="https://dok.test", transport=httpx.MockTransport(service)) as client:
        plans = Plans(client)
        assert plans.prices() == {name: dok.Price(name, Decimal("0.5"), 60) for name in ("a", "b")}
        plans.prices()
        assert asked == ["/plans/"] * 2 + ["/unit_prices/"] * 2
