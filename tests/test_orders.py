"""Payloads that have come together lie in one file, for as long as one of them is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dokrun.shim.orders import Orders
from dokrun.shim.packs import place_of

DATA = bytes(range(100))


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(str(tmp_path))


def there(folder: Path, name: str) -> bytes:
    file, place = place_of(name)
    return (folder / file).read_bytes()[place]


def test_each_payload_is_found_where_it_lies_until_all_are_over(orders: Orders, tmp_path: Path) -> None:
    with orders.keep(DATA) as order:
        names = [order.part(0, 40), order.part(40, 41), order.part(41, 100)]
    assert [there(tmp_path, name) for name in names] == [DATA[:40], DATA[40:41], DATA[41:]]
    assert len(list(tmp_path.iterdir())) == 1
    for name in (names[1], names[0]):
        orders.let_go(name)
        assert there(tmp_path, names[2]) == DATA[41:]
    orders.let_go(names[2])
    assert list(tmp_path.iterdir()) == []


def test_a_payload_that_is_over_before_all_have_come_takes_nothing_from_the_others(
    orders: Orders, tmp_path: Path
) -> None:
    with orders.keep(DATA) as order:
        orders.let_go(order.part(0, 40))
        name = order.part(40, 100)
    assert there(tmp_path, name) == DATA[40:]


def test_where_none_is_needed_nothing_stays(orders: Orders, tmp_path: Path) -> None:
    with orders.keep(DATA):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_orders_do_not_share_files(orders: Orders, tmp_path: Path) -> None:
    with orders.keep(DATA) as first, orders.keep(DATA[::-1]) as second:
        names = first.part(0, 100), second.part(0, 100)
    orders.let_go(names[0])
    assert there(tmp_path, names[1]) == DATA[::-1]


def test_what_cannot_be_kept_is_told_of_each(tmp_path: Path) -> None:
    orders = Orders(str(tmp_path / "nowhere"))
    with orders.keep(DATA) as order:
        for place in ((0, 40), (40, 100)):
            with pytest.raises(FileNotFoundError):
                order.part(*place)


def test_the_payload_of_a_task_of_its_own_is_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(DATA)
    assert there(tmp_path, "payload") == DATA
