"""The emulator keeps the contract, `contract/dok-api.yaml`: schemathesis tries to show that it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dokrun.emulator import Emulator

CONTRACT = Path(__file__).parent.parent / "contract" / "dok-api.yaml"


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
    with Emulator() as service:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "run",
                str(CONTRACT),
                f"--url={service.api_url}",
                f"--auth={service.token}:{service.secret}",
                f"--phases={phases}",
                *excluded,
                "--max-examples=10",
                "--continue-on-failure",
                # The contract cannot say which plans there are, so that some valid requests are rightly refused.
                "--exclude-checks=positive_data_acceptance",
                "--generation-database=none",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-20_000:]
    assert "Tested: 39" in done.stdout
