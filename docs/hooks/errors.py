"""The errors' pages are those that `dokrun explain` shows: files of the package, once for the terminal and the site."""

from __future__ import annotations

import re
import textwrap

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from dokrun import errors
from dokrun.cli import pages

_FOLDERS = {"en": "errors", "ja": "ja/errors"}
_INTRODUCTION = """# Errors

What each means, and what to do, stands on [its own page](../errors/index.md). The tree:
"""
_EXPLAINED = re.compile(r"`dokrun explain (\w+)`")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put them into the navigation, below each language's own page about errors."""
    for folder in _FOLDERS.values():
        _section(config.nav or [], f"{folder}/index.md").extend(f"{folder}/{name}.md" for name in errors.__all__)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them, as pages that link to one another."""
    for lang, folder in _FOLDERS.items():
        for name in errors.__all__:
            text = _EXPLAINED.sub(r"[`dokrun explain \1`](\1.md)", pages.page(name, lang))
            files.append(File.generated(config, f"{folder}/{name}.md", content=text))
    files.append(File.generated(config, "reference/errors.md", content=_reference()))
    return files


def _reference() -> str:
    _, _, tree = (errors.__doc__ or "").partition("\n\n")
    tree, _, _ = tree.partition("\n\n")
    each = "\n".join(
        f"::: dokrun.{name}\n\n[What it means and what to do](../errors/{name}.md)\n" for name in errors.__all__
    )
    return f"{_INTRODUCTION}\n```text\n{textwrap.dedent(tree)}\n```\n\n{each}"


def _section(nav: list[object], index: str) -> list[object]:
    """Find the list that has a page, however deep it lies."""
    if index in nav:
        return nav
    for entry in nav:
        if isinstance(entry, dict):
            for within in entry.values():
                if isinstance(within, list) and (found := _section(within, index)):
                    return found
    return []
