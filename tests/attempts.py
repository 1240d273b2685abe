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

from storefaults import FaultyStore, StoreFault
from test_shim import payload
from told import Told

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket
from dokrun.payload import pyz
from dokrun.shim import protocol

PATIENCE_S = 60


class Attempt:
    """A payload, put into the bucket; its addresses lead through the proxy.

    It has one call for each function, or is what `data` makes of some of its header.
    """

    def __init__(
        self,
        folder: Path,
        faulty: FaultyStore,
        *functions: Callable[..., Any],
        number: int = 1,
        data: Callable[[dict[str, Any]], bytes] | None = None,
        **header: Any,
    ) -> None:
        self.job_id = keys.new_id()
        self.number = number
        self.bucket = Bucket(faulty.settings)
        self._folder = folder
        self._pyz = folder / "shim.pyz"
        self._pyz.write_bytes(pyz.build(with_code=True).data)
        told = {"job": self.job_id, "checkpoint_s": 0.05, **header}
        sent = payload(*functions, **told) if data is None else data(told)
        self.bucket.put(keys.payload(self.job_id), sent)
        self.environment = {
            "PATH": os.environ["PATH"],
            protocol.JOB_ID: self.job_id,
            protocol.ATTEMPT: str(number),
            protocol.PAYLOAD_SHA256: hashlib.sha256(sent).hexdigest(),
            protocol.PAYLOAD_SIZE: str(len(sent)),
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

    def say_how_far(self) -> None:
        """Let its containers write down how far they have come with their calls."""
        self.addresses["begun"] = self.bucket.address_to_put(keys.begun(self.job_id, self.number))

    def take_results(self, slots: int) -> None:
        """Let its containers send results ahead of the artifact, to so many places."""
        places = [keys.results(self.job_id, self.number, slot) for slot in range(slots)]
        self.addresses["results"] = [self.bucket.address_to_put(place) for place in places]

    def container(self, task_id: str = "task-1") -> Container:
        """Let the service start a container of the attempt."""
        return Container(self._folder / task_id, self._pyz, self.addresses, {**self.environment, "TASK": task_id})


class Container(Told):
    """A supervisor that runs. `end` waits for it."""

    def __init__(self, folder: Path, pyz: Path, addresses: dict[str, Any], environment: dict[str, str]) -> None:
        super().__init__(folder / "artifact")
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
    def failure(self) -> Any:
        return self.manifest["failure"]


def held_at_its_last_checkpoint(folder: Path, faulty: FaultyStore, **environment: str) -> Container:
    """Let a container come so far that its call has raised, and what it saved is about to reach the bucket."""

    def save_and_raise() -> None:
        (dok.checkpoint_dir() / "epoch").write_text("1")
        raise OSError("on purpose")

    attempt = Attempt(folder, faulty, save_and_raise, checkpoint_s=600.0)
    attempt.save_checkpoints()
    attempt.environment.update(environment)
    faulty.add(StoreFault("hold", "PUT", "*/checkpoints/*"))
    container = attempt.container()
    faulty.wait_for("hold")
    return container


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
