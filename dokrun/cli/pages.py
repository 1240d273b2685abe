"""The errors' pages, which are files of the package, one for each class and language."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files

from dokrun import errors
from dokrun.cli import render
from dokrun.errors import OptionError, suggest


def language(environ: Mapping[str, str] = os.environ) -> str:
    """Tell in which language the user reads, as the terminal's programs find it out: `ja`, or else `en`."""
    told = next((environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(name)), "")
    return "ja" if told.partition("_")[0].partition(".")[0].lower() == "ja" else "en"


def page(name: str, lang: str) -> str:
    """Read the page of an error's class, in Markdown."""
    return (files("dokrun") / "pages" / lang / f"{name}.md").read_text(encoding="utf-8")


def show(target: str, lang: str, *, as_json: bool) -> None:
    """Print a page: drawn in a terminal, else as it stands.

    Raises:
        OptionError: there is no such error.
    """
    name = _named(target)
    text = page(name, lang)
    if as_json:
        render.show_json({"error": name, "language": lang, "page": text})
        return
    if not render.is_terminal():
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def _named(target: str) -> str:
    """Find an error as it may be written: `TaskFailed`, `taskfailed`, or `dokrun.errors.TaskFailed` of a traceback."""
    wanted = target.rpartition(".")[2]
    found = {name.lower(): name for name in errors.__all__}.get(wanted.lower())
    if found is None:
        near = suggest(wanted, errors.__all__)
        hint = near if "did you mean" in near else "; dokrun explain DokrunError lists them."
        raise OptionError(f"there is no error {wanted!r}{hint} A function is written as script.py:train")
    return found
