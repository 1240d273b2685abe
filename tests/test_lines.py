"""The shim's lines are left out of what a user is shown, however the log is cut into pieces."""

from __future__ import annotations

import pytest

from dokrun.engine.lines import Lines, users_own
from dokrun.shim import protocol

OURS = protocol.STARTED.format(0, 0, 1)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_only_the_shims_own_lines_are_left_out(size: int) -> None:
    log = f"{OURS}\nfirst\n\n[dokru\n  {OURS}\n{OURS}\nlast [dokrun] line\nno end"
    pieces = [log[at : at + size] for at in range(0, len(log), size)]
    assert "".join(users_own(pieces)) == f"first\n\n[dokru\n  {OURS}\nlast [dokrun] line\nno end"


@pytest.mark.parametrize(("log", "told"), [(OURS, ""), ("[dok", "[dok"), ("", ""), ("\n", "\n")])
def test_an_end_without_a_newline_is_told_unless_it_is_the_shims(log: str, told: str) -> None:
    assert "".join(users_own([log])) == told


def test_what_cannot_be_the_shims_is_told_at_once() -> None:
    lines = Lines()
    assert lines.take("progress 1%") == "progress 1%"
    assert lines.take("\r[dokrun] 2%") == "\r[dokrun] 2%"
