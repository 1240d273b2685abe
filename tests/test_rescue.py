"""`dokrun rescue` of what is odd: no result is written off that can still be had, and no task hides another's."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chores
import pytest
from account import MANIFEST, Account, Files, manifest, with_manifest
from ahead import Ahead
from desk import Shell, dokrun
from forged import account, bucket
from places import failure, wait_for
from test_cli_files import told
from test_poll import again

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket
from dokrun.shim import envelope, protocol

__all__ = ["account", "bucket", "dokrun", "told"]


def outcome(folder: Path) -> Any:
    return json.loads((folder / "outcome.json").read_text())


def vouched(change: Callable[[bytes], bytes]) -> Callable[[Files], None]:
    """Change the only file of reports, and let the manifest vouch for what comes of it."""

    def changed(files: Files) -> None:
        (name,) = [name for name in files if "/reports/" in name]
        files[name] = change(files[name])
        entry = {**manifest(files)["reports"][0], "sha256": hashlib.sha256(files[name]).hexdigest()}
        with_manifest(reports=[entry])(files)

    return changed


def with_header(**changed: Any) -> Callable[[bytes], bytes]:
    def change(report: bytes) -> bytes:
        header, segments = envelope.unpack(report)
        return envelope.pack({**header, **changed}, segments)

    return change


def absent(files: Files) -> None:
    (name,) = [name for name in files if "/reports/" in name]
    del files[name]


@pytest.mark.parametrize(
    ("change", "raises"),
    [
        pytest.param(vouched(lambda report: report[:20]), dok.ResultUnreadable, id="cut at its head"),
        pytest.param(
            vouched(lambda report: report.replace(b'"format":1', b'"format":9')),
            dok.VersionMismatch,
            id="another format",
        ),
        pytest.param(vouched(with_header(call=math.inf)), dok.ResultUnreadable, id="a number without end"),
        pytest.param(absent, dok.Tampered, id="absent"),
    ],
)
def test_a_result_that_cannot_be_opened_is_told_and_what_was_verified_of_it_is_kept(
    told: Account, dokrun: Shell, tmp_path: Path, change: Callable[[Files], None], raises: type[dok.CallFailed]
) -> None:
    future = chores.answer(told.starts)
    assert future.result(timeout=60) == 42
    told.change(future.task_id, change)
    error = failure(dok.attach(future.handle))
    assert (type(error), error.ran) == (raises, "yes"), error
    assert "dokrun logs" in str(error)
    short = keys.shortened(future.handle)
    done = dokrun("rescue -o", tmp_path / "out", short)
    assert (done.status, done.out.partition("\t")[0]) == (1, "saved"), done.out
    folder = tmp_path / "out" / short
    (call,) = outcome(folder)["calls"]
    assert (call["call"], call["kind"], tempfile.gettempdir() in call["message"]) == (0, "unreadable", False)
    left = {f"raw/{path.name}": path.read_bytes() for path in folder.glob("raw/*")}
    assert len(left) == (raises is not dok.Tampered)
    for name, data in left.items():
        assert f"it is kept in {told.folder / 'state' / 'results' / name.removeprefix('raw/')}" in str(error)
        assert name in call["message"]
        assert name == f"raw/{hashlib.sha256(data).hexdigest()}"
        assert str(folder / "raw") in done.out
    (shown,) = dokrun("show --json", short).json["outcomes"]
    assert (shown["kind"], shown["message"]) == ("unreadable", call["message"])


def test_of_a_session_too_what_cannot_be_opened_is_told_and_kept(told: Account, dokrun: Shell, tmp_path: Path) -> None:
    with dok.session(plan="v100-32gb") as session:
        assert session.submit(chores.answer, told.starts).result(timeout=60) == 42
        short = keys.shortened(session.handle)
    wait_for(lambda: all(task.ended for task in told.client.tasks.iterate()))
    (task,) = told.client.tasks.iterate()
    told.change(task.id, vouched(lambda report: b"?" + report))
    done = dokrun("rescue -o", tmp_path / "out", short)
    assert done.status == 1
    (kept,) = (tmp_path / "out" / short / "raw").iterdir()
    assert [call["kind"] for call in outcome(tmp_path / "out" / short)["calls"]] == ["unreadable"]
    assert kept.read_bytes().startswith(b"?" + envelope.MAGIC)


def test_what_befell_the_whole_task_is_told_of_each_of_its_calls(told: Account, dokrun: Shell, tmp_path: Path) -> None:
    future = chores.answer(told.starts)
    future.result(timeout=60)
    befell = {"reason": protocol.WRONG_VERSION, "ran": "no", "message": "another Python is needed"}
    told.change(future.task_id, with_manifest(reports=[], calls=[], failure=befell))
    done = dokrun("rescue -o", tmp_path / "out", keys.shortened(future.handle))
    assert done.status == 0, done.out
    assert outcome(tmp_path / "out" / keys.shortened(future.handle))["calls"] == [
        {"call": 0, "kind": "failure", "ran": "no", "message": "another Python is needed"}
    ]


def test_what_this_machine_cannot_read_now_is_not_written_off(told: Account, dokrun: Shell, tmp_path: Path) -> None:
    future = chores.answer(told.starts)
    future.result(timeout=60)
    before = told.archive(future.task_id).read_bytes()
    short = keys.shortened(future.handle)

    def unreadable(files: Files) -> None:
        # No disk has a file of so long a name; of what nobody finds in a damaged file, the other is as good.
        long = {"path": "r" * 300, "sha256": "0" * 64, "size": 1}
        (name,) = [name for name in files if "/reports/" in name]
        damaged = {"path": name.removeprefix("./.dokrun/"), "sha256": "1" * 64, "size": 1}
        files[MANIFEST] = json.dumps({**manifest(files), "reports": [long, damaged]}).encode()

    told.change(future.task_id, unreadable)
    failed = dokrun("rescue -o", tmp_path / "out", short)
    assert (failed.status, failed.out.partition("\t")[0]) == (1, "failed")
    assert "cannot be read on this machine" in failed.out
    assert list((tmp_path / "out").iterdir()) == []
    told.archive(future.task_id).write_bytes(before)
    assert dokrun("rescue -o", tmp_path / "out", short).status == 0
    assert pickle.loads((tmp_path / "out" / short / "value.pickle").read_bytes()) == 42


def test_two_tasks_of_one_attempt_have_a_folder_each(told: Account, dokrun: Shell, tmp_path: Path) -> None:
    future = chores.answer(told.starts)
    future.result(timeout=60)
    twin = told.client.tasks.create(again(told.task(future)))
    wait_for(lambda: told.client.tasks.get(twin.id).ended)
    assert told.client.tasks.get(twin.id).containers[0].exit_code == protocol.CLAIM_LOST
    place, out = tmp_path / "out" / keys.shortened(future.handle), tmp_path / "out"
    apart = place.with_name(f"{place.name}-task{twin.id[:8]}")
    for what in ("saved", "there"):
        rows = {each["task"]: (each["what"], each["folder"]) for each in dokrun("rescue --all --json -o", out).json}
        # The twin is the newer one, comes first, and was never let begin.
        assert rows == {twin.id: ("gone", str(apart)), future.task_id: (what, str(place))}
    assert outcome(place)["task"] == future.task_id
    # As if a task had been there that has begun, too.
    (place / "outcome.json").write_text(json.dumps({"task": "another"}))
    assert dokrun("rescue --all -o", out).status == 0
    beside = place.with_name(f"{place.name}-task{str(future.task_id)[:8]}")
    assert pickle.loads((beside / "value.pickle").read_bytes()) == 42
    assert {each["what"] for each in dokrun("rescue --all --json -o", out).json} == {"there", "gone"}


@pytest.mark.parametrize(
    "odd",
    [
        with_manifest(reports=[], calls=[{"calls": [0, 1], "failure": {}}]),
        with_manifest(reports=[], calls=[{"calls": [0, 1], "failure": 7}]),
        with_manifest(reports=[], calls=[], failure={"reason": "odd"}),
    ],
)
def test_one_odd_artifact_keeps_none_of_the_others_from_being_saved(
    told: Account, dokrun: Shell, tmp_path: Path, odd: Callable[[Files], None]
) -> None:
    good, bad = chores.answer(told.starts), chores.answer(told.starts)
    assert [future.result(timeout=60) for future in (good, bad)] == [42, 42]
    told.change(bad.task_id, odd)
    done = dokrun("rescue --all -o", tmp_path / "out")
    assert (done.status, "1 saved, 0 saved before, 0 with nothing left, 1 failed" in done.err) == (1, True), done.err
    assert "what it left cannot be read" in done.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == [keys.shortened(good.handle)]


def test_a_manifest_of_numbers_without_end_holds_no_outcome(told: Account, dokrun: Shell, tmp_path: Path) -> None:
    future = chores.answer(told.starts)
    future.result(timeout=60)
    told.change(future.task_id, with_manifest(calls=[{"calls": [0, math.inf], "failure": {}}]))
    done = dokrun("rescue --all -o", tmp_path / "out")
    assert (done.status, "without an outcome of dokrun's" in done.out) == (0, True), done.out


def test_results_that_a_lost_map_has_sent_ahead_are_not_called_gone(
    told: Account, bucket: Bucket, dokrun: Shell, tmp_path: Path
) -> None:
    ahead = Ahead(told, bucket)
    ahead.lose()
    assert isinstance(failure(ahead.results.futures[-1]), dok.TaskFailed)
    done = dokrun("rescue --all -o", tmp_path / "out")
    short = keys.shortened(ahead.handle)
    assert (done.status, done.out.partition("\t")[0]) == (1, "failed"), done.out
    assert f"its results are in the bucket: dokrun result {short} gets them" in done.out
    assert "0 with nothing left, 1 failed" in done.err
    assert str(ahead.VALUES[0]) in dokrun("result", short).out
