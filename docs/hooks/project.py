"""The project's own pages stand at the top of the repository, and are here too."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PAGES = {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r"\]\(([A-Z]+\.md)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them, with links that lead to where they stand here."""
    top = Path(config.config_file_path).parent
    for name, here in _PAGES.items():
        text = _LINK.sub(lambda found: f"]({_PAGES[found[1]]})", (top / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, f"project/{here}", content=text))
    return files
