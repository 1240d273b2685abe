"""A container engine that speaks Docker's HTTP API, builds nothing, and puts what it pushes into a fake registry.

What it is told to do may have a trouble, the first one first:

    refused …    the engine says that error
    silence      nothing comes, and nothing is done
    lost         it is done, and then nothing comes
    stall        a line comes, and then nothing
    drip         lines come, for ever
    cut          the answer ends in the midst of a line
    reset        the connection is reset
"""

from __future__ import annotations

import http.server
import io
import json
import sys
import tarfile
import threading
import urllib.parse
from collections.abc import Callable

from registries import Answer, FakeRegistry, Server, sha256, wait_until_gone
from storefaults import reset

_PYTHON = f"PYTHON_VERSION={sys.version_info.major}.{sys.version_info.minor}.1"
_LINE = {"stream": "Step 1/1 : FROM there\n", "status": "Preparing"}


class FakeEngine:
    """The engine. `host` is what DOCKER_HOST names; it remembers what it built, what it was to push, and troubles."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.registry = registry
        self.dockerfiles: list[str] = []
        self.pushes: list[str] = []
        self.troubles: dict[str, list[str]] = {"build": [], "push": []}
        self.happened: list[str] = []
        # What it says in place of the digest of what it pushed.
        self.says: object = None
        # Called with "build" or "push" when the engine is told to, and with "pushed" when the registry has it all.
        self.heard: Callable[[str], None] = lambda _what: None
        self.closing = threading.Event()
        self._images: dict[str, str] = {}
        self._server = _EngineServer(self)
        self.host = f"tcp://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def build(self, tag: str, context: bytes) -> None:
        """Take what would be built for built."""
        with tarfile.open(fileobj=io.BytesIO(context)) as archive:
            file = archive.extractfile(".dokrun.Dockerfile")
            assert file is not None
            self.dockerfiles.append(file.read().decode())
        self._images[tag] = self.dockerfiles[-1]

    def push(self, repository: str, tag: str) -> str:
        """Put an image that was built into the registry; tells its digest, the same for the same Dockerfile."""
        configuration = json.dumps({"config": {"Env": [_PYTHON]}, "of": self._images[f"{repository}:{tag}"]}).encode()
        manifest = json.dumps({"config": {"digest": sha256(configuration)}}).encode()
        digest, name = sha256(manifest), repository.partition("/")[2]
        answer = Answer(body=manifest, headers={"Docker-Content-Digest": digest})
        self.registry.answers |= {
            f"/v2/{name}/manifests/{tag}": answer,
            f"/v2/{name}/manifests/{digest}": answer,
            f"/v2/{name}/blobs/{sha256(configuration)}": Answer(body=configuration),
        }
        return digest


class _EngineServer(Server):
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _EngineServer

    def do_GET(self) -> None:
        body = json.dumps({"ApiVersion": "1.43"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        engine = self.server.engine
        address = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        body = self._body()
        what = "build" if address.path.endswith("/build") else "push"
        repository = urllib.parse.unquote(address.path).partition("/images/")[2].removesuffix("/push")
        if what == "push":
            engine.pushes.append(f"{repository}:{query['tag']}")
        engine.heard(what)
        trouble = engine.troubles[what].pop(0) if engine.troubles[what] else ""
        if trouble:
            engine.happened.append(trouble)
        if trouble in ("silence", "reset"):
            self._break(trouble)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._say(_LINE)
        if trouble.startswith("refused "):
            self._say({"error": trouble.removeprefix("refused ")})
        elif trouble in ("", "lost"):
            self._do(what, query, repository, body, trouble)
        else:
            self._break(trouble)
            return
        self.wfile.write(b"0\r\n\r\n")

    def _do(self, what: str, query: dict[str, str], repository: str, body: bytes, trouble: str) -> None:
        engine = self.server.engine
        if what == "build":
            engine.build(query["t"], body)
            return
        digest = engine.push(repository, query["tag"])
        engine.heard("pushed")
        if trouble:
            self._break(trouble)
        else:
            self._say(engine.says or {"aux": {"Tag": query["tag"], "Digest": digest, "Size": 1}})

    def _say(self, message: object) -> None:
        line = json.dumps(message).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _break(self, trouble: str) -> None:
        self.close_connection = True
        if trouble == "reset":
            reset(self.connection)
        elif trouble == "cut":
            self.wfile.write(b'40\r\n{"status": "Pus')
        else:
            line = b'{"status": "again"}\n'
            dripped = b"%x\r\n%s\r\n" % (len(line), line) if trouble == "drip" else b""
            wait_until_gone(self.connection, self.server.engine.closing, dripped)

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        whole = b""
        while self.headers.get("Transfer-Encoding") == "chunked":
            size = int(self.rfile.readline(), 16)
            whole += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                break
        return whole

    def log_message(self, *_args: object) -> None:
        """Say nothing."""
