"""Print how long it takes to decide that an image need not be built, and how many requests that is.

    make bench

A registry that knows the image's name stands on this machine; an engine that has just begun asks it.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

import dokrun as dok
from dokrun.api import Client
from dokrun.config import RegistrySettings, Settings
from dokrun.engine.images import Images

ROUNDS = 15
AIM_MS = 100


CONFIG = json.dumps({"config": {"Env": [f"PYTHON_VERSION={platform.python_version()}"]}}).encode()
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"digest": f"sha256:{hashlib.sha256(CONFIG).hexdigest()}", "size": len(CONFIG)},
        "layers": [],
    }
).encode()


class Registry(http.server.BaseHTTPRequestHandler):
    """Has every image that it is asked for, and in each of them this Python."""

    asked = 0

    def do_HEAD(self) -> None:
        """Tell a digest."""
        self._answer(MANIFEST)

    def do_GET(self) -> None:
        """Tell a manifest, or what it names."""
        body = MANIFEST if "/manifests/" in self.path else CONFIG
        self._answer(body)
        self.wfile.write(body)

    def _answer(self, body: bytes) -> None:
        Registry.asked += 1
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(body).hexdigest()}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def milliseconds(action: Callable[[], object]) -> float:
    """Tell how long an action takes."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Measure and print."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    image = dok.Image.from_registry(f"{host}/library/python:3").pip_install("torch").copy(__file__, "/opt/")
    taken, requests = [], 0
    with tempfile.TemporaryDirectory() as folder, Client("token", "secret") as client:
        settings = Settings("bench", registry=RegistrySettings(f"{host}/team"), state_dir=Path(folder))
        Images(settings, client).ready(image)  # an earlier process has seen the base
        for _ in range(ROUNDS):
            before = Registry.asked
            images = Images(settings, client)
            decided = milliseconds(lambda images=images: images.ready(image))  # type: ignore[misc]  # called at once
            requests = Registry.asked - before
            taken.append((decided, milliseconds(lambda: httpx.head(f"http://{host}/v2/"))))
    server.shutdown()
    decided, beside = (statistics.median(column) for column in zip(*taken, strict=True))
    print(f"{'images':<44}{'':>9}{'aim':>9}")
    what = "deciding that one need not be built, ms"
    print(f"{what:<44}{decided:>9.1f}{AIM_MS:>9}   {decided / beside:>6.1f} x a bare httpx.head ({beside:.1f} ms)")
    print(f"{'requests for that':<44}{requests:>9}{1:>9}")


if __name__ == "__main__":
    main()
