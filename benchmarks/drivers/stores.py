"""An S3 server, and with `--dok` an emulator, in a process of their own, until standard input ends.

    python stores.py [--store seaweedfs] [--dok [--straight]]

Prints a line of JSON that tells where they are. Apart from the driver, whose memory and processor time are then its
own. With `--straight` the address of a task's http port is the container's own rather than the emulator's proxy.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.config

from dokrun.emulator import Emulator
from dokrun.emulator.local import REGION
from dokrun.emulator.objects import ObjectStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "dokrun-bench"
# Not secret: nobody but this machine can reach the store. Each server takes these, as no other's.
KEY = {"key": "bench", "secret_key": "bench-secret"}
WEED = Path(__file__).parents[2] / ".bench" / "seaweedfs" / "bin" / "weed"
_PATIENCE_S = 60.0
_HOPS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


def client(told: dict[str, str]) -> S3Client:
    """Make boto3's client of a store, for whoever puts bytes there by hand."""
    return boto3.client(
        "s3",
        endpoint_url=told["s3"],
        region_name=told["region"],
        aws_access_key_id=told["key"],
        aws_secret_access_key=told["secret_key"],
        config=botocore.config.Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


@contextmanager
def moto() -> Iterator[dict[str, str]]:
    """Start the store that dokrun's profile `local` has."""
    store = ObjectStore(BUCKET)
    try:
        yield {"s3": store.url, "bucket": BUCKET, "region": REGION, **KEY}
    finally:
        store.close()


@contextmanager
def seaweedfs() -> Iterator[dict[str, str]]:
    """Start SeaweedFS, on loopback alone."""
    if not WEED.exists():
        raise FileNotFoundError("SeaweedFS is not installed: make bench-peers does that")
    ports = dict(zip(("-master.port", "-volume.port", "-filer.port", "-s3.port"), _free_ports(4), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        keys = {"name": "bench", "credentials": [{"accessKey": KEY["key"], "secretKey": KEY["secret_key"]}]}
        config = Path(folder, "s3.json")
        config.write_text(json.dumps({"identities": [{**keys, "actions": ["Admin", "Read", "Write", "List"]}]}))
        command = [str(WEED), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
        command += [f"-s3.config={config}", "-master.telemetry=false", "-volume.max=100"]
        command += [f"{name}={port}" for name, port in ports.items()]
        nowhere = subprocess.DEVNULL
        server = subprocess.Popen(command, cwd=folder, stdin=nowhere, stdout=nowhere, stderr=nowhere)
        told = {"s3": f"http://127.0.0.1:{ports['-s3.port']}", "bucket": BUCKET, "region": REGION, **KEY}
        try:
            _make_bucket(told)
            yield told
        finally:
            server.kill()
            server.wait()


def _make_bucket(told: dict[str, str]) -> None:
    s3, deadline = client(told), time.monotonic() + _PATIENCE_S
    while True:
        try:
            s3.create_bucket(Bucket=BUCKET)
            s3.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
            s3.delete_object(Bucket=BUCKET, Key="ready")
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _free_ports(count: int) -> list[int]:
    # SeaweedFS listens at ten thousand more as well, for its own protocol.
    found: list[int] = []
    candidate = 20_000 + os.getpid() % 10_000
    while len(found) < count:
        candidate += 1
        if all(_is_free(port) for port in (candidate, candidate + 10_000)):
            found.append(candidate)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


class Relay(http.server.ThreadingHTTPServer):
    """DOK's API as the emulator answers it, but for the addresses of http ports: those of the containers themselves."""

    daemon_threads = True

    def __init__(self, dok: Emulator) -> None:
        self.upstream = urllib.parse.urlsplit(dok.api_url)
        super().__init__(("127.0.0.1", 0), _Passing)

    @property
    def api_url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_port}{self.upstream.path}"


class _Passing(http.server.BaseHTTPRequestHandler):
    server: Relay

    def do_GET(self) -> None:
        """Pass a request on, and its answer back."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        there = self.server.upstream
        connection = http.client.HTTPConnection(there.hostname or "", there.port, timeout=_PATIENCE_S)
        try:
            connection.request(self.command, self.path, body, _passing(self.headers.items(), "host"))
            response = connection.getresponse()
            answer = _straight(response.read())
        finally:
            connection.close()
        self.send_response_only(response.status)
        for name, value in _passing(response.getheaders()).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _passing(headers: object, *but: str) -> dict[str, str]:
    assert isinstance(headers, list)
    return {name: value for name, value in headers if name.lower() not in {*_HOPS, *but}}


def _straight(answer: bytes) -> bytes:
    try:
        told = json.loads(answer)
    except ValueError:
        return answer
    listed = told.get("results", [told]) if isinstance(told, dict) else []
    for task in listed:
        if isinstance(task, dict) and task.get("http_uri"):
            task["http_uri"] = f"http://127.0.0.1:{task['containers'][0]['http']['port']}/"
    return json.dumps(told).encode()


def main() -> None:
    """Start them, and wait."""
    parser = argparse.ArgumentParser(description="Serve S3, and DOK's API, until standard input ends.")
    parser.add_argument("--store", choices=("moto", "seaweedfs"), default="moto")
    parser.add_argument("--dok", action="store_true", help="an emulator, too")
    parser.add_argument("--straight", action="store_true", help="whose addresses lead to the containers themselves")
    asked = parser.parse_args()
    with ExitStack() as all_of_it:
        try:
            told = all_of_it.enter_context(seaweedfs() if asked.store == "seaweedfs" else moto())
        except FileNotFoundError as error:
            print(json.dumps({"unsupported": str(error)}), flush=True)
            return
        if asked.dok:
            dok = all_of_it.enter_context(Emulator())
            told |= {"api_url": dok.api_url, "token": dok.token, "secret": dok.secret}
            if asked.straight:
                relay = all_of_it.enter_context(Relay(dok))
                threading.Thread(target=relay.serve_forever, daemon=True).start()
                told["api_url"] = relay.api_url
        print(json.dumps(told), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
