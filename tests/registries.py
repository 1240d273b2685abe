"""A registry that answers as it is told, for what a real one would never say."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from dokrun.config import Secret
from dokrun.image.credentials import Credentials
from dokrun.image.registry import Reference

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
