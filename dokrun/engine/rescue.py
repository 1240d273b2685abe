"""Results and files of ended tasks, saved in a folder of this machine before the service deletes them after 72 hours.

Each task has a folder there, whole or not at all: `outcome.json` says what became of its calls, whose values are plain
pickles that were verified and not opened; `files` is what was in `dok.artifact_dir()`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dokrun import artifact, errors
from dokrun.api import Client
from dokrun.engine.definition import attempt_of
from dokrun.engine.listing import Listed
from dokrun.engine.remains import Kept, Remains, fetched, in_band, kept_in
from dokrun.engine.reports import NoOutcome

_OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Rescued:
    """What became of a task's results: saved, there (since before), gone, or failed; and what more is to be said."""

    one: Listed
    what: str
    folder: Path
    told: str = ""
    calls: int = 0
    files: int = 0
    unreadable: int = 0


def rescue(client: Client, listed: Iterable[Listed], folder: Path) -> Iterator[Rescued]:
    """Save what ended tasks have left, each below a folder.

    Args:
        client: DOK.
        listed: the tasks; those that have not ended are passed over, and one that comes twice counts once.
        folder: where; made here.

    Raises:
        DiskError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.DiskError(f"{folder} cannot be made: {error.strerror}", folder=str(folder)) from error
    for one in {one.task.id: one for one in listed if one.task.ended}.values():
        attempt = attempt_of(one.task)
        place = folder / (one.short_handle if attempt <= 1 else f"{one.short_handle}-attempt{attempt}")
        if (place / _OUTCOME).is_file():
            yield Rescued(one, "there", place, "saved before")
            continue
        try:
            yield _saved(client, one, place)
        except (errors.ApiError, errors.DiskError, OSError, ValueError) as error:
            yield Rescued(one, "failed", place, str(error))


def _saved(client: Client, one: Listed, place: Path) -> Rescued:
    left = kept_in(client, one.task)
    if left is None:
        return Rescued(one, "gone", place, "it left nothing, or its 72 hours are over")
    aside = Path(tempfile.mkdtemp(prefix=".dokrun-", dir=place.parent))
    try:
        with fetched(client, left) as remains:
            calls, why = _write_calls(one, remains, aside)
            if remains.files:
                artifact.download(remains, [file.name for file in remains.files], aside / "files")
            files = len(remains.files)
        told = {
            "handle": one.handle,
            "name": one.name,
            "task": one.task.id,
            "state": one.task.status,
            "attempt": attempt_of(one.task),
            "calls": calls,
            "files": [file.name for file in remains.files],
        }
        (aside / _OUTCOME).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        aside.chmod(0o755)
        aside.replace(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    unreadable = sum(call["kind"] == "unreadable" for call in calls)
    why = why or (f"{unreadable} results could not be verified, and are not kept" if unreadable else "")
    return Rescued(one, "saved", place, why, len(calls), files, unreadable)


def _write_calls(one: Listed, remains: Remains, folder: Path) -> tuple[list[dict[str, Any]], str]:
    told: list[dict[str, Any]] = []
    try:
        for number, kept in remains.calls(one.task, one.job_id, one.name):
            entry: dict[str, Any] = {"call": number, "kind": kept.kind, "ran": kept.ran}
            if kept.message:
                entry["message"] = kept.message
            if kept.traceback:
                entry["traceback"] = kept.traceback
            if kept.pickle:
                entry["file"] = _write(kept, folder, number, alone=one.calls == 1)
            told.append(entry)
    except NoOutcome as error:
        return told, f"without an outcome of dokrun's: the task ended as {one.task.status} {error}"
    return sorted(told, key=lambda entry: int(entry["call"])), ""


def _write(kept: Kept, folder: Path, number: int, *, alone: bool) -> str:
    name = f"{kept.kind}.pickle" if alone else f"calls/{number}.{kept.kind}.pickle"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as file:
        for part in in_band(kept.pickle):
            file.write(part)
    return name
