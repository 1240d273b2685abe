"""The grid of failures: what must happen when a step meets a trouble, and which test shows that it does.

A test shows a cell if `cell_STEP_TROUBLE` is in its name or in the id of one of its parameters:

    def test_cell_post_t1_is_found_by_its_tag()
    @pytest.mark.parametrize("fault", [pytest.param(…, id="cell_upload_rf")])
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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
