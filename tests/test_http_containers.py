"""A server of the user's own in a real container."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import httpx
import pytest
from conftest import point_at
from contained_server import serve_once
from containers import slim_image

from dokrun import engine
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.objects import ObjectStore

PATIENCE_S = 100.0

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the image has Python 3.11, which reads no other version's pickles"
)


def test_a_server_in_a_container_is_reached_at_its_public_address(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = slim_image()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with Emulator(behaviour=Behaviour(runtime="docker")) as service:
        point_at(monkeypatch, service, store, tmp_path)
        try:
            future = serve_once.options(image=image, http=port)(port)
            assert httpx.get(f"{future.http_uri}end").text == "linux"
            assert future.result(timeout=PATIENCE_S) == "/ /end"
        finally:
            engine.reset()
