"""What a receipt tells of a real container: its age, and the memory of all its processes together."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import point_at
from contained_cost import MIB, three_at_once
from containers import slim_image

from dokrun import engine
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.objects import ObjectStore

PATIENCE_S = 100.0

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the image has Python 3.11, which reads no other version's pickles"
)


def test_the_memory_is_that_of_the_whole_container_and_the_time_counts_from_its_start(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = slim_image()
    with Emulator(behaviour=Behaviour(runtime="docker", memory_bytes=512 * MIB)) as service:
        point_at(monkeypatch, service, store, tmp_path)
        try:
            future = three_at_once.options(image=image)()
            assert future.result(timeout=PATIENCE_S) == 3
            receipt = future.receipt
        finally:
            engine.reset()
    assert receipt is not None
    told = receipt.phases
    assert 180 * MIB < (told.peak_memory_bytes or 0) <= 512 * MIB
    phases = (told.downloading_s, told.running_s, told.uploading_s)
    assert 0 < sum(each or 0 for each in phases) <= receipt.seconds
    assert None not in phases
