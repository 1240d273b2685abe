"""What a function leaves in its artifact folder comes back, and nothing but that, whatever the archive holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import small_disk

import dokrun as dok


@dok.remote(plan="v100-32gb")
def leave(*, fail: bool = False) -> str:
    folder = dok.artifact_dir()
    (folder / "plots").mkdir()
    (folder / "plots" / "loss.txt").write_text("0.1")
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "link").symlink_to("/etc/passwd")
    if fail:
        raise LookupError("after it was left")
    return str(folder)


@pytest.mark.usefixtures("account")
def test_files_are_listed_and_come_back_whole_or_by_pattern(tmp_path: Path) -> None:
    future = leave()
    assert future.files() == [dok.ArtifactFile("model.bin", 7), dok.ArtifactFile("plots/loss.txt", 3)]
    everything = future.download(tmp_path / "all")
    assert [path.relative_to(tmp_path / "all").as_posix() for path in everything] == ["model.bin", "plots/loss.txt"]
    assert (tmp_path / "all" / "model.bin").read_bytes() == b"weights"
    assert future.download(tmp_path / "some", "plots/*") == [tmp_path / "some" / "plots" / "loss.txt"]
    assert not (tmp_path / "some" / "model.bin").exists()
    assert not (tmp_path / "all" / "link").exists(), "a link is not followed and not made"


@dok.remote(plan="v100-32gb")
def checkpoint(step: int) -> None:
    folder = dok.artifact_dir() / "checkpoints"
    (folder / f"step-{step}").mkdir(parents=True)
    (folder / f"step-{step}" / "weights").write_bytes(b"w" * step)
    (folder / "best.pt").symlink_to(f"step-{step}/weights")
    (folder / "latest").symlink_to(f"step-{step}")
    os.link(folder / "best.pt", folder / "twin.pt", follow_symlinks=True)
    (folder / "run.sh").write_text("#!/bin/sh")
    (folder / "run.sh").chmod(0o2750)
    (folder / "secret").write_text("s")
    (folder / "secret").chmod(0o400)
    (folder / "away").symlink_to("/etc/passwd")
    (folder / "dangling").symlink_to("gone")
    os.mkfifo(folder / "pipe")
    (folder / "up").symlink_to("../../..")


@pytest.mark.usefixtures("account")
def test_links_between_files_come_back_as_those_files_and_are_listed_as_such(tmp_path: Path) -> None:
    future = checkpoint(100)
    assert [(file.name, file.size_bytes) for file in future.files()] == [
        ("checkpoints/best.pt", 100),
        ("checkpoints/run.sh", 9),
        ("checkpoints/secret", 1),
        ("checkpoints/step-100/weights", 100),
        ("checkpoints/twin.pt", 100),
    ]
    (best,) = future.download(tmp_path / "one", "checkpoints/best.pt")
    assert not best.is_symlink()
    assert best.read_bytes() == b"w" * 100
    assert [path.name for path in (tmp_path / "one").rglob("*")] == ["checkpoints", "best.pt"]
    future.download(tmp_path / "all")
    names = ("best.pt", "twin.pt", "step-100/weights", "latest/weights")
    assert {(tmp_path / "all" / "checkpoints" / name).stat().st_ino for name in names} == {
        (tmp_path / "all" / "checkpoints" / "best.pt").stat().st_ino
    }, "a link takes no room of its own"
    assert (tmp_path / "all" / "checkpoints" / "latest").readlink() == Path("step-100")


@pytest.mark.usefixtures("account")
def test_files_keep_their_permissions_but_no_more_than_the_umask_allows(tmp_path: Path) -> None:
    checkpoint(1).download(tmp_path / "out")
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "out" / "checkpoints").iterdir()}
    assert (modes["run.sh"], modes["secret"]) == (0o750, 0o600)


@pytest.mark.usefixtures("account")
def test_what_cannot_come_back_is_named_in_the_log_and_not_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    future = checkpoint(1)
    future.download(tmp_path / "out")
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("checkpoint also left what cannot be brought here")
    assert said.endswith("'checkpoints/pipe', 'checkpoints/away', 'checkpoints/dangling' and 1 more")
    names = {path.name for path in (tmp_path / "out" / "checkpoints").iterdir()}
    assert names == {"best.pt", "latest", "run.sh", "secret", "step-1", "twin.pt"}


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("below", ["/proc", "file"])
def test_a_destination_that_cannot_be_made_is_told_with_its_name_and_what_to_do(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / below / "new"  # an absolute name stands alone
    future = leave()
    with pytest.raises(dok.DiskError, match="name another folder, and call download") as caught:
        future.download(folder)
    assert repr(str(folder)) in str(caught.value)
    assert caught.value.folder == str(folder)
    assert len(future.download(tmp_path / "elsewhere")) == 2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that is full after a mebibyte."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        yield disk


@dok.remote(plan="v100-32gb")
def leave_much(*, noise: bool) -> bytes:
    much = os.urandom(3 << 20) if noise else bytes(3 << 20)
    (dok.artifact_dir() / "small").write_bytes(b"fits")
    (dok.artifact_dir() / "large").write_bytes(much)
    return much


# The archive of noise is too large for the disk, and that of zeros is so when it is opened.
@pytest.mark.parametrize("noise", [True, False], ids=["noise", "zeros"])
@pytest.mark.usefixtures("account")
def test_a_disk_here_that_is_full_is_told_as_such_and_the_files_come_when_there_is_room(
    disk: Path, *, noise: bool
) -> None:
    future = leave_much(noise=noise)
    with pytest.raises(dok.DiskError, match=r"No space left on device.*make room there.*72 hours") as caught:
        future.download(disk / "out")
    assert str(disk / "out") in str(caught.value)
    assert list(disk.iterdir()) == [], "nothing takes up the little room there is"
    subprocess.run(["mount", "-o", "remount,size=32m", disk], check=True)
    assert [path.name for path in future.download(disk / "out")] == ["large", "small"]


@pytest.mark.usefixtures("account")
def test_files_need_room_where_they_shall_lie_and_nowhere_else(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = leave_much(noise=True)
    assert len(future.files()) == 2
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    assert len(future.download(tmp_path / "out")) == 2


@pytest.mark.parametrize("noise", [True, False], ids=["noise", "zeros"])
@pytest.mark.usefixtures("account")
def test_cell_download_df_a_result_that_this_machine_cannot_take_is_told_as_such_and_attach_fetches_it(
    disk: Path, *, noise: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(disk))
        error = leave_much(noise=noise).exception(timeout=60)
    assert isinstance(error, dok.ResultNotFetched)
    assert f"below {disk} on this machine (No space left on device)" in str(error)
    assert (error.ran, error.still_runs) == ("maybe", False)
    assert list(disk.iterdir()) == []
    assert dok.attach(error.handle).exception(timeout=60) is None


@pytest.mark.usefixtures("account")
def test_files_of_a_call_that_failed_come_back_too() -> None:
    assert [file.name for file in leave(fail=True).files()] == ["model.bin", "plots/loss.txt"]


@pytest.mark.usefixtures("account")
def test_a_wrong_name_or_a_folder_in_use_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    future = leave()
    with pytest.raises(dok.OptionError, match=r"leave left no file 'model.bim'; did you mean 'model.bin'\?"):
        future.download(tmp_path / "new", "model.bim")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("mine")
    with pytest.raises(dok.OptionError, match="is not an empty folder"):
        future.download(tmp_path / "used")
    assert not (tmp_path / "new").exists()
    assert sorted(path.name for path in (tmp_path / "used").iterdir()) == ["mine"]


def test_outside_of_a_task_the_folder_is_a_temporary_one_that_stays_the_same() -> None:
    assert leave.local() == str(dok.artifact_dir())


@pytest.mark.usefixtures("account")
def test_a_file_below_a_folder_that_has_our_folders_name_is_not_taken_for_another(tmp_path: Path) -> None:
    future = leave_namesake()
    future.download(tmp_path / "out", "x.txt")
    assert (tmp_path / "out" / "x.txt").read_text() == "the one that was asked for"


@dok.remote(plan="v100-32gb")
def leave_namesake() -> None:
    folder = dok.artifact_dir()
    (folder / "artifact").mkdir()
    (folder / "artifact" / "x.txt").write_text("another")
    (folder / "x.txt").write_text("the one that was asked for")
    (folder / "m[1].pt").write_text("with marks of a pattern")


@pytest.mark.usefixtures("account")
def test_a_file_whose_name_looks_like_a_pattern_can_be_asked_for_by_it(tmp_path: Path) -> None:
    (path,) = leave_namesake().download(tmp_path / "out", "m[1].pt")
    assert path.read_text() == "with marks of a pattern"


@dok.remote(plan="v100-32gb")
def tidy_up() -> int:
    shutil.rmtree(dok.artifact_dir() / ".dokrun")
    return 3


@pytest.mark.usefixtures("account")
def test_a_function_that_empties_its_artifact_folder_still_has_an_outcome() -> None:
    assert tidy_up().result(timeout=60) == 3
