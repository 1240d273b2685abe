"""Whatever an archive holds, nothing outside of the folder that it is opened in is written or read."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

import dokrun as dok
from dokrun.engine import archive
from dokrun.engine.archive import ArchiveError
from dokrun.engine.members import Content, Members
from dokrun.shim import protocol

Entry = tuple[tarfile.TarInfo, bytes]

OUTCOME = ".dokrun/outcome.json"


def file(name: str, content: bytes = b"1") -> Entry:
    return tarfile.TarInfo(name), content


def member(name: str, kind: bytes, link: str = "") -> Entry:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made, b""


def link(name: str, target: str) -> Entry:
    return member(name, tarfile.SYMTYPE, target)


def hard_link(name: str, target: str) -> Entry:
    return member(name, tarfile.LNKTYPE, target)


def extract_own(path: Path, folder: Path) -> Content:
    with path.open("rb") as file:
        return archive.extract_own(file, folder)


def extract_files(path: Path, content: Content, folder: Path, names: set[str]) -> None:
    with path.open("rb") as file:
        archive.extract_files(file, content, folder, names)


class Box:
    """An archive, a folder to open it in, and everything around that folder, which must stay as it is."""

    def __init__(self, folder: Path, *members: Entry) -> None:
        self.folder = folder
        self.archive = folder / "a.tar.gz"
        (folder / "outside").write_text("before")
        with tarfile.open(self.archive, "w:gz", compresslevel=0) as made:
            for member, content in members:
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))

    def look(self) -> Content:
        own = self.folder / "own"
        own.mkdir()
        self.content = extract_own(self.archive, own)
        return self.content

    def open(self) -> dict[str, bytes]:
        """Take all there is, and tell it: names that end with `@` are links to folders, with their targets."""
        content = self.look()
        out = self.folder / "out"
        out.mkdir()
        extract_files(self.archive, content, out, {file.name for file in content.files})
        assert sorted(path.name for path in self.folder.iterdir()) == ["a.tar.gz", "out", "outside", "own"]
        assert (self.folder / "outside").read_text() == "before"
        found = {}
        for path in out.rglob("*"):
            name = path.relative_to(out).as_posix()
            if path.is_symlink():
                assert path.resolve(strict=True).is_relative_to(out.resolve())
                found[f"{name}@"] = bytes(path.readlink())
            elif path.is_file():
                found[name] = path.read_bytes()
        return found


def test_only_what_lies_inside_is_listed_and_taken_from_a_hostile_archive(tmp_path: Path) -> None:
    box = Box(
        tmp_path,
        file("../outside"),
        file("/etc/absolute"),
        link("link", "/etc/passwd"),
        hard_link("hard", "../outside"),
        hard_link("password", "/etc/passwd"),
        member("device", tarfile.CHRTYPE),
        member("disk", tarfile.BLKTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("unheard of", b"Z"),
        file("x" * 5000),
        file("./good", b"fine"),
        file(".dokrun/else"),
        member(".dokrun/pipe", tarfile.FIFOTYPE),
    )
    assert box.open() == {"good": b"fine"}


def test_what_is_passed_over_is_told_by_name(tmp_path: Path) -> None:
    content = Box(
        tmp_path,
        link("long", "./" * 1000),
        file("x" * 5000),
        file("../outside"),
        member("pipe", tarfile.FIFOTYPE),
        link("a", "gone"),
        file("good"),
        file("good"),
        member(".dokrun/pipe", tarfile.FIFOTYPE),
    ).look()
    assert content.files == [dok.ArtifactFile("good", 1)]
    assert content.links == {}
    assert content.passed_over == ["long", "x" * 1024, "../outside", "pipe", "good", "a"]


@pytest.mark.parametrize("name", ["link", "../outside", "gone"])
def test_what_is_not_a_file_of_the_archive_cannot_be_asked_for(tmp_path: Path, name: str) -> None:
    box = Box(tmp_path, link("link", "/etc/passwd"), file("../outside"))
    with pytest.raises(ArchiveError, match="is not in it"):
        extract_files(box.archive, box.look(), tmp_path / "out", {name})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "members",
    [
        (link("a", "../outside"), file("a")),
        (link("a", ".."), file("a/outside")),
        (link("a", "/tmp"), file("a/outside")),
        (member("d", tarfile.DIRTYPE), link("d/a", "../.."), file("d/a/outside")),
        (link("a", "b"), link("b", ".."), file("a/outside"), file("b/outside")),
        (link("a", "b/.."), member("b", tarfile.DIRTYPE), link("a/c", "../.."), file("a/c/outside")),
        (hard_link("a", "../outside"), link("a", "../outside"), file("a/x")),
    ],
    ids=["file", "folder", "absolute", "deeper", "chain", "through two", "hard"],
)
def test_nothing_is_written_through_a_link(tmp_path: Path, members: tuple[Entry, ...]) -> None:
    assert all(name.endswith("@") for name in Box(tmp_path, *members, file("../outside")).open())


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ((file("f", b"first"), file("f", b"second")), {"f": b"first"}),
        ((file("f", b"first"), file("f/below")), {"f": b"first"}),
        ((file("d/f", b"first"), file("d")), {"d/f": b"first"}),
        ((file("d/f", b"first"), link("d", "..")), {"d/f": b"first"}),
        ((file("g", b"g"), link("f", "g"), file("f", b"second")), {"f": b"g", "g": b"g"}),
        ((file("f", b"first"), file("./f", b"second"), file("d/../f")), {"f": b"first"}),
    ],
)
def test_a_name_is_whose_it_was_first(tmp_path: Path, members: tuple[Entry, ...], found: dict[str, bytes]) -> None:
    assert Box(tmp_path, *members).open() == found


@pytest.mark.parametrize(
    ("target", "end"),
    [
        ("f", b"in d"),
        ("../f", b"at the top"),
        (".././d//f", b"in d"),
        ("../d/../f", b"at the top"),
        ("../round/f", b"in d"),
        ("../up/f", b"at the top"),
        ("/opt/artifact/f", b"at the top"),
        ("hop", b"at the top"),
        ("twin", b"in d"),
    ],
)
def test_a_link_inside_is_the_file_that_a_file_system_would_find(tmp_path: Path, target: str, end: bytes) -> None:
    links = (
        link("d/link", target),
        link("round", "d"),
        link("up", "d/.."),
        link("d/hop", "hop2"),
        link("d/hop2", "../f"),
    )
    files = (file("d/f", b"in d"), file("f", b"at the top"), hard_link("d/twin", "d/f"))
    assert Box(tmp_path, *links, *files).open()["d/link"] == end


@pytest.mark.parametrize(
    "target",
    [
        "../../outside",
        "../d/../../out/f",
        "/etc/passwd",
        "/f",
        "/",
        "/opt/artifact/../f",
        "../f/",
        "f/../f",
        "gone",
        "link",
        "a",
        "../.dokrun/own",
        "../" * 400 + "f",
    ],
)
def test_a_link_that_leads_out_round_or_nowhere_is_passed_over(tmp_path: Path, target: str) -> None:
    loop = (link("d/a", "b"), link("d/b", "a"))
    box = Box(tmp_path, *loop, link("d/link", target), file("d/f"), file("f"), file(".dokrun/own"))
    assert box.open() == {"d/f": b"1", "f": b"1"}


def test_of_an_endless_chain_of_links_only_the_last_ones_are_followed(tmp_path: Path) -> None:
    chain = [link(f"l{n}", f"l{n + 1}") for n in range(1000)]
    found = Box(tmp_path, *chain, file("l1000")).open()
    assert set(found) == {f"l{n}" for n in range(1001 - len(found), 1001)}
    assert 40 < len(found) < 1000


def test_a_link_to_a_folder_is_a_relative_one_that_is_made_last(tmp_path: Path) -> None:
    box = Box(
        tmp_path,
        link("latest", "runs/latest"),
        link("runs/latest", "/opt/artifact/runs/1"),
        file("runs/1/f", b"fine"),
        link("runs/1/round", ".."),
        link("runs/1/self", "."),
        link("top", "."),
        link("out", ".."),
        member("empty", tarfile.DIRTYPE),
        link("runs/none", "../empty"),
    )
    assert box.open() == {
        "latest@": b"runs/1",
        "runs/latest@": b"1",
        "runs/none@": b"../empty",
        "runs/1/f": b"fine",
    }
    assert (tmp_path / "out" / "latest" / "f").read_bytes() == b"fine"


def test_links_to_folders_come_with_everything_only(tmp_path: Path) -> None:
    box = Box(tmp_path, link("latest", "runs"), file("runs/f"), file("g"))
    extract_files(box.archive, box.look(), tmp_path / "out", {"runs/f"})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["runs"]


def test_a_link_alone_has_the_content_of_a_file_that_was_not_asked_for(tmp_path: Path) -> None:
    box = Box(tmp_path, file("f", b"content"), link("a", "f"), hard_link("b", "f"), link("c", "b"))
    extract_files(box.archive, box.look(), tmp_path / "out", {"a", "c"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {"a": b"content", "c": b"content"}


def test_where_a_file_system_has_no_second_names_links_are_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    script, content = file("f", b"content")
    script.mode = 0o755
    assert Box(tmp_path, (script, content), link("d/a", "../f")).open() == {"f": b"content", "d/a": b"content"}
    assert (tmp_path / "out" / "d" / "a").stat().st_nlink == 1
    assert os.access(tmp_path / "out" / "d" / "a", os.X_OK)


@pytest.mark.parametrize("mode", [0o0, 0o7777, 0o4755, 0o2070, 0o1666])
def test_a_file_has_no_special_bits_and_its_owner_can_read_and_write_it(tmp_path: Path, mode: int) -> None:
    made, content = file("f")
    made.mode = mode
    Box(tmp_path, (made, content)).open()
    here = (tmp_path / "out" / "f").stat().st_mode & 0o7777
    assert here & 0o7022 == 0, "the tests' own umask is 022"
    assert here & 0o700 == mode & 0o100 | 0o600
    assert here & 0o055 == mode & 0o055


@pytest.mark.parametrize("root", ["artifact/", "opt/artifact/"])
def test_links_are_followed_within_the_artifact_folder_wherever_it_begins(tmp_path: Path, root: str) -> None:
    box = Box(
        tmp_path,
        file(f"{root}{OUTCOME}", b"{}"),
        file(f"{root}f", b"fine"),
        file("somewhere/else"),
        hard_link(f"{root}hard", f"{root}f"),
        hard_link(f"{root}out", "somewhere/else"),
        hard_link(f"{root}outcome", f"{root}{OUTCOME}"),
        link(f"{root}a", "f"),
        link(f"{root}absolute", "/opt/artifact/f"),
        link(f"{root}above", f"{'../' * root.count('/')}somewhere/else"),
    )
    assert box.open() == dict.fromkeys(["f", "hard", "a", "absolute"], b"fine")
    assert box.content.passed_over == ["outcome", "out", "above"]


def test_our_own_files_are_not_taken_from_links_nor_written_through_them(tmp_path: Path) -> None:
    box = Box(tmp_path, file("f", b"{}"), link(".dokrun", ".."), link(OUTCOME, "../f"), hard_link(f"./{OUTCOME}", "f"))
    box.look()
    assert list((tmp_path / "own").iterdir()) == []


@pytest.mark.parametrize("again", [OUTCOME, f"./{OUTCOME}", f"artifact/{OUTCOME}"])
def test_an_archive_that_holds_our_file_twice_is_broken(tmp_path: Path, again: str) -> None:
    with pytest.raises(ArchiveError, match="twice"):
        Box(tmp_path, file(OUTCOME), file(again)).look()


def test_an_archive_that_is_cut_is_an_error(tmp_path: Path) -> None:
    box = Box(tmp_path, file("f", os.urandom(50_000)))
    content = box.look()
    box.archive.write_bytes(box.archive.read_bytes()[:20_000])
    with pytest.raises(ArchiveError):
        extract_files(box.archive, content, tmp_path / "out", {"f"})


def test_a_header_that_makes_no_sense_is_an_error_of_the_archive(tmp_path: Path) -> None:
    made, content = file("f")
    made.pax_headers = {"GNU.sparse.map": "no,numbers"}
    with pytest.raises(ArchiveError, match="invalid literal"):
        Box(tmp_path, (made, content)).look()


def sparse(name: str, size_bytes: int) -> bytes:
    """Make the header of a file that is all hole, in GNU tar's old form."""
    made = tarfile.TarInfo(name)
    made.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(made.tobuf(tarfile.GNU_FORMAT))
    head[483:495] = struct.pack(">Q", size_bytes).rjust(11, b"\0").rjust(12, b"\x80")
    head[148:156] = b"        "
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head)


def test_a_file_that_claims_to_be_larger_than_any_artifact_is_not_written(tmp_path: Path) -> None:
    box = Box(tmp_path)
    with tarfile.open(box.archive, "w:gz") as made:
        made.fileobj.write(sparse("huge", 2**37))
    content = box.look()
    assert content.files == [dok.ArtifactFile("huge", 2**37)]
    with pytest.raises(ArchiveError, match="more than 68719476736 bytes"):
        extract_files(box.archive, content, tmp_path / "out", {"huge"})
    assert not (tmp_path / "out").exists()


def test_of_more_than_a_million_files_and_folders_the_first_million_count() -> None:
    members, made = Members(), tarfile.TarInfo()
    for number in range(10_010):
        made.name = f"{number}/" + "d/" * 98 + "f"
        members.add(made)
    content = members.content("")
    assert len(content.files) == 10_000
    assert content.passed_over[-1] == made.name


def test_an_archive_of_many_members_takes_no_memory_for_each(tmp_path: Path) -> None:
    box = Box(tmp_path, *[member("same", tarfile.FIFOTYPE)] * 10_000)
    tracemalloc.start()
    try:
        assert box.look().passed_over == ["same"]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def cut_at(data: bytes, size: int) -> bytes:
    return gzip.compress(gzip.decompress(data)[:size])


def spoilt(data: bytes, at: int) -> bytes:
    made = bytearray(data)
    made[at] ^= 0xFF
    return bytes(made)


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "cut gzip": lambda data: data[: len(data) // 2],
    "cut in the checksum": lambda data: data[:-3],
    "cut in a header": lambda data: cut_at(data, 512 + 512 + 100),
    "cut in a file": lambda data: cut_at(data, 512 + 100),
    "another byte in the gzip": lambda data: spoilt(data, 40),
    "another checksum": lambda data: spoilt(data, -6),
    "another header": lambda data: gzip.compress(spoilt(gzip.decompress(data), 1024 + 150)),
    "something behind the gzip": lambda data: data + b"\x01 more",
    "something behind the tar": lambda data: gzip.compress(gzip.decompress(data) + b"more"),
    "no gzip": lambda _: b"<html>no archive</html>" * 100,
    "no tar": lambda _: gzip.compress(b"\x01" * 4096),
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_an_archive_that_is_not_whole_is_broken_and_never_merely_shorter(tmp_path: Path, broken: str) -> None:
    box = Box(tmp_path, file("f", b"first"), file("g", b"second"), file("h", b"third"))
    box.archive.write_bytes(BROKEN[broken](box.archive.read_bytes()))
    with pytest.raises(ArchiveError):
        box.look()


def test_an_archive_with_more_padding_than_needed_or_none_is_whole(tmp_path: Path) -> None:
    for number, padding in enumerate((bytes(65536), b"")):
        folder = tmp_path / str(number)
        folder.mkdir()
        box = Box(folder, file("f", b"first"))
        box.archive.write_bytes(gzip.compress(gzip.decompress(box.archive.read_bytes())[:1024] + padding))
        assert box.open() == {"f": b"first"}


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_an_archive_is_read_as_it_comes(tmp_path: Path, size: int) -> None:
    box = Box(tmp_path, file("a", b"fine"), file(f"{protocol.REPORTS_DIR}/1", bytes(100_000)), link("b", "a"))
    content, data = box.look(), box.archive.read_bytes()
    pieces = archive.Pieces(data[at : at + size] for at in range(0, len(data), size))
    assert archive.extract_own(io.BufferedReader(pieces), tmp_path / "as-it-comes") == content
    [own] = [path for path in (tmp_path / "as-it-comes").rglob("*") if path.is_file()]
    assert own.read_bytes() == bytes(100_000)
