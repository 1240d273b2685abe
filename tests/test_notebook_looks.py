"""What an exported notebook looks like in a real browser: all of it can be read, on white and on black."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nbconvert import HTMLExporter
from notebooks import Notebook, environment, text_of
from optional import require_chromium
from places import Place, place, wait_for
from playwright.sync_api import Browser, Locator, Page, Route, sync_playwright

__all__ = ["place"]

CELLS = [
    """
    import os, time
    import dokrun as dok

    @dok.remote(plan="h100-80gb", timeout=120)
    def train(gate):
        print("epoch 1", "loss <0.5>", "word " * 60, flush=True)
        print("x" * 280, flush=True)
        while not os.path.exists(gate):
            time.sleep(0.01)
    """,
    "train.quote.map(range(10))",
    "results = train.map(['/'] * 3)\nlist(results)\nresults",
    "first = train('/')\nfirst.files()\nfirst.receipt",
    "future = train({gate!r})\nfuture",
]
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# How much the text's luminance differs from that of what is behind it, as in the accessibility guidelines.
CONTRAST = """element => {
    const parts = text => text.match(/[\\d.]+/g).map(Number)
    const light = ([r, g, b]) => [r, g, b].map(it => it / 255).map(
        it => it <= 0.03928 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4
    ).reduce((sum, it, at) => sum + it * [0.2126, 0.7152, 0.0722][at], 0)
    let behind = [255, 255, 255], opacity = 1
    for (let it = element; it; it = it.parentElement) opacity *= Number(getComputedStyle(it).opacity)
    for (let it = element; it; it = it.parentElement) {
        const [r, g, b, alpha = 1] = parts(getComputedStyle(it).backgroundColor)
        if (alpha > 0.5) { behind = [r, g, b]; break }
    }
    const own = parts(getComputedStyle(element).color).slice(0, 3)
    const text = own.map((it, at) => it * opacity + behind[at] * (1 - opacity))
    const [low, high] = [light(text), light(behind)].sort((a, b) => a - b)
    return (high + 0.05) / (low + 0.05)
}"""


@pytest.fixture
def chromium() -> str:
    return require_chromium()


@pytest.fixture
def notebook(chromium: str, place: Place) -> Iterator[Notebook]:
    environ = {**place.environ, "DOKRUN_API_URL": place.dok.api_url}
    with Notebook(place.folder, environment(environ)).running() as notebook:
        for cell in CELLS:
            notebook.run(cell.replace("{gate!r}", repr(str(place.gate))))
        # The panel goes on while other cells run.
        wait_for(lambda: notebook.run("time.sleep(0.2)") == [] and "epoch" in text_of(notebook.nb.cells[4].outputs))
        yield notebook


@contextmanager
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            yield launched
        finally:
            launched.close()


def opened(browser: Browser, path: Path, width: int) -> Page:
    def at_home(route: Route) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            route.abort()

    page = browser.new_page(viewport={"width": width, "height": 1200})
    page.route("**/*", at_home)
    page.goto(path.as_uri())
    return page


def exported(notebook: Notebook, path: Path, theme: str) -> Path:
    exporter = HTMLExporter(theme=theme, mathjax_url="", require_js_url="")  # type: ignore[no-untyped-call]
    html, _ = exporter.from_notebook_node(notebook.nb)
    path.write_text(html, encoding="utf-8")
    return path


def shown(page: Page, text: str) -> Locator:
    found = page.get_by_text(text).first
    assert found.is_visible(), text
    return found


def is_whole(page: Page, found: Locator) -> bool:
    """Tell whether nothing of an element is cut off, or lies outside of the page."""
    box: Any = found.bounding_box()
    fits = found.evaluate("it => it.scrollWidth <= it.clientWidth + 1 && it.scrollHeight <= it.clientHeight + 1")
    return bool(fits and box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"])  # type: ignore[index]


def test_an_exported_notebook_can_be_read(notebook: Notebook, tmp_path: Path, chromium: str) -> None:
    with browser(chromium) as launched:
        for theme, width in itertools.product(("light", "dark"), (1200, 500)):
            page = opened(launched, exported(notebook, tmp_path / f"{theme}.html", theme), width)
            for text in (
                "running ·",
                "loss <0.5>",
                "future.cancel() stops it",
                "train.map",
                "3 calls",
                "at most",
                "10 calls in 1 task",
                "billed",
            ):
                found = shown(page, text)
                assert is_whole(page, found), (theme, width, text)
                assert found.evaluate(CONTRAST) >= 4.5, (theme, width, text)
            if os.environ.get("DOKRUN_LOOK"):  # for whoever wants to see it
                page.screenshot(path=Path(os.environ["DOKRUN_LOOK"], f"{theme}-{width}.png"), full_page=True)
