"""An S3-compatible object store in a thread of this process: moto's server, on a free loopback port."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterable
from functools import partial
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import ThreadedWSGIServer
from werkzeug.test import Client

from dokrun.emulator.ports import listen


class _Quiet(MotoRequestHandler):
    """Does not print a line for every request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


class _OneAtATime:
    """Lets conditional requests in one by one: moto looks first and writes afterwards, and both must be one step."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "HTTP_IF_NONE_MATCH" not in environ:
            return self._whole(environ, start_response)
        # Nobody shall wait for a client that sends slowly.
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with self._lock:
            return self._whole({**environ, "wsgi.input": io.BytesIO(body)}, start_response)

    def _whole(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


class ObjectStore:
    """A store with one bucket, which is gone when it is closed. It does not look at keys or signatures.

    Args:
        bucket: the name of the bucket that it begins with.
        listening: a socket that listens on 127.0.0.1 already, in place of a free port.
    """

    def __init__(self, bucket: str, listening: socket.socket | None = None) -> None:
        app = _OneAtATime(DomainDispatcherApplication(create_backend_app))
        self._socket = listening or listen()
        port = self._socket.getsockname()[1]
        self.url, self.bucket = f"http://127.0.0.1:{port}", bucket
        # Before anybody is answered: whoever has asked already finds the bucket.
        Client(app).put(f"/{bucket}", base_url=self.url)
        self._server = ThreadedWSGIServer("127.0.0.1", port, app, handler=_Quiet, fd=self._socket.fileno())
        # It looks this often whether it shall end, and whoever ends it waits for that.
        serve = partial(self._server.serve_forever, poll_interval=0.02)
        self._thread = threading.Thread(target=serve, name="dokrun-objects", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop to answer; what was stored is gone."""
        self._server.shutdown()
        self._server.server_close()
        self._socket.close()
        self._thread.join()
