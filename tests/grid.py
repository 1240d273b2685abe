"""The grid of failures: what must happen when a step meets a trouble, and which test shows that it does.

A test shows a cell if `cell_STEP_TROUBLE` is in its name or in the id of one of its parameters:

    def test_cell_post_t1_is_found_by_its_tag()
    @pytest.mark.parametrize("fault", [pytest.param(…, id="cell_upload_rf")])
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "grid.md"

TROUBLES = {
    "rf": "refused",
    "t0": "timeout before the commit",
    "t1": "timeout after the commit",
    "5x": "429 and 5xx",
    "mb": "bad or cut body",
    "sb": "slow body",
    "ce": "credentials expired",
    "df": "disk full",
    "k9": "client killed",
    "oo": "container out of memory",
    "tl": "time limit",
    "cx": "cancel race",
    "sk": "clock skew",
    "du": "delivered twice",
    "to": "tampered",
    "ue": "URL expired",
    "vm": "versions differ",
}

MUST = {
    "R": "tried again, harmless by construction",
    "Q": "reconciled, then perhaps repeated",
    "F": "fails, the function did not run",
    "M": "fails, the function ran or may have",
    "W": "waits on, and warns",
    "A": "durable: raises with the handle, and attach goes on",
    "X": "refused: never unpickled, never adopted",
    "D": "dropped",
}

# In the order of the troubles; "-" does not apply.
STEPS: Mapping[str, tuple[str, str]] = {
    "config": ("config", "----F-F-----F-X-F"),
    "pickle": ("pickle", "-------F-F-F----F"),
    "journal": ("journal", "-------FA--F-DX--"),
    "upload": ("upload", "RRRRRRFFA--FFDX--"),
    "image": ("image look-up, build, push", "RRRRRRFFA-FF-DX-F"),
    "post": ("POST /tasks/", "RQQQQQF-Q--Q-DX-F"),
    "poll": ("poll", "WWWWWWA-AMMQ-DX-W"),
    "log": ("log stream", "WWWWWWWW-----D-WW"),
    "start": ("container start", "RRRRRRFFAFFQ-DX-F"),
    "fetch": ("shim fetches", "RRRRRRFFAFFFFDXQF"),
    "run": ("unpickle, run", "-------MAMMM-D--F"),
    "write": ("write outcome", "RRRR---MAMMM-D-AM"),
    "collect": ("artifact collected", "-WWWMW-MAMMM-----"),
    "download": ("download", "RRRRRRAAA--AA-XR-"),
    "load": ("unpickle result", "--------AA-A----A"),
    "settle": ("settle, clean up", "WWWWWWWWA--DWD---"),
    "session": ("session call", "RQQQQQFMAMMQ-DX-F"),
    "map": ("map", "RRRRRRAMAMMMFDXQF"),
    "attach": ("attach", "RRRRRRAAA--QADXMA"),
}


def cells() -> dict[str, str]:
    """Tell every cell that applies, as `STEP_TROUBLE`, and what must happen there."""
    return {
        f"{step}_{trouble}": must
        for step, (_, row) in STEPS.items()
        for trouble, must in zip(TROUBLES, row, strict=True)
        if must != "-"
    }


def shown_by(names: Iterable[str]) -> dict[str, list[str]]:
    """Tell which tests show each cell, by the tests' names."""
    found: dict[str, list[str]] = {}
    for name in names:
        for cell in re.findall(r"cell_([a-z]+_[a-z0-9]{2})(?![a-z0-9])", name):
            found.setdefault(cell, []).append(name)
    return found


def page(names: Iterable[str]) -> str:
    """Make the page of the documentation that shows the grid, and which test shows each cell."""
    shown = shown_by(names)
    lines = [
        "# What must happen when something goes wrong",
        "",
        "Made from the tests' names by `make grid`; a test fails where a cell has none, or where this page is old.",
        "",
        *(f"- **{letter}** {meaning}" for letter, meaning in MUST.items()),
        "",
        "Columns: " + " · ".join(f"**{trouble.upper()}** {meaning}" for trouble, meaning in TROUBLES.items()) + ".",
        "",
        "| step | " + " | ".join(trouble.upper() for trouble in TROUBLES) + " |",
        "|---" * (len(TROUBLES) + 1) + "|",
    ]
    for step, (title, row) in STEPS.items():
        marks = (_mark(f"{step}_{trouble}", must, shown) for trouble, must in zip(TROUBLES, row, strict=True))
        lines.append(f"| {title} | " + " | ".join(marks) + " |")
    lines += ["", "| cell | tests |", "|---|---|"]
    lines += [f"| {cell} | {_listed(shown[cell])} |" for cell in cells() if cell in shown]
    return "\n".join(lines) + "\n"


def _mark(cell: str, must: str, shown: Mapping[str, list[str]]) -> str:
    return "" if must == "-" else must if cell in shown else f"{must} **no test**"


def _listed(tests: Iterable[str]) -> str:
    """Name tests by file and function, each once, whatever their parameters are."""
    return ", ".join(dict.fromkeys(f"`{test.partition('[')[0]}`" for test in tests))


def collected() -> list[str]:
    """Tell the names of all tests, as pytest finds them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS.parent)
    names = [line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line]
    if done.returncode or not names:
        raise RuntimeError(f"the tests cannot be collected:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return names


if __name__ == "__main__":
    PAGE.write_text(page(collected()), encoding="utf-8")
