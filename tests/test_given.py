"""What travels once, however many calls are given it: values that were put, and files."""

from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest

import dokrun as dok
from dokrun import keys
from dokrun.emulator.objects import ObjectStore
from dokrun.given import File, Piece, Put

remote = dok.remote(plan="v100-32gb", timeout=60)


class Model:
    def __init__(self, weights: Any, name: str) -> None:
        self.weights = weights
        self.name = name


@remote
def predict(model: Model, number: int) -> tuple[float, int, str]:
    """Tell what a model says, and which object it is."""
    return float(model.weights[0]) * number, id(model), model.name


@remote
def look(path: Path) -> tuple[str, bytes, int]:
    """Tell a file's name, how it begins, and its permissions."""
    return path.name, path.read_bytes()[:5], stat.S_IMODE(path.stat().st_mode)


@remote
def count(paths: dict[str, Path]) -> int:
    """Tell how many bytes some files have."""
    return sum(path.stat().st_size for path in paths.values())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(b"whole" + os.urandom(2 << 20))
    return path


@pytest.mark.usefixtures("account")
def test_a_value_that_was_put_is_unpickled_once_in_a_worker_however_many_calls_are_given_it() -> None:
    model = dok.put(Model(np.full(1 << 18, 2.0), "one"))
    told = list(predict.map([model] * 5, range(5)))
    assert [(value, name) for value, _, name in told] == [(2.0 * number, "one") for number in range(5)]
    assert len({identity for _, identity, _ in told}) == 1


@pytest.mark.usefixtures("account")
def test_what_was_put_can_be_kept_as_a_pickle_and_holds_no_value() -> None:
    model = dok.put(Model(np.full(1 << 18, 3.0), "kept"))
    stored = pickle.dumps(model)
    assert len(stored) < 2000
    assert predict(pickle.loads(stored), 2).result(timeout=60)[::2] == (6.0, "kept")
    assert "2,097" in repr(model)


@pytest.mark.usefixtures("account")
def test_a_value_that_is_put_may_itself_be_given_one() -> None:
    inner = dok.put(np.full(1 << 18, 5.0))
    outer = dok.put(Model(inner, "outer"))
    assert predict(outer, 1).result(timeout=60)[::2] == (5.0, "outer")


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("size", [0, 10, 3 << 20])
def test_a_file_arrives_under_its_name_and_cannot_be_written(tmp_path: Path, size: int) -> None:
    path = tmp_path / "named.txt"
    path.write_bytes(b"x" * size)
    name, beginning, mode = look(dok.File(path)).result(timeout=60)  # type: ignore[arg-type]  # it arrives as a path
    assert (name, beginning, mode) == ("named.txt", b"x" * min(size, 5), 0o444)


@pytest.mark.usefixtures("account")
def test_a_file_may_be_within_an_argument_and_two_of_a_name_do_not_meet(tmp_path: Path) -> None:
    given: dict[str, Any] = {}
    for folder, size in (("a", 3), ("b", 7)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same").write_bytes(bytes(size))
        given[folder] = dok.File(tmp_path / folder / "same")
    assert count(given).result(timeout=60) == 10


def test_what_many_calls_are_given_is_sent_once(account: pytest.MonkeyPatch, store: ObjectStore, file: Path) -> None:
    assert {name for name, _, _ in look.map([dok.File(file)] * 20)} == {"data.bin"}
    assert len(sizes_of(store, file.stat().st_size)) == 1


@pytest.mark.usefixtures("account")
def test_a_function_that_runs_here_gets_the_value_and_the_path(file: Path) -> None:
    model = dok.put(Model(np.full(1 << 18, 2.0), "here"))
    assert predict.local(model, 4)[::2] == (8.0, "here")
    assert look.local(dok.File(file))[:2] == ("data.bin", b"whole")  # type: ignore[arg-type]
    assert predict.rehearse(model, 4)[::2] == (8.0, "here")
    assert look.rehearse(dok.File(file))[:2] == ("data.bin", b"whole")  # type: ignore[arg-type]


@pytest.mark.usefixtures("account")
def test_what_lies_in_the_bucket_in_place_of_a_value_is_not_opened_here_either(store: ObjectStore) -> None:
    model: Any = dok.put(Model(np.random.default_rng().random(1 << 18), "one of its own"))
    weights = max(model.pieces, key=lambda piece: piece.size)
    client_of(store).put_object(Bucket=store.bucket, Key=keys.blob(weights.sha256), Body=bytes(weights.size))
    with pytest.raises(dok.StorageError, match="is not what was put; put it again"):
        predict.rehearse(model, 4)


@pytest.mark.usefixtures("account")
def test_a_rehearsal_refuses_a_value_that_was_put_within_another_and_says_how_it_is_passed() -> None:
    model = dok.put(Model(np.full(1 << 18, 2.0), "here"))
    with pytest.raises(dok.OptionError, match=r"look_within is given what dok\.put made .*; pass it as an argument of"):
        look_within.rehearse({"model": model})
    assert look_within({"model": model}).result(timeout=60) == "here"


@remote
def look_within(models: dict[str, Model]) -> str:
    """Tell the name of a model that lies within an argument."""
    return models["model"].name


def test_without_a_bucket_nothing_is_put_and_a_small_file_travels_all_the_same(
    account: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    account.delenv("DOKRUN_BUCKET")
    with pytest.raises(dok.ConfigError, match="DOKRUN_BUCKET"):
        dok.put(1)
    path = tmp_path / "small.txt"
    path.write_text("small")
    assert look(dok.File(path)).result(timeout=60)[:2] == ("small.txt", b"small")  # type: ignore[arg-type]
    elsewhere = Put([Piece("0" * 64, 5)], "Model")
    with pytest.raises(dok.ConfigError, match="DOKRUN_BUCKET"):
        predict(elsewhere, 1)  # type: ignore[arg-type]


def test_a_file_that_is_not_there_is_named_where_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(dok.OptionError, match=r"there is no file .*nowhere"):
        File(tmp_path / "nowhere")


def sizes_of(store: ObjectStore, size: int) -> list[int]:
    """Tell the objects of a size that are in the bucket."""
    pages = client_of(store).get_paginator("list_objects_v2").paginate(Bucket=store.bucket)
    return [found["Size"] for page in pages for found in page.get("Contents", ()) if found["Size"] == size]


def client_of(store: ObjectStore) -> Any:
    return boto3.client(
        "s3", endpoint_url=store.url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
