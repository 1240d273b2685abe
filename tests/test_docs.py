"""The site builds strictly, reads without a network, and leads somewhere wherever it says so."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from optional import require_chromium
from playwright.sync_api import sync_playwright

import dokrun as dok
from dokrun import errors

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
TOP = Path(__file__).parent.parent


class Read(HTMLParser):
    """What a page links to, loads, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.language = ""
        self.anchors = {""}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.anchors.update(told[name] for name in ("id", "name") if name in told)
        if tag == "html":
            self.language = told["lang"]
        if tag == "a" and "href" in told:
            self.links.append(told["href"])
        if tag in ("link", "script", "img", "iframe", "source"):
            self.loads += [told[name] for name in ("href", "src") if name in told]


class Site(NamedTuple):
    folder: Path
    pages: dict[Path, Read]

    def page(self, name: str) -> Read:
        return self.pages[self.folder / name]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Site:
    # All workers of a run have the same, which the first of them builds: that takes half a minute.
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "whole-site"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            aside = tmp_path_factory.mktemp("site")
            _build(aside)
            aside.rename(shared)
    return Site(shared, {path: Read(path.read_text(encoding="utf-8")) for path in shared.rglob("*.html")})


def _build(folder: Path) -> None:
    # Not quietly: then mkdocs hears no warnings, and is not strict.
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        build, cwd=TOP, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _away(link: str) -> bool:
    return bool(urllib.parse.urlsplit(link).scheme) or link.startswith("//")


def _broken(site: Site) -> Iterator[str]:
    for path, page in site.pages.items():
        if path.name == "404.html":
            continue  # it is shown at any address, so it names its own from the top
        for link in [*page.links, *page.loads]:
            if _away(link):
                continue
            address, _, anchor = link.partition("#")
            target = path if not address else (path.parent / urllib.parse.unquote(address)).resolve()
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                yield f"{path.relative_to(site.folder)}: {link} is no file"
            elif target in site.pages and urllib.parse.unquote(anchor) not in site.pages[target].anchors:
                yield f"{path.relative_to(site.folder)}: {link} has no such place"


def test_every_link_and_anchor_leads_somewhere(site: Site) -> None:
    assert list(_broken(site)) == []


def test_a_page_loads_nothing_from_elsewhere(site: Site) -> None:
    for path, page in site.pages.items():
        assert [load for load in page.loads if _away(load)] == [], path
    for style in site.folder.rglob("*.css"):
        assert "url(http" not in style.read_text(encoding="utf-8"), style


def test_every_public_name_is_in_the_reference(site: Site) -> None:
    reference = [page for path, page in site.pages.items() if path.parent.name == "reference"]
    anchors = set().union(*(page.anchors for page in reference))
    assert [name for name in dok.__all__ if f"dokrun.{name}" not in anchors] == []
    told = {f"dokrun.api.{name}" for name in ("Client", "resources.tasks.Tasks.create", "models.tasks.Task")}
    assert told | {"dokrun.emulator.Emulator", "dokrun.emulator.Fault"} <= anchors


def test_every_command_of_the_program_is_in_the_reference(site: Site) -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "from dokrun.cli import main; main()", "--help"],
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    page = site.page("reference/cli.html")
    commands = [anchor.removeprefix("dokrun-") for anchor in page.anchors if anchor.startswith("dokrun-")]
    assert {"explain", "ls", "emulator", "config", "config-show", "registry-add"} <= set(commands)
    assert all(command.partition("-")[0] in listed.stdout for command in commands)


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_every_error_has_a_page_in_both_languages_that_its_guide_leads_to(site: Site, lang: str) -> None:
    folder = "ja/errors" if lang == "ja" else "errors"
    guide = site.page(f"{folder}/index.html")
    for name in errors.__all__:
        assert site.page(f"{folder}/{name}.html").language == lang
        assert f"{name}.html" in guide.links or name == "DokrunError"


def test_a_page_is_framed_in_its_language_and_leads_to_itself_in_the_other(site: Site) -> None:
    for path, page in site.pages.items():
        japanese = path.relative_to(site.folder).parts[0] == "ja"
        assert page.language == ("ja" if japanese else "en"), path
    assert "ja/quickstart.html" in site.page("quickstart.html").links
    assert "../../errors/TaskFailed.html" in site.page("ja/errors/TaskFailed.html").links
    assert "../ja/index.html" in site.page("guides/data.html").links


def test_search_knows_both_languages_without_a_server(site: Site) -> None:
    script = (site.folder / "search/search_index.js").read_text(encoding="utf-8")
    index = json.loads(script.removeprefix("var __index = "))
    assert index["config"]["lang"] == ["en", "ja"]
    texts = {entry["location"]: entry["text"] for entry in index["docs"]}
    assert any("コントロールパネル" in text for where, text in texts.items() if where.startswith("ja/first-run"))
    for needed in ("min/lunr.ja.min.js", "min/lunr.multi.min.js", "tinyseg.js"):
        assert (site.folder / "assets/javascripts/lunr" / needed).is_file()


@pytest.mark.parametrize(
    ("page", "words", "leads_to"),
    [
        ("index.html", "checkpoint", "guides/failure.html"),
        ("ja/index.html", "オブジェクトストレージ", "ja/first-run.html"),
    ],
)
def test_a_browser_finds_words_of_both_languages_from_the_disk(
    site: Site, page: str, words: str, leads_to: str
) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_chromium(), args=ARGUMENTS)
        try:
            shown = browser.new_page()
            failed: list[str] = []
            shown.on("pageerror", lambda error: failed.append(str(error)))
            shown.goto((site.folder / page).as_uri())
            box = shown.locator(".md-search__input")
            box.click()
            box.press_sequentially(words)
            shown.keyboard.press("Shift")  # what is put in at once, as Japanese is, presses no key
            shown.locator(f".md-search-result__link[href*='{leads_to}']").first.wait_for(timeout=60_000)
            assert failed == []
        finally:
            browser.close()
