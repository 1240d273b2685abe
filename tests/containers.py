"""A real container engine and a real registry, where `.ci/containers` has started them."""

from __future__ import annotations

import os

import pytest

# Read once, before a test takes it out of its environment.
_HOST = os.environ.get("DOKRUN_HUB_MIRROR", "")
MISSING = "no container engine and no registry; `.ci/containers make test` starts them"


def registry() -> str:
    """Tell the registry's host and port; without one, skip the test, or fail it in CI."""
    if not _HOST or "DOCKER_HOST" not in os.environ:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return _HOST


def slim_image() -> str:
    """Tell the name of the image that has Debian's Python 3.11 and nothing else."""
    return f"{registry()}/library/python:3.11-slim"
