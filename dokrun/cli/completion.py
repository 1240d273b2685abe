"""What a shell can complete at once, without asking anybody: handles that this machine knows, well-known plans."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from dokrun.errors import DokrunError

_MOST = 50
_PLANS = ("h100-2g.20gb", "h100-80gb", "h100-8gpu-80gb", "v100-32gb")


def plans(incomplete: str) -> list[str]:
    """Tell the plans that begin so."""
    return [plan for plan in _PLANS if plan.startswith(incomplete)]


def handles(incomplete: str) -> list[str]:
    """Tell the latest handles of this machine's journals that begin so; none where they cannot be read."""
    # Every command has this module, and only a shell that completes has use for these.
    import sqlite3

    from dokrun import config

    try:
        settings = config.load()
        path = settings.state_dir / f"{settings.account}.sqlite"
        return [handle for handle in _latest(path) if handle.startswith(incomplete)]
    except (DokrunError, sqlite3.Error, OSError):
        return []


def _latest(path: Path) -> list[str]:
    import sqlite3

    from dokrun import keys

    # Read only, and not through the journal itself, which would wait for whoever writes and delete what is old.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.1)) as journal:
        found = journal.execute(
            "SELECT id, json_extract(CAST(record AS TEXT), '$.name') FROM jobs ORDER BY created_at DESC LIMIT ?",
            (_MOST,),
        )
        return [keys.Handle(str(name), str(job_id), "").short for job_id, name in found.fetchall()]
