"""A real container engine and real registries, where `.ci/containers` has started them; and an engine that is none."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker  # type: ignore[import-untyped]
import pytest

# Read once, before a test takes it out of its environment.
_HOST = os.environ.get("DOKRUN_HUB_MIRROR", "")
MISSING = "no container engine and no registry; `.ci/containers make test` starts them"
USERNAME, PASSWORD = "ann", "registry-pass"
# The same as bcrypt tells it, with the least of rounds.
_HTPASSWD = f"{USERNAME}:$2b$04$ThaFgH9pX3C4pvk5WaHG/.N04di.flm1JwhipbezgtLDdrUtuQNCG\n"


def registry() -> str:
    """Tell the registry's host and port; without one, skip the test, or fail it in CI."""
    if not _HOST or "DOCKER_HOST" not in os.environ:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return _HOST


def slim_image() -> str:
    """Tell the name of the image that has Debian's Python 3.11 and nothing else."""
    return f"{registry()}/library/python:3.11-slim"


@contextlib.contextmanager
def image_with(name: str, *lines: str, auth: dict[str, str] | None = None) -> Iterator[str]:
    """Make an image on top of the slim one and push it. At the end it is in its registry alone."""
    dockerfile = "\n".join([f"FROM {slim_image()}", *lines, ""])
    client = docker.from_env()
    try:
        client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=name, rm=True)
        pushed = client.images.push(name, auth_config=auth)
        assert '"error"' not in pushed, pushed
        client.images.remove(name)
        yield name
        with contextlib.suppress(docker.errors.ImageNotFound):
            client.images.remove(name)
    finally:
        client.close()


@contextlib.contextmanager
def private_registry(folder: Path) -> Iterator[str]:
    """Start a registry of one's own that wants a username and a password; tell its host and port."""
    registry()
    program = shutil.which("docker-registry")
    assert program is not None, "whoever starts the other registry has this one too"
    (folder / "htpasswd").write_text(_HTPASSWD)
    (folder / "registry.yml").write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}}}\n"
        f"auth: {{htpasswd: {{realm: tests, path: {folder / 'htpasswd'}}}}}\n"
        'http: {addr: "127.0.0.1:0"}\n'
    )
    with subprocess.Popen(
        [program, "serve", str(folder / "registry.yml")], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            said = next(line for line in process.stderr if "listening on" in line)
            threading.Thread(target=process.stderr.read, daemon=True).start()
            found = re.search(r"127\.0\.0\.1:\d+", said)
            assert found is not None, said
            yield found.group()
        finally:
            process.kill()


class CuttingEngine:
    """An engine that is lost in the midst of every pull, and remembers what it was to tell the registry."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                listed = self.path.partition("?")[0].endswith("/containers/json")
                body = json.dumps([] if listed else {"ApiVersion": "1.43"}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                header = self.headers["X-Registry-Auth"]
                engine.told.append(None if header is None else json.loads(base64.urlsafe_b64decode(header)))
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b'40\r\n{"status": "Pulling')
                self.close_connection = True

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"tcp://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
