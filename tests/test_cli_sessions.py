"""Sessions and their calls at the command line, and images of functions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from unittest.mock import ANY

import pytest
from desk import Shell, dokrun
from places import Place, place

import dokrun as dok
from dokrun import keys

__all__ = ["dokrun", "place"]

remote = dok.remote(plan="v100-32gb")


@remote
def add(first: int, second: int) -> int:
    print("adding")
    (dok.artifact_dir() / f"{first}.txt").write_text(str(second))
    return first + second


def test_a_session_and_its_calls_are_told_apart(account: pytest.MonkeyPatch, dokrun: Shell, tmp_path: Path) -> None:
    with dok.session(plan="v100-32gb") as session:
        future = session.submit(add, 1, 2)
        assert future.result(timeout=60) == 3
        assert dokrun("result", future.handle).out == "3\n"
        short = keys.shortened(session.handle)
        told = dokrun("show --json", short).json
        assert (told["kind"], told["state"], told["calls"]) == ("session", "running", None)
        assert "goes on" in dokrun("cancel --json", future.handle).json[0]["told"]
        refused = dokrun("result", session.handle)
        assert (refused.status, "is a session, which has no value" in refused.err) == (2, True)
    followed = dokrun("attach", session.handle)
    assert (followed.status, followed.out) == (0, "adding\n")
    assert dokrun("download -o", tmp_path / "files", short).status == 0
    assert (tmp_path / "files" / "1.txt").read_text() == "2"
    saved = dokrun("rescue -o", tmp_path / "saved", short)
    assert saved.status == 0, saved.err
    assert (tmp_path / "saved" / short / "files" / "1.txt").exists()


def test_an_image_that_needs_no_building_is_told(place: Place) -> None:
    script = place.folder / "script.py"
    script.write_text(
        "import dokrun as dok\n@dok.remote(plan='v100-32gb')\ndef plain(): pass\n"
        "@dok.remote(image=dok.Image.debian_slim().run('true'))\ndef built(): pass\n"
    )
    done = place.dokrun("image", "build", f"{script}:plain")
    assert (done.returncode, done.stdout.startswith("docker.io/library/python:3.")) == (0, True), done.stderr
    nowhere = place.dokrun("image", "build", f"{script}:built")
    assert (nowhere.returncode, "no registry is configured" in nowhere.stderr) == (1, True)
    assert place.dokrun("image", "ls").returncode == 2
    told = json.loads(place.dokrun("image", "build", "--json", f"{script}:plain").stdout)
    assert told == {"image": done.stdout.strip(), "registry": None, "python": ANY}
    path = place.folder / "shim.pyz"
    written = place.dokrun("image", "shim", str(path))
    assert (written.returncode, written.stdout.startswith(f"{path}: {path.stat().st_size:,} bytes, sha256 ")) == (
        0,
        True,
    )
    told = json.loads(place.dokrun("image", "shim", "--json", str(path)).stdout)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (told["path"], told["bytes"], told["sha256"]) == (str(path), path.stat().st_size, digest)
    assert f"sha256 {digest}; copy it to {told['baked_path']}\n" in written.stdout
    assert place.tasks() == []
