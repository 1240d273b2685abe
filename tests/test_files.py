"""What a function leaves in its artifact folder comes back, and nothing but that, whatever the archive holds."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

import dokrun as dok
from dokrun.engine.archive import ArchiveError, extract_files, extract_own


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


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for member, content in members:
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def test_only_regular_files_inside_are_listed_and_taken_from_a_hostile_archive(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.tar.gz",
        (member("../outside"), b"1"),
        (member("/etc/absolute"), b"1"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (member("hard", tarfile.LNKTYPE, "../outside"), b""),
        (member("device", tarfile.CHRTYPE), b""),
        (member("./good"), b"fine"),
        (member(".dokrun/else"), b"1"),
    )
    folder = tmp_path / "out"
    folder.mkdir()
    content = extract_own(path, folder)
    assert (content.root, content.files) == ("", [dok.ArtifactFile("good", 4)])
    extract_files(path, "", folder, {"good"})
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == ["a.tar.gz", "good"]
    assert (folder / "good").read_bytes() == b"fine"


@pytest.mark.parametrize("name", ["link", "../outside", "gone"])
def test_what_is_not_a_file_of_the_archive_cannot_be_asked_for(tmp_path: Path, name: str) -> None:
    path = archive(
        tmp_path / "a.tar.gz", (member("link", tarfile.SYMTYPE, "/etc/passwd"), b""), (member("../outside"), b"1")
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match="is not in it"):
        extract_files(path, "", tmp_path / "out", {name})


def test_a_name_that_comes_twice_is_written_once_and_never_through_a_link(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", (member("f"), b"first"), (member("f"), b"second"))
    (tmp_path / "out").mkdir()
    extract_files(path, "", tmp_path / "out", {"f"})
    assert (tmp_path / "out" / "f").read_bytes() == b"first"


def test_an_archive_that_is_cut_is_an_error(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", (member("f"), os.urandom(50_000)))
    path.write_bytes(path.read_bytes()[:20_000])
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError):
        extract_files(path, "", tmp_path / "out", {"f"})


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
