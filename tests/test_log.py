"""What `DOKRUN_LOG` shows, in processes of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

SCRIPT = """
import httpx, logging, sys
from dokrun.api import Client

logging.getLogger("another").warning("not ours")

def service(request):
    return httpx.Response(200, json={"id": "1", "meta": {}, "results": []})

transport = httpx.MockTransport(service)
with Client("canary-token", "canary-secret", base_url="https://dok.test/1.0", transport=transport) as client:
    client.tasks.list(tag="canary-tag")
logging.getLogger("dokrun.api").warning("a warning")
"""
LINE = r"^\S+ \S+ DEBUG dokrun\.api: GET /1\.0/tasks/ -> 200 in \d+ ms$"


def stderr_of(script: str, level: str | None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "DOKRUN_LOG"}
    if level is not None:
        environment["DOKRUN_LOG"] = level
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("level", ["debug", "DEBUG", " debug "])
def test_debug_shows_method_path_status_and_milliseconds(level: str) -> None:
    shown = stderr_of(SCRIPT, level)
    assert len(re.findall(LINE, shown, re.MULTILINE)) == 1
    assert "WARNING dokrun.api: a warning\n" in shown


def test_no_query_and_no_credentials_are_shown() -> None:
    assert "canary" not in stderr_of(SCRIPT, "debug")


@pytest.mark.parametrize("level", ["info", "warning"])
def test_the_other_levels_show_no_requests(level: str) -> None:
    shown = stderr_of(SCRIPT, level)
    assert "GET" not in shown
    assert "WARNING dokrun.api: a warning\n" in shown


@pytest.mark.parametrize("level", [None, ""])
def test_without_it_a_warning_bears_our_name_and_nothing_is_loaded_before_it_is_needed(level: str | None) -> None:
    assert stderr_of(SCRIPT, level) == "not ours\ndokrun: a warning\n"
    stderr_of("import dokrun, sys; assert 'dokrun.log' not in sys.modules", level)


def test_a_wrong_word_is_told_in_one_line_that_does_not_repeat_it_and_stops_nothing() -> None:
    shown = stderr_of("import dokrun", "debgu")
    assert shown == "dokrun: DOKRUN_LOG is not a level; did you mean 'debug'?\n"
    shown = stderr_of(SCRIPT, "canary")
    assert shown == "dokrun: DOKRUN_LOG is not a level; known are debug, info, warning\nnot ours\ndokrun: a warning\n"


def test_a_program_that_says_how_its_log_is_shown_has_it_so_and_once() -> None:
    root = "import logging\nlogging.basicConfig(format='here: %(message)s')"
    assert stderr_of(root + SCRIPT, None) == "here: not ours\nhere: a warning\n"
    silent = "import logging\nlogging.getLogger('dokrun').addHandler(logging.NullHandler())"
    assert stderr_of(silent + SCRIPT, None) == "not ours\n"
