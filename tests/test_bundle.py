"""How the user's files travel: what is unchanged is neither read nor sent again, and too much is refused."""

from __future__ import annotations

import inspect
import os
import random
import string
import sys
from pathlib import Path
from typing import Any

import pytest

from dokrun.api import Client
from dokrun.engine.packing import Keep
from dokrun.engine.prepare import Job, Preparing
from dokrun.engine.target import Target
from dokrun.errors import OptionError, SourceTooLarge
from dokrun.function import RemoteFunction
from dokrun.options import Options
from dokrun.payload.bundle import LIMIT_BYTES, bundle
from dokrun.payload.source import Origin, SourceFile, collect
from dokrun.shim import protocol
from dokrun.shim.envelope import Segment
from dokrun.shim.layout import lay_out

MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the user's, first in line for imports."""
    folder = tmp_path / "site" / "parcel"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("ONE = 1\n")
    (folder / "tool.sh").write_text("#!/bin/sh\n")
    (folder / "tool.sh").chmod(0o755)
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def files_of(*modules: str) -> tuple[SourceFile, ...]:
    return collect(modules, [Origin(modules[0])]).files


def kept_elsewhere(segment: Segment) -> Segment:
    return segment._replace(data=None)


def job(keep: Keep = kept_elsewhere, **options: Any) -> Job:
    """A job whose argument is a class of the package, which is sent by name."""

    def function(number: int) -> int:
        import parcel  # type: ignore[import-not-found]  # the fixture writes it

        return number + int(parcel.ONE)

    target = Target(function, inspect.signature(function), "function")
    preparing = Preparing(target, "v100-32gb", Options(**options), keep=keep)
    preparing.add((1,), {})
    return preparing.job()


def noise(size: int) -> str:
    return "".join(random.Random(size).choices(string.printable, k=size))


def test_what_is_laid_out_in_the_container_is_what_lies_here(folder: Path, tmp_path: Path) -> None:
    (folder / "large.bin").write_bytes(os.urandom(MIB))
    packed = bundle(files_of("parcel"))
    header: list[dict[str, Any]] = packed.entries(0)
    assert header == [{"bundle": 0}, {"path": "parcel/large.bin", "segment": 1}]
    lay_out(header, list(packed.segments), str(tmp_path / "container"))
    there = tmp_path / "container" / "source" / "parcel"
    for path in folder.iterdir():
        assert (there / path.name).read_bytes() == path.read_bytes()
        assert os.access(there / path.name, os.X_OK) == os.access(path, os.X_OK)


def test_segments_are_numbered_from_where_they_begin(folder: Path) -> None:
    (folder / "large.bin").write_bytes(bytes(MIB))
    assert bundle(files_of("parcel")).entries(5) == [{"bundle": 5}, {"path": "parcel/large.bin", "segment": 6}]


def test_no_files_are_no_segments() -> None:
    assert bundle(()).segments == ()
    assert bundle(()).entries(3) == []


def test_the_same_files_make_the_same_bytes_wherever_they_lie(folder: Path) -> None:
    before = bundle(files_of("parcel")).segments
    path = folder / "__init__.py"
    path.write_text(path.read_text())
    os.utime(path, ns=(0, 0))
    again = bundle(files_of("parcel"))
    assert [segment.sha256 for segment in again.segments] == [segment.sha256 for segment in before]


def test_unchanged_files_are_not_read_again_and_changed_ones_are(folder: Path) -> None:
    before = bundle(files_of("parcel"))
    assert bundle(files_of("parcel")).segments[0].data is before.segments[0].data
    (folder / "__init__.py").write_text("ONE = 2\n")
    assert bundle(files_of("parcel")).segments[0].sha256 != before.segments[0].sha256


def test_a_large_bundle_is_an_object_by_content_and_a_small_one_rides(folder: Path) -> None:
    assert bundle(files_of("parcel")).objects == frozenset()
    (folder / "data.txt").write_text(noise(100_000))
    assert bundle(files_of("parcel")).objects == {0}


def test_a_job_keeps_the_bundle_by_content_and_numbers_it_rightly() -> None:
    here = Path(__file__).parent
    assert all(segment.data is not None for segment in job().segments)
    sent = job(include=("*.py",))
    number = sent.header["source"][0]["bundle"]
    assert [segment.data is None for segment in sent.segments] == [at == number for at in range(len(sent.segments))]
    pack = sent.header["calls"][0]
    assert number not in {pack["records"], pack["offsets"], *sent.header["functions"][0]["value"]}
    assert sent.segments[number].size < sum(path.stat().st_size for path in here.glob("*.py")) / 2
    assert job(include=("*.py",), exclude=("*.py",)).header["source"] == []
    held = [job(lambda segment: segment, include=("*.py",)).segments[number] for _ in range(2)]
    assert held[0].data is held[1].data is not None
    assert held[0].sha256 == sent.segments[number].sha256


@pytest.mark.usefixtures("account")
def test_with_files_kept_by_content_the_rest_of_a_call_rides_in_the_command(client: Client) -> None:
    def listed() -> list[str]:
        return sorted(path.name for path in Path(sys.path[0]).iterdir())

    future = RemoteFunction(listed, Options(plan="v100-32gb", include=("*.py",)))()
    assert Path(__file__).name in future.result(timeout=60)
    task = client.tasks.get(str(future.task_id))
    assert protocol.FETCHED not in task.containers[0].command[3:]


def test_more_than_the_limit_is_refused_naming_the_largest_files(folder: Path) -> None:
    for number in range(7):
        with (folder / f"data{number}.bin").open("wb") as file:
            file.truncate((number + 1) * MIB)  # 28 MiB together
    with pytest.raises(SourceTooLarge) as caught:
        bundle(files_of("parcel"))
    said = str(caught.value)
    assert "28.0 MiB, and 25 MiB may" in said
    assert "parcel/data6.bin (7.0 MiB), parcel/data5.bin (6.0 MiB)" in said
    assert "data2.bin" in said
    assert "data1.bin" not in said
    assert 'exclude=["parcel/data6.bin", …]' in said
    assert "object storage or the image" in said


def test_a_refusal_names_only_files_that_matter_in_fitting_units(folder: Path) -> None:
    for name, size in {"large.bin": 25 * MIB, "medium.bin": 700 << 10, "small.bin": 100 << 10}.items():
        with (folder / name).open("wb") as file:
            file.truncate(size)
    with pytest.raises(SourceTooLarge) as caught:
        bundle(files_of("parcel"))
    assert "the largest are parcel/large.bin (25.0 MiB), parcel/medium.bin (700.0 KiB). Write" in str(caught.value)


def test_where_only_the_number_of_files_is_large_a_refusal_names_their_folders(folder: Path) -> None:
    (folder / "shards").mkdir()
    for number in range(200):
        with (folder / "shards" / f"{number}.bin").open("wb") as file:
            file.truncate(200 << 10)
    with pytest.raises(SourceTooLarge) as caught:
        bundle(files_of("parcel"))
    assert "the largest are parcel/shards/ (39.1 MiB), parcel/ (18 B). " in str(caught.value)
    assert 'Write exclude=["parcel/shards/", …]' in str(caught.value)
    bundle(collect(["parcel"], [Origin("parcel")], exclude=["parcel/shards/"]).files)


def test_exactly_the_limit_goes_along(folder: Path) -> None:
    taken = sum(file.size for file in files_of("parcel"))
    with (folder / "data.bin").open("wb") as file:
        file.truncate(LIMIT_BYTES - taken)
    assert sum(segment.size for segment in bundle(files_of("parcel")).segments) > LIMIT_BYTES - MIB


def test_a_file_that_vanishes_is_named(folder: Path) -> None:
    files = files_of("parcel")
    (folder / "tool.sh").unlink()
    with pytest.raises(OptionError, match=r"parcel/tool.sh goes along and cannot be read"):
        bundle(files)
