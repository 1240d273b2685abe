"""The right to start: of all who hold the same attempt of a job, the store lets one write its claim.

A second task of the same attempt exists where the service took a request that it seemed to refuse, or took it twice.
The client itself takes the claim where it gives an attempt up: whoever has it has proved that nobody else started.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import json
import os
import time
from typing import Any, Callable, Dict, Optional

from . import web

ATTEMPTS = 6
FIRST_PAUSE_S = 0.5
TIMEOUT_S = 30.0
# A claim is a line of JSON.
LARGEST_BYTES = 64 << 10
TAKEN = 412
# 409: two wrote at the same moment, and the store asks to try again.
PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})


class ClaimLost(Exception):
    """Somebody else has started this attempt, or has given it up."""


class ClaimFailed(Exception):
    """Nobody can tell whether this attempt may start."""


def take(put: str, get: str, task_id: str, begun: int = 1, timeout_s: float = TIMEOUT_S) -> None:
    """Claim the attempt, at the two addresses that its claim can be written and read at.

    `begun` is the number up to which calls may have been begun once it is taken.

    Raises:
        ClaimLost: another has it.
        ClaimFailed: the store refused it for another reason, or gave no answer.
    """
    body = json.dumps({"task": task_id, "begun": begun, "nonce": os.urandom(16).hex()}).encode()
    # An answer that is lost on its way makes the next try find our own claim.
    status = _ask(put, body, timeout_s)
    if status != TAKEN:
        return
    holder = _read(get, timeout_s)
    if holder != body:
        raise ClaimLost(_shown(holder))


def _ask(put: str, body: bytes, timeout_s: float) -> int:
    fields = ("If-None-Match", "*"), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))
    try:
        _open(lambda: web.ask(put, timeout_s, method="PUT", fields=fields, body=body))
    except web.HttpError as error:
        if error.status != TAKEN:
            raise ClaimFailed(str(error)) from None
        return TAKEN
    return 200


def _read(get: str, timeout_s: float) -> bytes:
    try:
        return _open(lambda: web.ask(get, timeout_s))
    except web.HttpError as error:
        raise ClaimFailed(str(error)) from None


def _open(ask: Callable[[], web.Answer]) -> bytes:
    """Send a request, again where that may help. Raises HttpError, or ClaimFailed where no answer came."""
    pause_s, problem = FIRST_PAUSE_S, ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause_s)
            pause_s *= 2
        try:
            with ask() as answer:
                return bytes(answer.whole(LARGEST_BYTES))
        except web.HttpError as error:
            if error.status not in PASSING:
                raise
            problem = str(error)
        except OSError as error:
            problem = str(error) or type(error).__name__
    raise ClaimFailed(problem)


def _shown(holder: bytes) -> str:
    try:
        told: Dict[str, Any] = json.loads(holder)
        task: Optional[str] = told.get("task")
    except (ValueError, AttributeError, RecursionError):
        return "nobody can say whose it is"
    return f"task {task} has it" if task else "the client has given this attempt up"
