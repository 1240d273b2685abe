"""Japanese pages, those below ja/, have a Japanese frame; and each page leads to itself in the other language."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

_JA = "ja/"
# A browser makes a space of a line's end, which there is none of between Japanese characters.
_JAPANESE = r"[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]"
_WITHIN = re.compile(rf"(?<={_JAPANESE})\n *(?={_JAPANESE})|(?<=[\u3001\u3002\u300c\uff08])\n *(?=[^\s#|-])")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: object) -> str:
    """Join the lines of Japanese paragraphs."""
    del config, files
    return _WITHIN.sub("", markdown) if page.file.src_uri.startswith(_JA) else markdown


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, nav: object) -> dict[str, Any]:
    """Say the page's language to the theme, which reads it when it draws the page, and where the other one is."""
    del nav
    path = page.file.src_uri
    japanese = path.startswith(_JA)
    english = path.removeprefix(_JA)
    config.theme["language"] = "ja" if japanese else "en"
    addresses = {file.src_uri: file.url for file in context["pages"]}
    for alternate in config.extra["alternate"]:
        prefix = _JA if alternate["lang"] == "ja" else ""
        alternate["link"] = addresses.get(prefix + english, addresses[f"{prefix}index.md"])
    return context
