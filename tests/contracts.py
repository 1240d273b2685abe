"""What a service that says it is DOK is held to: `contract/dok-api.yaml`, of which schemathesis tries every corner."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONTRACT = Path(__file__).parent.parent / "contract" / "dok-api.yaml"


def schemathesis(folder: Path, api_url: str, token: str, secret: str, *options: str) -> str:
    """Let schemathesis try a service, and see that it finds nothing. Tells what it printed; it writes to `folder`."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            str(CONTRACT),
            f"--url={api_url}",
            f"--auth={token}:{secret}",
            *options,
            "--max-examples=10",
            "--continue-on-failure",
            "--generation-database=none",
            "--no-color",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    return done.stdout
