"""The emulator keeps the contract, `contract/dok-api.yaml`: schemathesis tries to show that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from contracts import schemathesis

from dokrun.emulator import Emulator


@pytest.mark.parametrize(
    ("phases", "excluded"),
    [
        ("examples,coverage", []),
        # Among what it makes up are queries with unknown names, which the contract does not forbid.
        ("fuzzing,stateful", ["--exclude-checks=negative_data_rejection"]),
    ],
)
def test_schemathesis_finds_nothing_in_which_the_emulator_breaks_the_contract(
    tmp_path: Path, phases: str, excluded: list[str]
) -> None:
    # The contract cannot say which plans there are, so that some valid requests are rightly refused.
    options = [f"--phases={phases}", "--exclude-checks=positive_data_acceptance", *excluded]
    with Emulator() as service:
        told = schemathesis(tmp_path, service.api_url, service.token, service.secret, *options)
    assert "Tested: 39" in told
