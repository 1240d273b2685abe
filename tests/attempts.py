"""One attempt of a job in a bucket, and the containers that a service may make of it: real child processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storefaults import FaultyStore
from test_shim import payload

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket
from dokrun.payload import shim
from dokrun.shim import envelope, protocol

PATIENCE_S = 60


class Attempt:
    """A payload with one call for each function, put into the bucket; its addresses lead through the proxy."""

    def __init__(
        self, folder: Path, faulty: FaultyStore, *functions: Callable[..., Any], number: int = 1, **header: Any
    ) -> None:
        self.job_id = keys.new_id()
        self.number = number
        self.bucket = Bucket(faulty.settings)
        self._folder = folder
        self._pyz = folder / "shim.pyz"
        self._pyz.write_bytes(shim.build().data)
        data = payload(*functions, **{"job": self.job_id, "checkpoint_s": 0.05, **header})
        self.bucket.put(keys.payload(self.job_id), data)
        self.environment = {
            "PATH": os.environ["PATH"],
            protocol.JOB_ID: self.job_id,
            protocol.ATTEMPT: str(number),
            protocol.PAYLOAD_SHA256: hashlib.sha256(data).hexdigest(),
            protocol.PAYLOAD_SIZE: str(len(data)),
        }
        claim = keys.claim(self.job_id, number)
        self.addresses: dict[str, Any] = {
            "payload": self.bucket.address(keys.payload(self.job_id)),
            "claim": {"put": self.bucket.address_to_put(claim, once=True), "get": self.bucket.address(claim)},
        }

    @property
    def claim(self) -> Any:
        """Who has the claim, as it stands in the bucket."""
        held = self.bucket.read(keys.claim(self.job_id, self.number))
        return None if held is None else json.loads(held)

    def take_claim(self, body: bytes) -> None:
        assert self.bucket.claim(keys.claim(self.job_id, self.number), body) is None

    def save_checkpoints(self, former: str = "") -> None:
        slots = [keys.checkpoint(self.job_id, self.number, slot) for slot in range(2)]
        found = self.bucket.address(former) if former else ""
        self.addresses["checkpoint"] = {"put": [self.bucket.address_to_put(slot) for slot in slots], "get": found}

    def container(self, task_id: str = "task-1") -> Container:
        """Let the service start a container of the attempt."""
        return Container(self._folder / task_id, self._pyz, self.addresses, {**self.environment, "TASK": task_id})


class Container:
    """A supervisor that runs. `end` waits for it."""

    def __init__(self, folder: Path, pyz: Path, addresses: dict[str, Any], environment: dict[str, str]) -> None:
        self.artifact = folder / "artifact"
        self.artifact.mkdir(parents=True)
        self.output = ""
        told = {protocol.TASK_ID: environment["TASK"], protocol.ARTIFACT_DIR: str(self.artifact), "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, str(pyz), protocol.FETCHED, json.dumps(addresses)],
            env={**environment, **told},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> int:
        """Wait for its end. Tells its exit status."""
        self.output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    @property
    def manifest(self) -> Any:
        return json.loads((self.artifact / protocol.MANIFEST).read_bytes())

    @property
    def failure(self) -> Any:
        return self.manifest["failure"]

    def value(self, number: int = 0) -> Any:
        data = (self.artifact / self.manifest["calls"][number]["report"]["path"]).read_bytes()
        header, segments = envelope.unpack(data)
        assert header["kind"] == "value", header
        return envelope.load_value([segments[index].data for index in header["value"]])


def job_of(future: dok.Future[Any]) -> str:
    handle = keys.read_handle(future.handle)
    assert handle is not None
    return handle.job_id


def main_process(job_id: str) -> int:
    """Find the first process of a job's container: the one that leads its session."""
    wanted = f"{protocol.JOB_ID}={job_id}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes() and os.getsid(int(entry.name)) == int(entry.name):
                return int(entry.name)
    raise AssertionError("there is no such process")
