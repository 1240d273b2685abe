"""Every cell of the grid has a test, and the page that says so is up to date."""

from __future__ import annotations

import grid
import pytest


@pytest.fixture(scope="module")
def names() -> list[str]:
    return grid.collected()


def test_every_cell_of_the_grid_is_shown_by_a_test(names: list[str]) -> None:
    assert sorted(grid.cells().keys() - grid.shown_by(names).keys()) == []


def test_no_test_shows_a_cell_that_there_is_not(names: list[str]) -> None:
    assert sorted(grid.shown_by(names).keys() - grid.cells().keys()) == []


def test_the_page_of_the_grid_is_what_the_tests_names_say(names: list[str]) -> None:
    assert grid.PAGE.read_text(encoding="utf-8") == grid.page(names), "run: make grid"
