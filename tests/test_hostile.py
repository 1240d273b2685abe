"""Archives that were made to use up whoever opens them take neither much memory nor much time, and write nothing."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
MIB = 1 << 20
# What an interpreter with dokrun's engine takes by itself is about a sixth of it.
ROOM_BYTES = 512 * MIB
PATIENCE_S = 60

OPEN = """
import json, resource, sys, time
from pathlib import Path
from dokrun.engine.archive import ArchiveError, extract_files, extract_own

room = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (room, room))
folder = Path(sys.argv[1])
try:
    with (folder / "a.tar.gz").open("rb") as archive:
        content = extract_own(archive, folder / "own")
    if len(content.files) < 10:
        with (folder / "a.tar.gz").open("rb") as archive:
            extract_files(archive, content, folder / "out", {file.name for file in content.files})
    told = {"files": len(content.files), "passed_over": len(content.passed_over)}
except ArchiveError as error:
    told = {"error": str(error)}
print(json.dumps({**told, "cpu_s": time.process_time()}))
"""


def opened(folder: Path, blocks: Iterator[bytes], *, room_bytes: int = ROOM_BYTES) -> dict[str, object]:
    """Open an archive of these blocks in a process that has little memory, and tell what came of it."""
    with gzip.open(folder / "a.tar.gz", "wb", compresslevel=1) as archive:
        for block in blocks:
            archive.write(block)
    (folder / "own").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(folder), str(room_bytes)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, object] = json.loads(done.stdout)
    assert {path.name for path in folder.iterdir()} <= {"a.tar.gz", "own", "out"}
    return told


def head(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, size
    return made.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def field(keyword: str, value: str) -> bytes:
    length = len(keyword) + len(value) + 3
    while length != len(text := f"{length} {keyword}={value}\n"):
        length = len(text)
    return text.encode()


def extended(kind: bytes, *fields: bytes) -> bytes:
    body = b"".join(fields)
    return head("header", kind, len(body)) + padded(body)


def endless(kind: bytes) -> Iterator[bytes]:
    """Make a header that says of itself that it is very long, and is so."""
    yield head("header", kind, 600 * MIB)
    for _ in range(600):
        yield bytes(MIB)
    yield END


def nested() -> Iterator[bytes]:
    """Make headers that each belong to the next, and so never become a member."""
    for _ in range(5000):
        yield extended(tarfile.XHDTYPE, field("comment", "x"))
    yield END


def sparse_map_without_end() -> Iterator[bytes]:
    """Make a file whose map of holes stands before its content, and does not end."""
    fields = [field("GNU.sparse.major", "1"), field("GNU.sparse.minor", "0"), field("GNU.sparse.name", "f")]
    yield extended(tarfile.XHDTYPE, *fields)
    yield head("f", size=300 * MIB)
    yield b"999999999\n" + b"1\n" * (MIB // 2 - 5)
    for _ in range(299):
        yield b"1\n" * (MIB // 2)
    yield END


def sparse_map_in_many_parts() -> Iterator[bytes]:
    """Make a file whose map of holes goes on in block after block, in GNU tar's old form."""
    first = bytearray(head("f", tarfile.GNUTYPE_SPARSE))
    first[482] = 1
    first[148:156] = b"        "
    first[148:156] = f"{sum(first):06o}\0 ".encode()
    part = bytearray(b"00000000001\0" * 42).ljust(BLOCK, b"\0")
    part[504] = 1
    yield bytes(first)
    for _ in range(200):
        yield bytes(part) * (MIB // BLOCK)
    yield END


def fields_for_all() -> Iterator[bytes]:
    """Make headers that each add a long field to what is said of all members after them."""
    for number in range(4000):
        yield extended(tarfile.XGLTYPE, field(f"comment.{number}", "x" * 200_000))
        yield head("f", tarfile.FIFOTYPE)
    yield END


@pytest.mark.parametrize(
    ("blocks", "error"),
    [
        pytest.param(lambda: endless(tarfile.XHDTYPE), "header is longer", id="extended header"),
        pytest.param(lambda: endless(tarfile.XGLTYPE), "header is longer", id="global header"),
        pytest.param(lambda: endless(tarfile.GNUTYPE_LONGNAME), "header is longer", id="long name"),
        pytest.param(lambda: endless(tarfile.GNUTYPE_LONGLINK), "header is longer", id="long link"),
        pytest.param(nested, "header", id="headers of headers"),
        pytest.param(sparse_map_without_end, "header is longer", id="endless map"),
        pytest.param(sparse_map_in_many_parts, "header is longer", id="map in parts"),
        pytest.param(fields_for_all, "fields for all", id="fields for all"),
    ],
)
def test_a_header_that_would_fill_the_memory_ends_it(
    tmp_path: Path, blocks: Callable[[], Iterator[bytes]], error: str
) -> None:
    told = opened(tmp_path, blocks())
    assert error in str(told.get("error")), told
    assert float(str(told["cpu_s"])) < 20
    assert list((tmp_path / "own").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_names_take_a_limited_amount_of_memory_however_many_and_long_they_are(tmp_path: Path) -> None:
    deep = "/".join(["d" * 10] * 60)

    def blocks() -> Iterator[bytes]:
        for number in range(15_000):
            yield extended(tarfile.XHDTYPE, field("path", f"{number:06}{deep}"))
            yield head("short")
        yield END

    told = opened(tmp_path, blocks(), room_bytes=1024 * MIB)
    assert 10_000 < int(str(told["files"])) < 15_000, "each is in sixty folders, whose names are names too"
    assert int(str(told["passed_over"])) > 0


def bomb(name: str, mebibytes: int) -> Iterator[bytes]:
    yield head(name, size=mebibytes * MIB)
    for _ in range(mebibytes):
        yield bytes(MIB)
    yield END


def test_a_bomb_that_nobody_asks_for_is_read_past_and_never_written(tmp_path: Path) -> None:
    told = opened(tmp_path, bomb("../bomb", 1024), room_bytes=256 * MIB)
    assert (told["files"], told["passed_over"]) == (0, 1)
    assert (tmp_path / "a.tar.gz").stat().st_size < 8 * MIB


def test_an_archive_whose_padding_does_not_end_is_read_past_without_holding_it(tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield head("f")
        for _ in range(600):
            yield bytes(MIB)

    assert opened(tmp_path, blocks(), room_bytes=256 * MIB)["files"] == 1
