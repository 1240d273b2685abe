"""Functions that tests run in real containers, which need much of the disk: only the stdlib and dokrun."""

from __future__ import annotations

import pickle

import dokrun as dok

remote = dok.remote(plan="v100-32gb")


@remote
def large(size_bytes: int) -> pickle.PickleBuffer:
    """Return bytes the way arrays do, which are not copied."""
    return pickle.PickleBuffer(bytes(range(256)) * (size_bytes // 256))


def fill() -> None:
    """Write to the artifact folder until nothing more fits."""
    with (dok.artifact_dir() / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@remote
def save_too_much() -> None:
    fill()


@remote
def return_on_a_full_disk() -> str:
    try:
        fill()
    except OSError:
        return "done"
    raise AssertionError("the disk has no end")


@remote
def make_room_again() -> str:
    try:
        fill()
    except OSError:
        (dok.artifact_dir() / "filler").unlink()
    return "done"
