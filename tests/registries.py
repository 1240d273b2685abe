"""A registry that answers as it is told, for what a real one would never say; and a real one that wants a password.

Of the first, an answer may have a trouble, which comes in its place:

    reset      the connection is reset
    silence    nothing comes
    stall      half of the body comes, and then nothing
    drip       the body comes a byte at a time, for ever
    cut        half of the body comes, and then the end
    garbage    what comes is not HTTP
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from storefaults import reset

from dokrun.image.credentials import Credentials
from dokrun.image.reference import Reference
from dokrun.secret import Secret

SECRET = "hunter2-pass"
CREDENTIALS = Credentials("ann", Secret(SECRET))
BASIC = "Basic " + base64.b64encode(f"ann:{SECRET}".encode()).decode()

CONFIG = json.dumps({"config": {"Env": ["PATH=/bin", "PYTHON_VERSION=3.11.9"]}}).encode()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


MANIFEST = json.dumps({"schemaVersion": 2, "config": {"digest": sha256(CONFIG), "size": len(CONFIG)}}).encode()
DIGEST = sha256(MANIFEST)


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    trouble: str = ""


@dataclass
class Asked:
    method: str
    path: str
    authorization: str | None


class FakeRegistry:
    """A registry that answers as it is told, and remembers what it was asked, and which troubles it made."""

    def __init__(self, port: int = 0) -> None:
        self.asked: list[Asked] = []
        self.troubles: list[str] = []
        self.answers: dict[str, Callable[[Asked], Answer] | list[Answer] | Answer] = {}
        self.closing = threading.Event()
        self._server = _RegistryServer(self, port)
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def reference(self, name: str = "team/app:1") -> Reference:
        return Reference.parse(f"{self.host}/{name}")

    def holds_image(self) -> None:
        self.answers["/v2/team/app/manifests/1"] = Answer(body=MANIFEST, headers={"Docker-Content-Digest": DIGEST})
        self.answers[f"/v2/team/app/blobs/{sha256(CONFIG)}"] = Answer(body=CONFIG)

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        told = self.answers.get(asked.path.partition("?")[0], Answer(404))
        answer = told.pop(0) if isinstance(told, list) else told if isinstance(told, Answer) else told(asked)
        if answer.trouble:
            self.troubles.append(answer.trouble)
        return answer

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class Server(http.server.ThreadingHTTPServer):
    """A server whose clients may go away, or be killed, at any time."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_request: object) -> None:
        """Say nothing."""


class _RegistryServer(Server):
    def __init__(self, fake: FakeRegistry, port: int) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _RegistryServer

    def do_GET(self) -> None:
        answer = self.server.fake.answer(Asked(self.command, self.path, self.headers["Authorization"]))
        if answer.trouble in ("reset", "silence", "garbage"):
            self._break(answer.trouble)
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.trouble else answer.body)
            self._break(answer.trouble)

    do_HEAD = do_GET  # noqa: N815 - the standard library calls it so

    def _break(self, trouble: str) -> None:
        if trouble == "reset":
            reset(self.connection)
        elif trouble == "garbage":
            self.wfile.write(b"\x00\xff<html>no registry{\r\n\r\n")
        elif trouble in ("silence", "stall", "drip"):
            wait_until_gone(self.connection, self.server.fake.closing, b" " if trouble == "drip" else b"")

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def wait_until_gone(connection: socket.socket, closing: threading.Event, dripped: bytes = b"") -> None:
    """Say nothing, or the same again and again, until the client goes or the test ends."""
    connection.settimeout(0.02)
    while not closing.is_set():
        try:
            if dripped:
                connection.sendall(dripped)
            if not connection.recv(1):
                return
        except TimeoutError:
            continue
        except OSError:
            return


class GuardedRegistry:
    """Docker's own registry, which shows nothing to whoever is not `CREDENTIALS`; kept in memory."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("docker-registry")
        if program is None:
            missing = "no docker-registry is installed; `.ci/containers make test` installs it"
            pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
        # bcrypt of SECRET
        (folder / "users").write_text("ann:$2b$04$.MoHg2W1mqqy39zmuCxnPeq9rJWDxhaoeqiBed3i9YbAXI23wQyxS\n")
        (folder / "registry.yml").write_text(
            "version: 0.1\nlog: {level: info}\nstorage: {inmemory: {}}\nhttp: {addr: '127.0.0.1:0'}\n"
            f"auth: {{htpasswd: {{realm: tests, path: '{folder}/users'}}}}\n"
        )
        self._process = subprocess.Popen(
            [str(program), "serve", str(folder / "registry.yml")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        self._log = self._process.stderr
        listening = next(filter(None, (re.search(r"listening on ([\d.:]+)", line) for line in self._log)))
        self.host = listening[1]
        # The pipe must not fill up.
        self._reader = threading.Thread(target=self._log.read)
        self._reader.start()

    def reference(self) -> Reference:
        return Reference.parse(f"{self.host}/team/app:1")

    def put_image(self) -> None:
        """Put the image in that `MANIFEST` is of, in the way of the protocol."""
        kind = "application/vnd.oci.image.manifest.v1+json"
        configuration = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(CONFIG)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {**configuration, "size": len(CONFIG)},
            "layers": [],
        }
        with httpx.Client(base_url=f"http://{self.host}/v2/team/app", auth=("ann", SECRET)) as client:
            begun = client.post("/blobs/uploads/")
            where = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": sha256(CONFIG)})
            client.put(where, content=CONFIG).raise_for_status()
            put = client.put("/manifests/1", content=json.dumps(manifest), headers={"Content-Type": kind})
            put.raise_for_status()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        self._log.close()
