"""Results and files of ended tasks, saved in a folder of this machine before the service deletes them after 72 hours.

Each task has a folder there, whole or not at all: `outcome.json` says what became of its calls, whose values are plain
pickles that were verified and not opened; `files` is what was in `dok.artifact_dir()`; `raw` are files of reports that
were verified, and cannot be read by this version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dokrun import artifact, errors, keys
from dokrun.api import Client
from dokrun.api.models import Artifact
from dokrun.bucket import Bucket
from dokrun.engine.definition import attempt_of
from dokrun.engine.listing import Listed
from dokrun.engine.remains import RAW, Kept, Remains, fetched, in_band, kept_in
from dokrun.engine.reports import NoOutcome, described
from dokrun.shim import protocol

_OUTCOME = "outcome.json"
# Of a task's id, in the name of its folder.
_SHOWN_DIGITS = 8
_BEGAN_NOTHING = frozenset({protocol.CLAIM_LOST, protocol.CLAIM_FAILED, protocol.STOPPED_EARLY})


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


def rescue(client: Client, bucket: Bucket | None, listed: Iterable[Listed], folder: Path) -> Iterator[Rescued]:
    """Save what ended tasks have left, each below a folder.

    Args:
        client: DOK.
        bucket: where results may lie that a lost map has sent ahead.
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
        place = _place(one, folder)
        try:
            yield _rescued(client, bucket, one, place)
        except Exception as error:  # noqa: BLE001 - a container may have written anything, and the other tasks wait
            why = str(error.args[0]) if isinstance(error, errors.CallFailed) else str(error)
            ours = isinstance(error, (errors.DokrunError, OSError, ValueError))
            yield Rescued(one, "failed", place, why if ours else f"what it left cannot be read: {described(error)}")


def _place(one: Listed, folder: Path) -> Path:
    """Tell a task's folder: by its handle, and where that is another task's, by its own id as well.

    A job may have several tasks of one attempt: those that began nothing leave the place to the one that did.
    """
    attempt = attempt_of(one.task)
    place = folder / (one.short_handle if attempt <= 1 else f"{one.short_handle}-attempt{attempt}")
    began = _BEGAN_NOTHING.isdisjoint(container.exit_code for container in one.task.containers)
    if began and _task_in(place) in (None, one.task.id):
        return place
    return place.with_name(f"{place.name}-task{one.task.id[:_SHOWN_DIGITS]}")


def _task_in(place: Path) -> str | None:
    """Tell which task a folder has the results of; None where there are none."""
    try:
        told = json.loads((place / _OUTCOME).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return ""
    return str(told.get("task")) if isinstance(told, dict) else ""


def _rescued(client: Client, bucket: Bucket | None, one: Listed, place: Path) -> Rescued:
    if _task_in(place) == one.task.id:
        return Rescued(one, "there", place, "saved before")
    left = kept_in(client, one.task)
    if left is not None:
        return _saved(client, left, one, place)
    # Only maps send any ahead.
    if bucket is not None and one.calls > 1 and bucket.keys(keys.all_results(one.job_id, attempt_of(one.task))):
        told = f"it left no artifact, but its results are in the bucket: dokrun result {one.short_handle} gets them"
        return Rescued(one, "failed", place, told)
    return Rescued(one, "gone", place, "it left nothing, or its 72 hours are over")


def _saved(client: Client, left: Artifact, one: Listed, place: Path) -> Rescued:
    with artifact.made_whole(place) as aside:
        with fetched(client, left) as remains:
            calls, why = _write_calls(one, remains, aside)
            if remains.files:
                artifact.download(remains, [file.name for file in remains.files], aside / "files")
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
    unreadable = sum(call["kind"] == "unreadable" for call in calls)
    if unreadable and (place / RAW).is_dir():
        why = f"{unreadable} results cannot be read; what was verified of them is in {place / RAW}"
    elif unreadable:
        why = f"{unreadable} results could not be verified, and are not kept"
    return Rescued(one, "saved", place, why, len(calls), len(remains.files), unreadable)


def _write_calls(one: Listed, remains: Remains, folder: Path) -> tuple[list[dict[str, Any]], str]:
    told: list[dict[str, Any]] = []
    try:
        for number, kept in remains.calls(one.task, one.job_id, one.name, folder):
            if not kept.lasting:
                # With an outcome.json nobody would look again.
                raise errors.ResultNotFetched(kept.message, ran="maybe", task_id=one.task.id)
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
