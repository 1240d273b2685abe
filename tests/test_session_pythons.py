"""The container's side of a session on every Python that this machine has and images may have, from 3.9 on."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alone import Session
from sites import Site, site
from test_shim import Container

from dokrun.shim import protocol

__all__ = ["site"]

OLDEST, NEWEST = 9, 14


@functools.cache
def pythons() -> dict[str, str]:
    """Tell the interpreters that there are, one of each version: this one, those in the path, and pyenv's."""
    found = {".".join(map(str, sys.version_info[:2])): sys.executable}
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for minor in range(OLDEST, NEWEST + 1):
        name = f"3.{minor}"
        there = [shutil.which(f"python{name}"), *map(str, versions.glob(f"{name}.*/bin/python{name}"))]
        known = [python for python in there if python and runs(python)]
        if known:
            found.setdefault(name, known[0])
    return found


def runs(python: str) -> bool:
    """Tell whether it is one; what pyenv puts in the path may only say that it is not to be had."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


@pytest.fixture(params=pythons())
def session(request: pytest.FixtureRequest, tmp_path: Path, site: Site) -> Iterator[Session]:
    session = Session(pythons()[request.param], Container(tmp_path, site))
    yield session
    session.process.kill()
    session.process.communicate()


def test_a_session_takes_calls_tells_what_becomes_of_them_and_ends(session: Session) -> None:
    # What is pickled by its name is the same to all versions.
    assert session.call(pow, 2, 5)["kind"] == "value"
    assert session.call(json.loads, "no JSON")["kind"] == "exception"
    late = session.call(signal.pause, timeout_s=0.5)
    assert (late["reason"], late["ran"]) == (protocol.TIMEOUT, "yes")
    dead = session.call(os._exit, 3)
    assert (dead["reason"], dead["exit_code"]) == (protocol.EXITED, 3)
    assert session.call(print, "hello")["kind"] == "value"
    assert session.close() == 0
