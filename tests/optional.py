"""Packages and programs that a few tests need and the lock does not hold."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest


def require(package: str) -> None:
    """Skip the test where a package is not installed; in CI, fail it."""
    if importlib.util.find_spec(package) is None:
        _miss(f"{package} is not installed; `.venv/bin/python -m pip install {package}` brings it")


def require_chromium() -> str:
    """Tell where Debian's Chromium is. Skip the test where it is not there; in CI, fail it."""
    found = shutil.which("chromium")
    if found is None:
        _miss("chromium is not installed; on Debian `apt-get install --no-install-recommends chromium` brings it")
    return str(found)


def _miss(told: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)
