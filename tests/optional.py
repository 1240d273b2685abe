"""Packages that a few tests need and the lock does not hold."""

from __future__ import annotations

import importlib.util
import os

import pytest


def require(package: str) -> None:
    """Skip the test where a package is not installed; in CI, fail it."""
    if importlib.util.find_spec(package) is not None:
        return
    told = f"{package} is not installed; `.venv/bin/python -m pip install {package}` brings it"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)
