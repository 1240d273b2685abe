"""A registry that answers as it is told, for what a real one would never say; and a real one that wants a password."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

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


@dataclass
class Asked:
    method: str
    path: str
    authorization: str | None


class FakeRegistry:
    """A registry that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[str, Callable[[Asked], Answer] | list[Answer] | Answer] = {}
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = Asked(self.command, self.path, self.headers["Authorization"])
                fake.asked.append(asked)
                told = fake.answers.get(self.path.partition("?")[0], Answer(404))
                answer = told.pop(0) if isinstance(told, list) else told if isinstance(told, Answer) else told(asked)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body)

            do_HEAD = do_GET  # noqa: N815 - the standard library calls it so

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def reference(self, name: str = "team/app:1") -> Reference:
        return Reference.parse(f"{self.host}/{name}")

    def holds_image(self) -> None:
        self.answers["/v2/team/app/manifests/1"] = Answer(body=MANIFEST, headers={"Docker-Content-Digest": DIGEST})
        self.answers[f"/v2/team/app/blobs/{sha256(CONFIG)}"] = Answer(body=CONFIG)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


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
