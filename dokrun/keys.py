"""The only place that makes object keys, task names and tags."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from typing import NamedTuple

# Everything of ours in a bucket lies below this; the number changes if what lies there ever does.
_ROOT = "dokrun/1"

OURS = "dokrun"
_JOB = "dokrun-job-"
_ID_DIGITS = 32
# Of a job's id, for people: a million jobs would have two alike with odds of one in six hundred.
_SHORT_DIGITS = 12


def new_id() -> str:
    """Make an id: 128 random bits as 32 hexadecimal digits. Calling twice on purpose makes two calls."""
    return secrets.token_hex(_ID_DIGITS // 2)


def blob(sha256: str) -> str:
    """Tell the key of an object that is named by its content."""
    return f"{_ROOT}/blobs/{sha256}"


def payload(job_id: str) -> str:
    """Tell the key of a job's payload, which every attempt shares."""
    return f"{_ROOT}/jobs/{job_id}/payload"


def addresses(job_id: str, attempt: int) -> str:
    """Tell the key of an attempt's table of addresses, where it is too long to ride along."""
    return f"{_ROOT}/jobs/{job_id}/{attempt}/addresses"


def claim(job_id: str, attempt: int) -> str:
    """Tell the key that whoever starts an attempt, or gives it up, must write first."""
    return f"{_ROOT}/claims/{job_id}/{attempt}"


def checkpoint(job_id: str, attempt: int, slot: int) -> str:
    """Tell the key of one of an attempt's checkpoints; they take turns, so that the last whole one stays."""
    return f"{_ROOT}/checkpoints/{job_id}/{attempt}/{slot}"


def call_id(job_id: str, number: int) -> str:
    """Tell the id of a job's call, so that whoever knows the job knows its calls."""
    return hashlib.sha256(f"{job_id}/{number}".encode()).hexdigest()[:_ID_DIGITS]


def task_name(function_name: str, job_id: str) -> str:
    """Tell the name of a job's task, for people: the function's name and the beginning of the job's id."""
    return f"{_readable(function_name)}-{job_id[:6]}"


def _readable(function_name: str) -> str:
    return (re.sub(r"[^A-Za-z0-9_.-]+", "-", function_name).strip("-") or "call")[:40]


def job_tag(job_id: str) -> str:
    """Tell the tag that finds the tasks of one job, every attempt and any late twin among them."""
    return f"{_JOB}{job_id}"


def job_of(tags: Iterable[str]) -> str | None:
    """Tell the job that a task's tags name, None where they name none."""
    found = (tag.removeprefix(_JOB) for tag in tags if tag.startswith(_JOB))
    return next((job_id for job_id in found if re.fullmatch(rf"[0-9a-f]{{{_ID_DIGITS}}}", job_id)), None)


def batch_tag(batch_id: str) -> str:
    """Tell the tag that finds, in one request, the tasks that a client watches together."""
    return f"dokrun-batch-{batch_id}"


class Handle(NamedTuple):
    """What a handle says: which job, and the beginning of the digest that its task's definition has."""

    name: str
    job_id: str
    digest: str

    def __str__(self) -> str:
        return f"{_readable(self.name)}-{self.job_id}.{self.digest[:_ID_DIGITS]}"

    @property
    def short(self) -> str:
        """The beginning that will do where the job is known: on this machine, and to the service."""
        return f"{_readable(self.name)}-{self.job_id[:_SHORT_DIGITS]}"


def read_handle(text: str) -> Handle | None:
    """Read a whole handle, or the beginning of one, as far as it goes: `train-7f3a`, `7f3a`, or all of it.

    Returns:
        None where the text cannot be the beginning of any. What it does not tell is empty.
    """
    found = _HANDLE.fullmatch(text.strip())
    return None if found is None else Handle(found["name"] or "", found["job"], found["digest"] or "")


def shortened(text: str) -> str:
    """Tell the beginning of a handle that will do on this machine, and for the service."""
    handle = read_handle(text)
    return text if handle is None else handle.short


_HANDLE = re.compile(
    rf"(?:(?P<name>[A-Za-z0-9_.-]{{1,40}})-)?(?P<job>[0-9a-f]{{4,{_ID_DIGITS}}})(?:\.(?P<digest>[0-9a-f]{{{_ID_DIGITS}}}))?"
)
